"""Labels that contradict each other: a pair and its opposite, one response with two ratings."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from smorm.checks.columns import Flags, Table
from smorm.checks.findings import Finding, Thresholds, among
from smorm.checks.shingles import Ints


def label_findings(table: Table, limits: Thresholds) -> list[Finding]:
    """Conflicts among training records."""
    return [*_opposite_pairs(table, limits), *_conflicting_ratings(table, limits)]


def _opposite_pairs(table: Table, limits: Thresholds) -> list[Finding]:
    """Pairs over the same prompt and the same two responses, of which some prefer each one."""
    rows = table.rows("preference")
    if not len(rows):
        return []
    group, groups = _grouped(table.records["texts"][rows])
    flipped = np.bincount(group, table.records["flipped"][rows], groups)
    both = (flipped > 0) & (flipped < np.bincount(group, minlength=groups))
    found = rows[both[group]]
    if not len(found):
        return []
    share = len(found) / len(rows)
    return [
        Finding(
            "conflicting_pairs",
            "must fix" if share > limits.conflicts else "look",
            len(found),
            "pairs of the same two responses with opposite labels: they pull against each other; "
            "keep the majority's label, or none",
            places=table.places(found),
            **among(len(found), len(rows), "training pairs"),
        )
    ]


def _grouped(keys: NDArray[np.uint64]) -> tuple[Ints, int]:
    """Number of each key's group, and how many groups there are."""
    distinct, group = np.unique(keys, return_inverse=True)
    return group.astype(np.int64), len(distinct)


def _conflicting_ratings(table: Table, limits: Thresholds) -> list[Finding]:
    """One prompt and response rated more than once, by ratings that lie far apart."""
    rows = table.rows("rated")
    if not len(rows):
        return []
    responses, total = _grouped(table.responses["text"][table.first_response()[rows]])
    number = np.full(len(table), -1)
    number[rows] = responses
    differing, far = np.zeros(total, dtype=bool), np.zeros(total, dtype=bool)
    for column in range(len(table.attributes)):
        values, at = ratings_of(table, column)
        if not len(values):
            continue
        width = _widths(number[at], values, total)
        differing |= width > 0
        far |= width > limits.rating_spread * float(np.ptp(values))
    if not differing.any():
        return []
    found = rows[differing[responses]]
    share = float(far.sum()) / total
    return [
        Finding(
            "conflicting_ratings",
            "must fix" if share > limits.rating_conflicts else "look",
            int(differing.sum()),
            f"a response rated more than once and differently, {int(far.sum())} of them by more "
            f"than {limits.rating_spread:.0%} of the attribute's range: average the raters",
            places=table.places(found),
            **among(int(differing.sum()), total, "rated responses"),
        )
    ]


def ratings_of(table: Table, column: int) -> tuple[NDArray[np.float64], Ints]:
    """An attribute's training ratings and the records that they are of."""
    own: Flags = (table.ratings["column"] == column) & table.train[table.ratings["row"]]
    return table.ratings["value"][own], table.ratings["row"][own]


def _widths(groups: Ints, values: NDArray[np.float64], total: int) -> NDArray[np.float64]:
    """Largest less smallest value of each group, 0 for a group without one."""
    low, high = np.full(total, np.inf), np.full(total, -np.inf)
    np.minimum.at(low, groups, values)
    np.maximum.at(high, groups, values)
    return np.where(high >= low, high - low, 0.0)
