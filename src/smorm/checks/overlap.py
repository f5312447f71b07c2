"""Which items of benchmarks have text in common with the data: runs of 13 words.

The rule is that of GPT-3's contamination study (Brown et al., 2020, appendix C), without its
removal of runs that are in many documents: a boilerplate instruction that data and benchmark
share counts as an overlap. A text of 5 to 12 words must stand whole in the data, as a text of its
own; a shorter one never counts. Runs are compared by 64-bit hashes: a billion runs of data against
a million of a benchmark give a false hit with a probability of 5e-5.

Shapes: G runs of all benchmarks, U distinct ones, I items."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from smorm.arrays import Bools, Ints
from smorm.checks.findings import FINE, LOOK, MUST_FIX, Finding, FindingKind, Thresholds
from smorm.checks.shingles import Hashes, grams, words_of
from smorm.checks.table import Table, responses_of
from smorm.data.records import Record, text_of

_NEVER = np.iinfo(np.int64).max
_BATCH = 512
PROMPT, RESPONSE = 0, 1


@dataclass(slots=True)
class Benchmarks:
    """The runs of words of named benchmarks, and which of them are in the data."""

    names: list[str]  # of the benchmarks, and `sizes` their numbers of items
    sizes: list[int]
    hashes: Hashes  # distinct runs [U], sorted
    # runs, items, sides: of each run of an item its index in `hashes`, the item (counted over all
    # benchmarks) and whether it is of a prompt or a response, [G] each
    runs: Ints
    items: Ints
    sides: NDArray[np.int8]
    met: Ints  # the first record that holds a run [U], or a number above all records
    unlabelled: Bools  # whether a record without labels, to be scored by a teacher, holds a run [U]
    _filter: Bools = field(init=False, repr=False)

    def __post_init__(self) -> None:
        # Most runs of the data are in no benchmark: one lookup in a table of flags excludes them.
        self._filter = np.zeros(1 << max(16, min(27, len(self.hashes).bit_length() + 3)), bool)
        self._filter[self._slots(self.hashes)] = True

    def _slots(self, hashes: Hashes) -> Hashes:
        return hashes & np.uint64(len(self._filter) - 1)

    def meet(self, hashes: Hashes, rows: Ints, unlabelled: Bools) -> None:
        """Note which runs of the data, held by records `rows`, are in a benchmark, [G] each."""
        # The filter has false positives; the sorted hashes decide.
        maybe = self._filter[self._slots(hashes)]
        hashes, rows, unlabelled = hashes[maybe], rows[maybe], unlabelled[maybe]
        nearest = np.minimum(np.searchsorted(self.hashes, hashes), len(self.hashes) - 1)
        same = self.hashes[nearest] == hashes
        np.minimum.at(self.met, nearest[same], rows[same])
        self.unlabelled[nearest[same & unlabelled]] = True

    def selections(self) -> Iterator[tuple[str, int, Bools]]:
        """Each benchmark's name, number of items and which runs are its own [G]."""
        first = 0
        for name, size in zip(self.names, self.sizes, strict=True):
            yield name, size, (self.items >= first) & (self.items < first + size)
            first += size


def read_benchmarks(named: Sequence[tuple[str, Iterable[Record]]]) -> Benchmarks:
    """The runs of all items of benchmarks, given as names with records."""
    # Empty first arrays: concatenation needs one, and a benchmark may have no run at all.
    gathered = [(np.zeros(0, np.uint64), np.zeros(0, np.int64), np.zeros(0, np.int8))]
    sizes: list[int] = []
    for _, records in named:
        size, source = 0, iter(records)
        while batch := list(islice(source, _BATCH)):
            for side, texts, owners in _sides(batch):
                hashes, text_indices = grams(words_of(texts))
                # Items are numbered over all benchmarks, so that one array holds all runs.
                items = sum(sizes) + size + np.asarray(owners, dtype=np.int64)[text_indices]
                gathered.append((hashes, items, np.full(len(items), side, dtype=np.int8)))
            size += len(batch)
        sizes.append(size)
    hashes, items, sides = map(np.concatenate, zip(*gathered, strict=True))
    distinct, runs = np.unique(hashes, return_inverse=True)
    names = [name for name, _ in named]
    met = np.full(len(distinct), _NEVER)
    unlabelled = np.zeros(len(distinct), bool)
    return Benchmarks(names, sizes, distinct, runs, items, sides, met, unlabelled)


def _sides(batch: Sequence[Record]) -> Iterator[tuple[int, list[str], list[int]]]:
    """Texts of a batch's prompts and then of its responses, with the item of each."""
    yield PROMPT, [text_of(record.prompt) for record in batch], list(range(len(batch)))
    texts, owners = [], []
    for item, record in enumerate(batch):
        for response in responses_of(record):
            texts.append(text_of(response))
            owners.append(item)
    yield RESPONSE, texts, owners


def overlap_table(benchmarks: Benchmarks) -> dict[str, dict[str, int]]:
    """Of each benchmark: its items, and those whose prompt, response or either is in the data."""
    hit = benchmarks.met[benchmarks.runs] != _NEVER
    table = {}
    for name, size, selected in benchmarks.selections():
        items, sides = benchmarks.items[hit & selected], benchmarks.sides[hit & selected]
        table[name] = {
            "items": size,
            "prompts": len(np.unique(items[sides == PROMPT])),
            "responses": len(np.unique(items[sides == RESPONSE])),
            "either": len(np.unique(items)),
        }
    return table


def overlap_findings(benchmarks: Benchmarks, table: Table, limits: Thresholds) -> Iterator[Finding]:
    """One finding a benchmark; the locations are those of records in the data."""
    counts_by_name = overlap_table(benchmarks)
    for name, size, selected in benchmarks.selections():
        counts = counts_by_name[name]
        # Prompts decide: shared responses are mostly stock phrases ("I'm sorry, but as an AI ...").
        case, severity = "none", FINE
        # A student learns what its teacher says of them: one is too many.
        unlabelled = (
            selected & (benchmarks.sides == PROMPT) & benchmarks.unlabelled[benchmarks.runs]
        )
        num_unlabelled = len(np.unique(benchmarks.items[unlabelled]))
        if num_unlabelled:
            case, severity = "unlabelled", MUST_FIX
        elif counts["prompts"] > limits.overlap * size:
            case, severity = "prompts", MUST_FIX
        elif counts["either"]:
            case, severity = "responses", LOOK
        # The records of the data are what must be removed, so these are named.
        rows = benchmarks.met[benchmarks.runs[selected]]
        numbers = {"benchmark": name, **counts, "unlabelled": num_unlabelled}
        locations = table.locations(rows[rows != _NEVER])
        kind, count = FindingKind.BENCHMARK_OVERLAP, counts["either"]
        yield Finding(kind, severity, count, size, numbers, case, locations)
