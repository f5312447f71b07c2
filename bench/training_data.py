"""What the training benchmarks train on, as files that smorm reads and as TRL's rows.

- `hh`: multi-turn pairs, each over a prompt of its own (HH harmless-base).
- `many`: UltraFeedback's shape: 4 answers a prompt and all 6 pairs of them (answers of
  arena-bench v1). Who wins is drawn: labels play no part in speed.
- `joint`: the same pairs as `hh`, and ratings of single responses (HANNA: stories of about 330
  tokens with 6 attributes, near HelpSteer2's length and number).

Without the data folder all are generated with the same lengths, and their `origin` says so.
"""

from __future__ import annotations

import gzip
import itertools
import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from bench.texts import DATA, arena_answers, hh_pairs, texts_of
from smorm.data.records import Candidates, Preference
from smorm.text.bpe import train_bpe
from smorm.training.setup import Prepared

ANSWERS = 4
_STORY = (5.75, 0.35)  # mean and deviation of log(words) of the generated rated responses


@dataclass(frozen=True, slots=True)
class TrainingSet:
    """Records, the files that hold them, and where they come from."""

    records: list[Preference]
    pairs: Path
    rated: Path | None
    origin: str

    def record(self, prepared: Prepared, pair: int) -> Preference:
        """The record of a pair that smorm kept, by its line in the file."""
        line = int(prepared.train.pairs[pair].where.rpartition(":")[2])
        return self.records[line - 1]


def hh_set(data: Path | None, folder: Path, limit: int | None = None) -> TrainingSet:
    """Multi-turn pairs."""
    source = hh_pairs(data)
    records = source.records[:limit]
    return TrainingSet(records, _write(records, folder / "hh.jsonl"), None, source.origin)


def many_set(data: Path | None, folder: Path, limit: int | None = None) -> TrainingSet:
    """All pairs of four answers, drawn by a seed, to every prompt that has so many."""
    source, rng = arena_answers(data), np.random.default_rng(0)
    records: list[Preference] = []
    for one in source.records:
        distinct = list(dict.fromkeys(one.responses))
        if len(distinct) >= ANSWERS:
            records += _pairs(one, [distinct[i] for i in rng.permutation(len(distinct))[:ANSWERS]])
    records = records[:limit]
    return TrainingSet(records, _write(records, folder / "many.jsonl"), None, source.origin)


def _pairs(one: Candidates, answers: list[Any]) -> list[Preference]:
    return [Preference(one.prompt, a, b) for a, b in itertools.combinations(answers, 2)]


def joint_set(data: Path | None, folder: Path, limit: int | None = None) -> TrainingSet:
    """Pairs of `hh_set`, and rated responses."""
    pairs, rated = hh_set(data, folder, limit), folder / "rated.jsonl"
    file = (data or DATA) / "hanna_human" / "train.jsonl.gz"
    if file.is_file():
        rated.write_bytes(gzip.decompress(file.read_bytes()))
        origin = f"{pairs.origin}; HANNA (hanna_human)"
    else:
        rated.write_text("".join(json.dumps(row) + "\n" for row in _stories()), encoding="utf-8")
        origin = f"{pairs.origin}; generated ratings, with the lengths of HANNA"
    return replace(pairs, rated=rated, origin=origin)


def _stories() -> list[dict[str, Any]]:
    """Rated responses of HANNA's lengths, in the words of the generated answers."""
    rng = np.random.default_rng(2)
    words = " ".join(texts_of(arena_answers(Path("/nowhere")).records[:40])).split()
    rows = []
    for number in range(800):
        first = rng.integers(0, len(words) // 2, 2)
        size = int(np.clip(rng.lognormal(*_STORY), 20, 650))
        rows.append(
            {
                "prompt": f"Write story {number}: " + " ".join(words[first[0] : first[0] + 24]),
                "response": " ".join(words[first[1] : first[1] + size]),
                "scores": {f"attribute {k}": float(rng.integers(1, 6)) for k in range(6)},
            }
        )
    return rows


def write_tokenizer(sets: list[TrainingSet], vocabulary: int, folder: Path) -> Path:
    """One BPE tokenizer for all sets, trained on their texts; returns its folder."""
    distinct = {id(record): record for one in sets for record in one.records}
    path = folder / "tokenizer"
    train_bpe(texts_of(list(distinct.values())), vocabulary).save_pretrained(path)
    return path


def _write(records: list[Preference], path: Path) -> Path:
    """TRL's explicit-prompt conversational rows, one JSON object a line."""
    rows = (
        {
            name: [asdict(message) for message in getattr(record, name)]
            for name in ("prompt", "chosen", "rejected")
        }
        for record in records
    )
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path
