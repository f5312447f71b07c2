"""The texts that benchmarks run on: real ones where the data folder is there, else generated ones.

Generated texts have the lengths of the real ones (log-normal, fitted in tokens) and words drawn
with Zipf's frequencies; what is measured depends on lengths and on what begins alike, not on sense.
"""

from __future__ import annotations

import functools
import gzip
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np

from smorm.data.records import Candidates, Messages, Preference
from smorm.text.chat import Message

T = TypeVar("T")
DATA = Path(os.environ.get("SMORM_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))

# Fitted on the real sets, in tokens of a 16k BPE: mean and deviation of log(length); the deviations
# are a little smaller than the fit, because the real tails are lighter than log-normal ones.
_HH_PROMPT, _HH_RESPONSE = (4.15, 0.92), (3.42, 0.82)
_ARENA_PROMPT, _ARENA_RESPONSE = (4.22, 0.89), (6.15, 0.60)
_HH_TURNS = (1, 3, 3, 5, 7)
_VOCABULARY = 2000


@dataclass(frozen=True, slots=True)
class Source(Generic[T]):
    """Records in their set's order, and where they come from (for the output)."""

    records: list[T]
    origin: str


def hh_pairs(folder: Path | None = None) -> Source[Preference]:
    """Multi-turn pairs over one prompt each: the HH harmless-base test set (its training part)."""
    file = (folder or DATA) / "hh_harmless_test" / "train.jsonl.gz"
    if not file.is_file():
        pairs = list(_generated_pairs(1800))
        return Source(pairs, "generated, with the lengths of HH harmless-base")
    pairs = []
    for row in _rows(file):
        prompt = tuple(Message(turn["role"], turn["content"]) for turn in row["prompt_messages"])
        pairs.append(Preference(prompt, answer(row["chosen"]), answer(row["rejected"])))
    return Source(pairs, "HH harmless-base (hh_harmless_test)")


def arena_answers(folder: Path | None = None) -> Source[Candidates]:
    """All answers of several models to each prompt (about 14), long: arena-bench v1."""
    file = (folder or DATA) / "arena_bench_v1" / "train_scores.jsonl.gz"
    if not file.is_file():
        records = list(_generated_answers(220))
        return Source(records, "generated, with the lengths of arena-bench v1")
    answers: dict[str, list[Messages]] = {}
    for row in _rows(file):
        answers.setdefault(row["prompt"], []).append(answer(row["response"]))
    records = [Candidates(question(text), tuple(sides)) for text, sides in answers.items()]
    return Source(records, "arena-bench v1 (arena_bench_v1)")


def question(text: str) -> Messages:
    """A one-turn prompt."""
    return (Message("user", text),)


def answer(text: str) -> Messages:
    """A one-message response."""
    return (Message("assistant", text),)


def styles(text: str, budget: int, tokens: Callable[[str], int]) -> tuple[str, str, str] | None:
    """One answer in RM-Bench's three styles, which begin alike: concise, plain and markdown.

    From the answer's first sentences, about ``budget`` tokens; None where it has fewer. Plain: the
    sentences in one paragraph. Markdown: the first sentence, then a list with bold openings.
    Concise: the first sentence and every third one after it."""
    sentences = _sentences(text, budget, tokens)
    if not sentences:
        return None
    first, *rest = sentences
    markdown = "\n".join([f"{first}\n", *map(_bold, rest)])
    return " ".join([first, *rest[1::3]]), " ".join(sentences), markdown


def texts_of(records: Iterable[Preference | Candidates]) -> Iterator[str]:
    """Every message's text, to train a tokenizer on."""
    for record in records:
        if isinstance(record, Preference):
            messages = record.prompt + record.chosen + record.rejected
        else:
            messages = sum(record.responses, record.prompt)
        for message in messages:
            yield message.content


def preference_row(record: Preference) -> dict[str, Any]:
    """A conversational preference as TRL documents it: message lists, an explicit prompt."""
    row = {}
    for name in ("prompt", "chosen", "rejected"):
        row[name] = [asdict(message) for message in getattr(record, name)]
    return row


def write_preferences(records: Iterable[Preference], path: Path) -> Path:
    """A file that `smorm train` and TRL both read, one JSON object a line; returns its path."""
    write_rows(map(preference_row, records), path)
    return path


def write_rows(rows: Iterable[dict[str, Any]], path: Path) -> None:
    """JSON lines."""
    with path.open("w", encoding="utf-8") as stream:
        for row in rows:
            stream.write(json.dumps(row) + "\n")


def _rows(file: Path) -> Iterator[dict[str, Any]]:
    with gzip.open(file, "rt", encoding="utf-8") as lines:
        for line in lines:
            yield json.loads(line)


def _sentences(text: str, budget: int, tokens: Callable[[str], int]) -> list[str]:
    """Sentences without markdown marks until the budget is filled, or none where it cannot be.

    What is longer than 60 tokens is no sentence (a table, a listing) and is left out."""
    # Code and markup go first: their newlines and colons are no ends of sentences.
    plain = re.sub(r"```.*?```|[*#`|>]+", " ", text, flags=re.DOTALL)
    sentences: list[str] = []
    for sentence in re.split(r"(?<=[.!?:;])\s+|\n+", plain):
        clean = " ".join(re.sub(r"^(\s*[-•]|\s*\d+[.)])\s*", "", sentence).split())
        size = tokens(clean)
        # an answer of one long listing has no styles
        if not 0 < size <= 60:
            continue
        sentences.append(clean)
        budget -= size
        if budget <= 0:
            return sentences
    return []


def _bold(sentence: str) -> str:
    opening, _, remainder = sentence.partition(" ")
    return f"- **{opening}** {remainder}".rstrip()


class _Writer:
    """Seeded words with Zipf's frequencies; a word is about one token of the trained tokenizer."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        letters = self.rng.integers(97, 123, (_VOCABULARY, 9))
        sizes = self.rng.integers(2, 10, _VOCABULARY)
        self.words = []
        for row, size in zip(letters, sizes, strict=True):
            self.words.append(bytes(row[:size].tolist()).decode())
        weights = 1.0 / np.arange(1, _VOCABULARY + 1)
        self.weights = weights / weights.sum()

    def length(self, fit: tuple[float, float], most: int) -> int:
        return int(np.clip(self.rng.lognormal(*fit), 2, most))

    def text(self, count: int) -> str:
        drawn = self.rng.choice(_VOCABULARY, count, p=self.weights)
        words = [self.words[index] for index in drawn]
        # A sentence ends after every 18th word: RM-Bench's styles are made of sentences.
        for last in range(17, count, 18):
            words[last] += "."
        return " ".join(words)


# The order of draws decides the texts: it must not change, or figures of before do not compare.
@functools.cache
def _generated_pairs(count: int) -> list[Preference]:
    writer, pairs = _Writer(0), []
    for _ in range(count):
        turns = int(writer.rng.choice(_HH_TURNS))
        size = max(2, writer.length(_HH_PROMPT, 750) // turns)
        prompt: Messages = ()
        for turn in range(turns):
            prompt += (Message(("user", "assistant")[turn % 2], writer.text(size)),)
        chosen = answer(writer.text(writer.length(_HH_RESPONSE, 500)))
        rejected = answer(writer.text(writer.length(_HH_RESPONSE, 500)))
        pairs.append(Preference(prompt, chosen, rejected))
    return pairs


@functools.cache
def _generated_answers(count: int) -> list[Candidates]:
    writer, records = _Writer(1), []
    for _ in range(count):
        prompt = question(writer.text(writer.length(_ARENA_PROMPT, 770)))
        texts = [writer.text(writer.length(_ARENA_RESPONSE, 1500)) for _ in range(14)]
        records.append(Candidates(prompt, tuple(map(answer, texts))))
    return records
