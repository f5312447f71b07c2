"""Which pairs and which ratings are in a step: a pure function of (seed, step).

Each stream is read in epochs, every epoch a permutation of its own. `ratio` takes a fixed number of
each per step, whatever the sizes of the sets; `zip` reproduces the paper's pairing, where item i is
(pair i mod |pairs|, rating i mod |ratings|) and the items are shuffled.

Where the items' prompts are given, pairs over one prompt come in one step, and ratings with the
pairs over their prompt (`smorm.data.grouping`), so that each distinct text is computed once.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from smorm.arrays import Ints
from smorm.data.grouping import grouped_permutation, ratings_beside

# Part of each stream's seed: another number would be another order, and break resuming.
_STREAMS = {"preference": 1, "rated": 2, "zip": 3}


@dataclass(slots=True)
class Stream:
    """Items 0..size-1, each once an epoch, in an order that only (seed, epoch) decides.

    Items of one of `groups` [size] stand in one step of `per_step` items where they can. `beside`
    is another stream whose groups this one's follow, and its items a step.
    """

    size: int
    seed: int
    name: str
    groups: Ints | None = None
    per_step: int = 1
    beside: tuple[Stream, int] | None = None
    _drawn: dict[int, Ints] = field(default_factory=dict)

    def permutation(self, epoch: int) -> Ints:
        """The order of one epoch, [size]."""
        order = self._drawn.get(epoch)
        if order is None:
            key = [self.seed, _STREAMS[self.name], epoch]
            order = self._draw(epoch, np.random.Generator(np.random.PCG64(key)))
            # A step, and a look ahead, touch two epochs. One assignment, as a thread that prepares
            # batches reads here too.
            newest = sorted(self._drawn.items())[-1:]
            self._drawn = dict([*newest, (epoch, order)])
        return order

    def _draw(self, epoch: int, generator: np.random.Generator) -> Ints:
        if self.groups is None:
            return generator.permutation(self.size)
        # How many of the epoch's items each step takes: the first and last may be shared ones.
        start, end = epoch * self.size, (epoch + 1) * self.size
        first_step, last_step = start // self.per_step, -(-end // self.per_step)
        borders = np.arange(first_step, last_step + 1) * self.per_step
        capacities = np.diff(borders.clip(start, end))
        if self.beside is None:
            return grouped_permutation(self.groups, capacities, generator)
        pairs, count = self.beside
        assert pairs.groups is not None
        # A step at the border of two epochs belongs to both: its pairs are looked at twice.
        indices = pairs.take(first_step * count, len(capacities) * count)
        steps = np.repeat(np.arange(len(capacities)), count)
        return ratings_beside(self.groups, (pairs.groups[indices], steps), capacities, generator)

    def take(self, start: int, count: int) -> Ints:
        """Items at positions start..start+count-1 of the endless stream."""
        slices = [np.zeros(0, dtype=np.int64)]
        while count > 0:
            epoch, offset = divmod(start, self.size)
            slices.append(self.permutation(epoch)[offset : offset + count])
            start, count = start + len(slices[-1]), count - len(slices[-1])
        return np.concatenate(slices)


@dataclass(frozen=True, slots=True)
class DataOrder:
    """The order of a run.

    Attributes:
        num_pairs, num_rated: sizes of the sets; 0 where the objective does not use one.
        batch_size: pairs a step (rated responses a step where there are no pairs).
        rated_per_pair: ratings a step for each pair, in `ratio`.
        pair_groups, rated_groups: prompt of each pair [num_pairs] and of each rating [num_rated],
            ids from 0 in one space; None = not grouped. Only in `ratio`: `zip` itself says which
            rating stands beside which pair.
    """

    num_pairs: int
    num_rated: int
    batch_size: int
    rated_per_pair: float = 1.0
    mode: Literal["ratio", "zip"] = "ratio"
    seed: int = 0
    pair_groups: Ints | None = field(default=None, compare=False, repr=False)
    rated_groups: Ints | None = field(default=None, compare=False, repr=False)
    _streams: dict[str, Stream] = field(default_factory=dict, init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        """Refuse groups of another length than their set, or in `zip`."""
        sets = ((self.pair_groups, self.num_pairs), (self.rated_groups, self.num_rated))
        for groups, size in sets:
            if groups is not None and len(groups) != size:
                raise ValueError(f"{len(groups)} group ids for {size} items")
            if groups is not None and self.mode == "zip":
                raise ValueError("zip says itself which items stand together: no groups")

    @property
    def rated_per_step(self) -> int:
        """Rated responses a step."""
        if not self.num_rated:
            return 0
        if not self.num_pairs or self.mode == "zip":
            return self.batch_size
        return max(1, round(self.batch_size * self.rated_per_pair))

    @property
    def epoch_size(self) -> int:
        """Items an epoch: the pairs; the ratings where there are no pairs; the longer in `zip`."""
        if self.mode == "zip":
            return max(self.num_pairs, self.num_rated)
        return self.num_pairs or self.num_rated

    def num_steps(self, epochs: float) -> int:
        """Steps that cover so many epochs (the last one is filled from the next epoch)."""
        steps = epochs * self.epoch_size / self.batch_size
        return max(1, math.ceil(round(steps, 6)))  # 0.07 * 100 is 7.000000000000001

    def step(self, index: int) -> tuple[Ints, Ints]:
        """Indices of the pairs and of the rated responses of step `index` (from 0)."""
        # where one set is empty, zip is the plain order of the other
        if self.mode == "zip" and self.num_pairs and self.num_rated:
            items = self._take("zip", self.epoch_size, index, self.batch_size)
            return items % self.num_pairs, items % self.num_rated
        pairs = self._take("preference", self.num_pairs, index, self.batch_size)
        return pairs, self._take("rated", self.num_rated, index, self.rated_per_step)

    def _take(self, name: str, size: int, index: int, count: int) -> Ints:
        if size == 0:
            return np.zeros(0, dtype=np.int64)
        return self._stream(name, size, count).take(index * count, count)

    def _stream(self, name: str, size: int, count: int) -> Stream:
        if name not in self._streams:
            groups = {"preference": self.pair_groups, "rated": self.rated_groups}.get(name)
            beside = None
            grouped_pairs = self.num_pairs and self.pair_groups is not None
            if name == "rated" and groups is not None and grouped_pairs:
                pairs = self._stream("preference", self.num_pairs, self.batch_size)
                beside = (pairs, self.batch_size)
            self._streams[name] = Stream(size, self.seed, name, groups, count, beside)
        return self._streams[name]
