"""An input in chunks of rows, the unit of scoring: a forward pass never holds rows of two chunks.

A chunk has its bits whoever scores it and in whatever order, so that parts of a file (`shards`) and
actors on other machines (`ray_actors`) together give the file of one process."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from smorm.data.census import BadRecord, Census
from smorm.data.mapping import value_at
from smorm.data.reading import Source, read_each
from smorm.data.records import Candidates, Item, Record, joined_item
from smorm.rewards.partial import Entry
from smorm.rewards.protocol import Reward
from smorm.scoring.scorer import Scored
from smorm.text.limits import LEFT_OUT, Unscored, UnscoredReason

# Rows that are scored, and written, at a time: responses to one prompt should stand near each
# other, and no more than these are lost when a job is killed.
CHUNK = 512
_REMEDY = "skipping bad records (--skip-bad) puts an error in its place and goes on"

ReadRow = tuple[str, Any, list[Record] | BadRecord]
Finish = Callable[[Entry], Entry]


@dataclass(frozen=True, slots=True)
class Share:
    """Which chunks of an input a job scores: number `first` and every `step`-th after it."""

    first: int = 0
    step: int = 1

    def chunks(self, num_rows: int, size: int) -> range:
        """Numbers of its chunks, of an input of so many rows."""
        return range(self.first, -(-num_rows // size), self.step)

    def rows(self, num_rows: int, size: int) -> int:
        """Rows in its chunks."""
        return sum(min(size, num_rows - chunk * size) for chunk in self.chunks(num_rows, size))


ALL = Share()


class ChunkReader:
    """Reads chunks of an input by their numbers. Forward it passes over what lies between; one that
    lies behind is read from the input's start."""

    def __init__(self, source: Source, size: int) -> None:
        self.source, self.size = source, size
        self._scanned: Iterator[Any] = iter(())
        self._next: int | None = None

    def read(self, number: int, census: Census) -> list[ReadRow]:
        """The rows of a chunk with their records; `census` counts what reading drops."""
        if self._next is None or number < self._next:
            source, self._next = self.source, 0
            self._scanned = source.scanned()
        # Rows of other chunks are never made into records.
        passed = (number - self._next) * self.size
        next(itertools.islice(self._scanned, passed, passed), None)
        self._next = number + 1
        return list(read_each(self.source, census, itertools.islice(self._scanned, self.size)))


@dataclass(frozen=True, slots=True)
class ScoredChunk:
    """The entries of a chunk, as lines of a partial file; `error` is the first thing that would
    stop a job that skips nothing."""

    lines: bytes
    count: int
    error: str | None


@dataclass(slots=True)
class ChunkScorer:
    """Scores chunks of an input by one reward. `finish` makes the last change to an entry."""

    reward: Reward
    reader: ChunkReader
    keep: Sequence[str] = ()
    finish: Finish | None = None

    @classmethod
    def of(
        cls,
        reward: Reward,
        source: Source,
        size: int,
        keep: Sequence[str] = (),
        finish: Finish | None = None,
    ) -> ChunkScorer:
        """Of a source, as the reward reads it."""
        source = replace(source, every_response=True, keep_fields=not reward.reads_text)
        return cls(reward, ChunkReader(source, size), keep, finish)

    def score(self, number: int, census: Census) -> ScoredChunk:
        """The entries of a chunk, bad rows in their places."""
        lines: list[bytes] = []
        problem: str | None = None
        for entry in self._entries(self.reader.read(number, census)):
            for _, error in sorted(entry.errors.items()):
                if problem is None and error.reason not in LEFT_OUT:
                    problem = f"{error}; {_REMEDY}"
            if self.finish is not None:
                entry = self.finish(entry)
            lines.append(entry.as_line())
        return ScoredChunk(b"".join(lines), len(lines), problem)

    def _entries(self, rows: Sequence[ReadRow]) -> Iterator[Entry]:
        lines = [_Line.of(*row) for row in rows]
        items = [line.item for line in lines if line.item is not None]
        scored = iter(_scored_each(self.reward, items))
        for line, (where, row, _) in zip(lines, rows, strict=True):
            result: Scored | None = None
            errors = dict(line.errors)
            if line.item is not None:
                result, without = next(scored)
                for index, error in without.items():
                    detail = f"{where}: {error}"
                    errors[line.positions[index]] = Unscored(error.reason, detail)
            passed_on = {name: value_at(row, name) for name in self.keep}
            yield Entry(where, line.id, line.count, result, errors, passed_on)


@dataclass(frozen=True, slots=True)
class _Line:
    """What is to be scored of a row, and what cannot be: `positions` are those of the item's
    responses among all of the row's, of which there are `count`."""

    id: Any
    count: int
    item: Item | None = None
    positions: Sequence[int] = ()
    errors: dict[int, Unscored] = field(default_factory=dict)

    @classmethod
    def of(cls, where: str, row: Any, records: list[Record] | BadRecord) -> _Line:
        if isinstance(records, BadRecord):
            return cls(records.id, 0, errors={0: _unusable(str(records))})
        item = joined_item(records, where)
        first = records[0]
        positions: Sequence[int] = range(len(item))
        errors: dict[int, Unscored] = {}
        if isinstance(first, Candidates):
            positions = first.places
            errors = {position: _unusable(text) for position, text in first.unusable.items()}
        count = len(item) + len(errors)
        if not len(item):
            return cls(item.id, count, errors=errors)
        return cls(item.id, count, item, positions, errors)


def _unusable(problem: str) -> Unscored:
    return Unscored(UnscoredReason.BAD_RECORD, problem)


def _scored_each(
    reward: Reward, items: Sequence[Item]
) -> list[tuple[Scored | None, dict[int, Unscored]]]:
    """Scores of each item's responses that have some, and why the others have none, by their index.
    The responses of an item without scores are tried one by one."""
    outcomes: list[tuple[Scored | None, dict[int, Unscored]]] = []
    for item, result in zip(items, reward.score(items), strict=True):
        if isinstance(result, Scored):
            outcomes.append((result, {}))
        elif len(item) == 1 or not reward.by_response:
            outcomes.append((None, dict.fromkeys(range(len(item)), result)))
        else:
            outcomes.append(_scored_apart(reward, item, result))
    return outcomes


def _scored_apart(
    reward: Reward, item: Item, problem: Unscored
) -> tuple[Scored | None, dict[int, Unscored]]:
    results = enumerate(reward.score([item.only([index]) for index in range(len(item))]))
    errors = {index: result for index, result in results if isinstance(result, Unscored)}
    good = [index for index in range(len(item)) if index not in errors]
    if not good:
        return None, errors
    # Together once more: a long response may shorten the prompt of the others.
    (together,) = reward.score([item.only(good)])
    if isinstance(together, Unscored):
        return None, dict.fromkeys(range(len(item)), problem)
    return together, errors
