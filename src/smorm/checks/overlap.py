"""Which items of benchmarks have text in common with the data: runs of 13 words.

The rule is that of GPT-3's contamination study (Brown et al., 2020, appendix C), without its
removal of runs that are in many documents: a boilerplate instruction that data and benchmark
share is told as an overlap. A text of 5 to 12 words must stand whole in the data, as a text of its
own; a shorter one is never told. Runs are compared by 64-bit hashes: a billion runs of data against
a million of a benchmark give a false hit with a chance of 5e-5.

Shapes: G runs of all benchmarks, U distinct ones, I items.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from smorm.checks.columns import Table, responses_of
from smorm.checks.findings import Finding, Thresholds, among
from smorm.checks.shingles import Hashes, Ints, grams, words_of
from smorm.data.records import Messages, Record

_NEVER = np.iinfo(np.int64).max
_BATCH = 512
PROMPT, RESPONSE = 0, 1


def text_of(messages: Messages) -> str:
    """The texts of a conversation's part, one after the other."""
    return "\n".join(message.content for message in messages)


@dataclass(slots=True)
class Benchmarks:
    """The runs of words of named benchmarks, and which of them were met in the data.

    Attributes:
        names: of the benchmarks, and `sizes` their numbers of items.
        hashes: distinct runs [U], sorted.
        runs, items, sides: of each run of an item, its place in `hashes`, the item (counted over
            all benchmarks) and whether it is of a prompt or a response, [G] each.
        met: the first record that holds a run [U], or a number above all records.
    """

    names: list[str]
    sizes: list[int]
    hashes: Hashes
    runs: Ints
    items: Ints
    sides: NDArray[np.int8]
    met: Ints
    _filter: NDArray[np.bool_] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        # Most runs of the data are in no benchmark: one look into a table of flags says so.
        self._filter = np.zeros(1 << max(16, min(27, len(self.hashes).bit_length() + 3)), bool)
        self._filter[self._slots(self.hashes)] = True

    def _slots(self, hashes: Hashes) -> Hashes:
        return hashes & np.uint64(len(self._filter) - 1)

    def meet(self, hashes: Hashes, rows: Ints) -> None:
        """Runs of the data and the records that hold them."""
        maybe = self._filter[self._slots(hashes)]
        hashes, rows = hashes[maybe], rows[maybe]
        if not len(hashes):
            return
        at = np.minimum(np.searchsorted(self.hashes, hashes), len(self.hashes) - 1)
        same = self.hashes[at] == hashes
        np.minimum.at(self.met, at[same], rows[same])


def read_benchmarks(named: Sequence[tuple[str, Iterable[Record]]]) -> Benchmarks:
    """The runs of all items of benchmarks, given as names with records."""
    found: list[tuple[Hashes, Ints, NDArray[np.int8]]] = []
    sizes: list[int] = []
    for _, records in named:
        size = 0
        for batch in _batches(records):
            for side, texts, owners in _sides(batch):
                hashes, at = grams(words_of(texts))
                items = sum(sizes) + size + np.asarray(owners, dtype=np.int64)[at]
                found.append((hashes, items, np.full(len(items), side, dtype=np.int8)))
            size += len(batch)
        sizes.append(size)
    none = (np.zeros(0, np.uint64), np.zeros(0, np.int64), np.zeros(0, np.int8))
    hashes, items, sides = (np.concatenate(parts) for parts in zip(none, *found, strict=True))
    distinct, runs = np.unique(hashes, return_inverse=True)
    met = np.full(len(distinct), _NEVER)
    return Benchmarks([name for name, _ in named], sizes, distinct, runs, items, sides, met)


def _batches(records: Iterable[Record]) -> Iterator[list[Record]]:
    source = iter(records)
    while batch := list(islice(source, _BATCH)):
        yield batch


def _sides(batch: Sequence[Record]) -> Iterator[tuple[int, list[str], list[int]]]:
    """Texts of a batch's prompts and then of its responses, with the item of each."""
    yield PROMPT, [text_of(record.prompt) for record in batch], list(range(len(batch)))
    pairs = [(text_of(one), at) for at, r in enumerate(batch) for one in responses_of(r)]
    yield RESPONSE, [text for text, _ in pairs], [at for _, at in pairs]


def overlap_table(benchmarks: Benchmarks) -> dict[str, dict[str, int]]:
    """Of each benchmark: its items, and those whose prompt, response or either is in the data."""
    hit = benchmarks.met[benchmarks.runs] != _NEVER
    table, first = {}, 0
    for name, size in zip(benchmarks.names, benchmarks.sizes, strict=True):
        own = hit & (benchmarks.items >= first) & (benchmarks.items < first + size)
        table[name] = {
            "items": size,
            "prompts": _items(benchmarks, own & (benchmarks.sides == PROMPT)),
            "responses": _items(benchmarks, own & (benchmarks.sides == RESPONSE)),
            "either": _items(benchmarks, own),
        }
        first += size
    return table


def _items(benchmarks: Benchmarks, hits: NDArray[np.bool_]) -> int:
    return len(np.unique(benchmarks.items[hits]))


def overlap_findings(benchmarks: Benchmarks, table: Table, limits: Thresholds) -> list[Finding]:
    """One finding a benchmark; the places are those of records in the data.

    Shared prompts are what must be fixed. Responses share stock phrases ("I'm sorry, but as an AI
    language model I cannot ..."), so that theirs are only to be looked at.
    """
    findings, first = [], 0
    for name, counts in overlap_table(benchmarks).items():
        size, either = counts["items"], counts["either"]
        own = (benchmarks.items >= first) & (benchmarks.items < first + size)
        rows = benchmarks.met[benchmarks.runs[own]]
        first += size
        seen = counts["prompts"] > limits.overlap * size
        findings.append(
            Finding(
                "benchmark_overlap",
                "must fix" if seen else "look" if either else "fine",
                either,
                _meaning(name, counts, seen),
                places=table.places(rows[rows != _NEVER]),
                **among(either, size, "items"),
            )
        )
    return findings


def _meaning(name: str, counts: dict[str, int], seen: bool) -> str:
    if not counts["either"]:
        return f"{name}: no item shares 13 words in a row with the data"
    advice = (
        "take those records out, or do not report this benchmark"
        if seen
        else "see whether it is more than a stock phrase"
    )
    return (
        f"{name}: the prompts of {counts['prompts']} items and responses of {counts['responses']} "
        f"share 13 words in a row with the data: {advice}"
    )
