"""A forest seen from its leaves: all that the last layer has to compute.

Only the last token of each sequence leaves the network, so in the last layer only those rows need a
query, an output projection and a feed-forward pass; keys and values are needed of every row.

Shapes: T rows of the forest, U distinct leaf rows, S sequences.
"""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from smorm.trees.forest import Forest


@dataclass(slots=True)
class Leaves:
    """Distinct leaf rows as queries against the forest's keys.

    Attributes:
        rows: the leaf rows in ascending order, [U].
        inverse: which of them is each sequence's, [S].
        own: (query, key first, key past last) of each query's own chain, up to itself, [U, 3].
        rectangles: (q first, q past last, k first, k past last), queries by index into `rows`.
        ranges: per query, the key ranges that it sees, root first.
        num_keys: T.
    """

    rows: torch.Tensor
    inverse: torch.Tensor
    own: list[tuple[int, int, int]]
    rectangles: list[tuple[int, int, int, int]]
    ranges: list[list[tuple[int, int]]]
    num_keys: int
    max_position: int
    cache: dict[Any, Any] = field(default_factory=dict)

    @property
    def num_tokens(self) -> int:
        """Queries, U."""
        return int(self.rows.numel())

    def gather_plan(self) -> tuple[torch.Tensor, list[int], list[int]]:
        """`Forest.gather_plan` of these queries: each is a run of its own."""
        if "gather" not in self.cache:
            parts = [np.arange(a, b) for ranges in self.ranges for a, b in ranges]
            index = torch.from_numpy(np.concatenate(parts)).to(self.rows.device)
            lengths = [sum(b - a for a, b in ranges) for ranges in self.ranges]
            self.cache["gather"] = (index, [1] * len(lengths), lengths)
        plan: tuple[torch.Tensor, list[int], list[int]] = self.cache["gather"]
        return plan


def leaves_of(forest: Forest) -> Leaves:
    """The forest's leaf rows, on the forest's device; made once per forest."""
    if "leaves" not in forest.cache:
        forest.cache["leaves"] = _find(forest)
    found: Leaves = forest.cache["leaves"]
    return found


def _find(forest: Forest) -> Leaves:
    rows, inverse = torch.unique(forest.leaves, sorted=True, return_inverse=True)
    listed: list[int] = rows.tolist()
    own, ranges = [], []
    for (first, last), ancestors in zip(forest.chains, forest.ancestors, strict=True):
        for query in range(bisect_left(listed, first), bisect_left(listed, last)):
            mine = (first, listed[query] + 1)
            own.append((query, *mine))
            ranges.append([*ancestors, mine])
    rectangles = []
    for a, b, c, d in forest.rectangles:
        first, last = bisect_left(listed, a), bisect_left(listed, b)
        if first < last:
            rectangles.append((first, last, c, d))
    return Leaves(rows, inverse, own, rectangles, ranges, forest.num_tokens, forest.max_position)
