"""A forest's attention cut into blocks: queries of one chain or rectangle against runs of keys.

Shapes: G key heads, T key rows, D head size.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass

import torch

from smorm.trees.forest import Forest
from smorm.trees.leaves import Leaves

ROWS = 128
"""Query rows of a causal block: half of a square block's work is masked away."""
WIDE = 512
"""Query rows of a rectangle's block, where nothing is masked."""
FEW = 4
"""Up to so many chains under one stretch of a prompt take its keys beside their own; more of them
meet it in one rectangle, whose products are larger, and are merged with it."""

Range = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Block:
    """Query rows a..b against the key rows of some ranges.

    Attributes:
        ranges: (first, past last) of each run of keys, laid end to end.
        causal: the last b - a keys are the queries' own rows.
        alone: these queries see no other keys than those.
        merge: the queries' own chain was computed before; this is added to it.
    """

    a: int
    b: int
    ranges: tuple[Range, ...]
    causal: bool
    alone: bool
    merge: bool

    @property
    def length(self) -> int:
        """Keys."""
        return sum(d - c for c, d in self.ranges)

    def take(self, rows: torch.Tensor) -> torch.Tensor:
        """The keys' rows of [G, T, D] -> [G, keys, D]."""
        parts = [rows[:, c:d] for c, d in self.ranges]
        return parts[0] if len(parts) == 1 else torch.cat(parts, 1)

    def give(self, total: torch.Tensor, part: torch.Tensor) -> None:
        """Add [G, keys, D] to the keys' rows of `total`: the reverse of `take`."""
        start = 0
        for c, d in self.ranges:
            total[:, c:d] += part[:, start : start + d - c]
            start += d - c


def blocks(forest: Forest | Leaves) -> list[Block]:
    """Chains (or leaves), then rectangles, cut into blocks; made once per forest."""
    if "blocks" not in forest.cache:
        forest.cache["blocks"] = list(_plan(forest))
    plan: list[Block] = forest.cache["blocks"]
    return plan


def _plan(forest: Forest | Leaves) -> Iterator[Block]:
    if isinstance(forest, Leaves):
        runs = [(query, query + 1, first, last) for query, first, last in forest.own]
    else:
        runs = [(first, last, first, last) for first, last in forest.chains]
    starts = [run[0] for run in runs]
    beside: list[list[Range]] = [[] for _ in runs]
    merged = [False] * len(runs)
    rectangles = []
    for a, b, c, d in forest.rectangles:
        inside = range(bisect_left(starts, a), bisect_left(starts, b))
        if len(inside) <= FEW:
            for run in inside:
                beside[run].append((c, d))
            continue
        rectangles.append((a, b, c, d))
        for run in inside:
            merged[run] = True
    for (a, b, c, d), more, merge in zip(runs, beside, merged, strict=True):
        causal = not isinstance(forest, Leaves)
        for i in range(a, b, ROWS):
            j = min(i + ROWS, b)
            own = (c, j) if causal else (c, d)
            yield Block(i, j, (*more, own), causal, not merge, False)
    for a, b, c, d in rectangles:
        for i in range(a, b, WIDE):
            yield Block(i, min(i + WIDE, b), ((c, d),), False, False, True)
