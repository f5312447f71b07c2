"""A batch's attention cut into blocks for the CPU: a few query rows against runs of keys.

Shapes: G key heads, T key rows, D head size.
"""

from bisect import bisect_left
from dataclasses import dataclass

import torch
from torch import Tensor

from smorm.trees.forest import Forest, Leaves, Range, Rectangle

ROWS = 128
"""Query rows of a causal block: half of a square block's work is masked away."""
WIDE = 512
"""Query rows of a rectangle's block, where nothing is masked."""
FEW = 4
"""Up to so many chains under one stretch of a prompt take its keys beside their own, which saves
merging; more of them meet it in one rectangle, whose products are larger."""


@dataclass(frozen=True, slots=True)
class Block:
    """Query rows a..b against the key rows of some ranges, laid end to end.

    `causal`: the last b - a keys are the queries' own rows. `complete`: these queries see no other
    keys. `merge`: the queries' own chain was computed before; this is added to it.
    """

    a: int
    b: int
    ranges: tuple[Range, ...]
    causal: bool
    complete: bool
    merge: bool

    @property
    def length(self) -> int:
        """Keys."""
        return sum(past - first for first, past in self.ranges)

    def take(self, rows: Tensor) -> Tensor:
        """The keys' rows of [G, T, D] -> [G, keys, D]."""
        pieces = [rows[:, first:past] for first, past in self.ranges]
        # A single run stays a view: nothing is copied.
        return pieces[0] if len(pieces) == 1 else torch.cat(pieces, 1)

    def add_to(self, total: Tensor, values: Tensor) -> None:
        """Add values [G, keys, D] to the keys' rows of `total`: the transpose of `take`."""
        start = 0
        for first, past in self.ranges:
            total[:, first:past] += values[:, start : start + past - first]
            start += past - first


def cut_blocks(batch: Forest | Leaves) -> list[Block]:
    """Runs of queries against their own chains, then rectangles, cut into blocks: a block that
    merges adds to rows that an earlier one has written."""
    queries = batch.queries
    beside, merged, rectangles = _assign_rectangles(queries, batch.rectangles)
    causal = isinstance(batch, Forest)
    blocks = []
    for run, (a, b) in enumerate(queries):
        first, past = batch.chains[run]
        for i in range(a, b, ROWS):
            j = min(i + ROWS, b)
            if causal:
                past = j  # a causal block sees its chain up to its own last row
            ranges = (*beside[run], (first, past))
            blocks.append(Block(i, j, ranges, causal, complete=not merged[run], merge=False))
    for a, b, first, past in rectangles:
        for i in range(a, b, WIDE):
            j = min(i + WIDE, b)
            blocks.append(Block(i, j, ((first, past),), False, complete=False, merge=True))
    return blocks


def _assign_rectangles(
    queries: list[Range], rectangles: list[Rectangle]
) -> tuple[list[list[Range]], list[bool], list[Rectangle]]:
    """The keys that each run of queries takes beside its own chain; whether it is merged with a
    rectangle; and the rectangles that are computed by themselves."""
    starts = [first for first, _ in queries]
    beside: list[list[Range]] = [[] for _ in queries]
    merged = [False] * len(queries)
    wide = []
    for a, b, first, past in rectangles:
        runs = range(bisect_left(starts, a), bisect_left(starts, b))
        if len(runs) <= FEW:
            # Before the chain's own keys: those come last in a causal block.
            for run in runs:
                beside[run].append((first, past))
        else:
            wide.append((a, b, first, past))
            for run in runs:
                merged[run] = True
    return beside, merged, wide
