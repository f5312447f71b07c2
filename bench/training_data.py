"""What the training benchmarks train on, as files that smorm reads and as TRL's rows.

- `hh`: multi-turn pairs, each over a prompt of its own (HH harmless-base).
- `many`: UltraFeedback's shape: 4 answers a prompt and all 6 pairs of them (answers of
  arena-bench v1). Who wins is drawn: labels do not change the speed.
- `joint`: the same pairs as `hh`, and ratings of single responses (HANNA: stories of about 330
  tokens with 6 attributes, near HelpSteer2's length and number).

Without the data folder all are generated with the same lengths, and their `origin` says so."""

from __future__ import annotations

import gzip
import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from bench.texts import DATA, arena_answers, hh_pairs, texts_of, write_preferences, write_rows
from smorm.data.records import Preference
from smorm.text.tokenizers import train_bpe
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
        """The record of a pair that smorm read, by its line in the file."""
        # smorm drops what is over its token limit: positions do not agree, lines do
        line = int(prepared.train.pairs[pair].where.rpartition(":")[2])
        return self.records[line - 1]


def hh_set(data: Path | None, folder: Path, limit: int | None = None) -> TrainingSet:
    """Multi-turn pairs."""
    source = hh_pairs(data)
    records = source.records[:limit]
    path = write_preferences(records, folder / "hh.jsonl")
    return TrainingSet(records, path, None, source.origin)


def many_set(data: Path | None, folder: Path, limit: int | None = None) -> TrainingSet:
    """All pairs of four answers, drawn by a seed, to every prompt that has so many."""
    source, rng = arena_answers(data), np.random.default_rng(0)
    records: list[Preference] = []
    for candidates in source.records:
        # Two models may give the same answer; a pair of equal answers is none.
        distinct = list(dict.fromkeys(candidates.responses))
        if len(distinct) < ANSWERS:
            continue
        drawn = [distinct[index] for index in rng.permutation(len(distinct))[:ANSWERS]]
        for chosen, rejected in itertools.combinations(drawn, 2):
            records.append(Preference(candidates.prompt, chosen, rejected))
    records = records[:limit]
    path = write_preferences(records, folder / "many.jsonl")
    return TrainingSet(records, path, None, source.origin)


def joint_set(data: Path | None, folder: Path, limit: int | None = None) -> TrainingSet:
    """Pairs of `hh_set`, and rated responses."""
    pairs, rated = hh_set(data, folder, limit), folder / "rated.jsonl"
    file = (data or DATA) / "hanna_human" / "train.jsonl.gz"
    if file.is_file():
        rated.write_bytes(gzip.decompress(file.read_bytes()))
        return replace(pairs, rated=rated, origin=f"{pairs.origin}; HANNA (hanna_human)")
    write_rows(itertools.islice(_stories(), limit), rated)
    origin = f"{pairs.origin}; generated ratings, with the lengths of HANNA"
    return replace(pairs, rated=rated, origin=origin)


def _stories() -> Iterator[dict[str, Any]]:
    """Rated responses of HANNA's lengths, in the words of the generated answers."""
    rng = np.random.default_rng(2)
    # Words that the tokenizer has been trained on: others would become many tokens.
    words = " ".join(texts_of(arena_answers(Path("/nowhere")).records[:40])).split()
    for number in range(800):
        prompt, story = rng.integers(0, len(words) // 2, 2)
        size = int(np.clip(rng.lognormal(*_STORY), 20, 650))
        yield {
            "prompt": f"Write story {number}: " + " ".join(words[prompt : prompt + 24]),
            "response": " ".join(words[story : story + size]),
            "scores": {f"attribute {k}": float(rng.integers(1, 6)) for k in range(6)},
        }


def write_tokenizer(sets: list[TrainingSet], vocabulary: int, folder: Path) -> Path:
    """One BPE tokenizer for all sets, trained on their texts; returns its folder."""
    # `hh` and `joint` share their records: each text counts once
    distinct: dict[int, Preference] = {}
    for data in sets:
        distinct.update(zip(map(id, data.records), data.records, strict=True))
    path = folder / "tokenizer"
    train_bpe(texts_of(distinct.values()), vocabulary).save_pretrained(path)
    return path
