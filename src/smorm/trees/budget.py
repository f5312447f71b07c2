"""Token-budget micro-batches: as many units as fit, neighbours that begin alike together.

A unit is what must stay in one forward pass: the two sides of a pair, one rated response, the N
responses of a best-of-N record. Units are sorted by their tokens, so those over one prompt meet,
and filled greedily. A unit larger than the budget gets a batch of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from smorm.trees.forest import MIN_SHARE, Tokens, common_prefix, sort_key

Unit = Sequence[Tokens]
Cost = Callable[[Unit, Unit | None], int]


def forest_cost(unit: Unit, previous: Unit | None = None) -> int:
    """Rows that a unit adds to a forest behind `previous` (an upper bound)."""
    ordered = sorted(unit, key=sort_key)
    rows, before = 0, previous[0] if previous else None
    for tokens in ordered:
        shared = common_prefix(before, tokens) if before is not None else 0
        equal = before is not None and shared == len(before) == len(tokens)
        rows += len(tokens) - (shared if shared >= MIN_SHARE or equal else 0)
        before = tokens
    return rows


def packed_cost(unit: Unit, previous: Unit | None = None) -> int:
    """Rows of a unit without sharing."""
    return sum(map(len, unit))


def micro_batches(units: Sequence[Unit], budget: int, cost: Cost = forest_cost) -> list[list[int]]:
    """Split units into batches of at most `budget` rows; returns the units' indices per batch.

    A pure function of its arguments. Every unit is in exactly one batch.
    """
    order = sorted(range(len(units)), key=lambda i: ([*map(sort_key, units[i])], i))
    batches: list[list[int]] = []
    rows = budget + 1
    for index in order:
        previous = units[batches[-1][-1]] if batches else None
        added = cost(units[index], previous)
        if rows + added > budget:
            batches.append([])
            rows, added = 0, cost(units[index], None)
        batches[-1].append(index)
        rows += added
    return batches


def padded_batches(units: Sequence[Unit], budget: int) -> list[list[int]]:
    """The same for padded rows: the area (sequences x longest) stays within the budget."""
    longest = [max(map(len, unit)) for unit in units]
    order = sorted(range(len(units)), key=lambda i: (longest[i], i))
    batches: list[list[int]] = []
    rows = 0
    for index in order:
        size = rows + len(units[index])
        if not batches or size * longest[index] > budget:
            batches.append([])
            size = len(units[index])
        batches[-1].append(index)
        rows = size
    return batches
