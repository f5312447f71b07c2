"""A forest's leaf rows: all that the last layer has to compute.

Only the last token of each sequence leaves the network, so in the last layer only those rows need a
query, an output projection and a feed-forward pass; keys and values are needed of every row.

Shapes: T rows of the forest, U distinct leaf rows, S sequences.
"""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass

import torch

from smorm.trees.forest import Forest, Range, Rectangle


@dataclass(frozen=True, slots=True)
class Leaves:
    """Distinct leaf rows as queries against the forest's keys.

    Attributes:
        rows: the leaf rows in ascending order, [U].
        inverse: index into `rows` of each sequence's leaf, [S].
        chains: the keys of each query's own chain, up to itself, [U].
        rectangles: as the forest's, queries by index into `rows`.
        keys: per query, all keys that it attends to, root first, [U].
        num_keys: T.
    """

    rows: torch.Tensor
    inverse: torch.Tensor
    chains: list[Range]
    rectangles: list[Rectangle]
    keys: list[list[Range]]
    num_keys: int
    max_position: int

    @property
    def num_tokens(self) -> int:
        """Queries, U."""
        return int(self.rows.numel())

    @property
    def device(self) -> torch.device:
        """The forest's device."""
        return self.rows.device

    @property
    def queries(self) -> list[Range]:
        """The runs of queries that see the same keys: each query by itself."""
        return [(index, index + 1) for index in range(self.num_tokens)]


def find_leaves(forest: Forest) -> Leaves:
    """The forest's leaf rows, on the forest's device."""
    rows, inverse = torch.unique(forest.leaves, sorted=True, return_inverse=True)
    listed: list[int] = rows.tolist()
    chains, keys = [], []
    for (first, past), ancestors in zip(forest.chains, forest.ancestors, strict=True):
        # A leaf may lie inside of a chain, where its sequence is a beginning of another.
        for row in listed[bisect_left(listed, first) : bisect_left(listed, past)]:
            chains.append((first, row + 1))
            keys.append([*ancestors, (first, row + 1)])
    rectangles = []
    # A rectangle without a leaf among its queries is not needed.
    for query_first, query_past, key_first, key_past in forest.rectangles:
        first, past = bisect_left(listed, query_first), bisect_left(listed, query_past)
        if first < past:
            rectangles.append((first, past, key_first, key_past))
    return Leaves(rows, inverse, chains, rectangles, keys, forest.num_tokens, forest.max_position)
