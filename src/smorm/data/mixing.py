"""Which pairs and which ratings are in a step: a pure function of (seed, step).

Each stream is read in epochs, every epoch a permutation of its own. `ratio` takes a fixed number of
each per step, whatever the sizes of the sets; `zip` reproduces the paper's pairing, where item i is
(pair i mod |pairs|, rating i mod |ratings|) and the items are shuffled.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Indices = NDArray[np.int64]
_STREAMS = {"preference": 1, "rated": 2, "zip": 3}


@dataclass(slots=True)
class Stream:
    """Items 0..size-1, each once an epoch, in an order that only (seed, epoch) decides."""

    size: int
    seed: int
    name: str
    _epoch: int = -1
    _order: Indices = field(default_factory=lambda: np.zeros(0, dtype=np.int64))

    def permutation(self, epoch: int) -> Indices:
        """The order of one epoch, [size]."""
        if epoch != self._epoch:
            key = [self.seed, _STREAMS[self.name], epoch]
            self._order = np.random.Generator(np.random.PCG64(key)).permutation(self.size)
            self._epoch = epoch
        return self._order

    def take(self, start: int, count: int) -> Indices:
        """Items at positions start..start+count-1 of the endless stream."""
        parts: list[Indices] = []
        while count > 0:
            epoch, offset = divmod(start, self.size)
            part = self.permutation(epoch)[offset : offset + count]
            parts.append(part)
            start, count = start + len(part), count - len(part)
        return np.concatenate(parts) if parts else np.zeros(0, dtype=np.int64)


@dataclass(frozen=True, slots=True)
class DataOrder:
    """The order of a run.

    Attributes:
        num_pairs, num_rated: sizes of the sets; 0 where the objective does not use one.
        batch_size: pairs a step (rated responses a step where there are no pairs).
        rated_per_pair: ratings a step for each pair, in `ratio`.
    """

    num_pairs: int
    num_rated: int
    batch_size: int
    rated_per_pair: float = 1.0
    mode: Literal["ratio", "zip"] = "ratio"
    seed: int = 0
    _streams: dict[str, Stream] = field(default_factory=dict, compare=False, repr=False)

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

    def step(self, index: int) -> tuple[Indices, Indices]:
        """Indices of the pairs and of the rated responses of step `index` (from 0)."""
        none = np.zeros(0, dtype=np.int64)
        if self.mode == "zip" and self.num_pairs and self.num_rated:
            items = self._take("zip", self.epoch_size, index, self.batch_size)
            return items % self.num_pairs, items % self.num_rated
        pairs = self._take("preference", self.num_pairs, index, self.batch_size)
        rated = self._take("rated", self.num_rated, index, self.rated_per_step)
        return (pairs if self.num_pairs else none), (rated if self.num_rated else none)

    def _take(self, name: str, size: int, index: int, count: int) -> Indices:
        if size == 0:
            return np.zeros(0, dtype=np.int64)
        stream = self._streams.setdefault(name, Stream(size, self.seed, name))
        return stream.take(index * count, count)
