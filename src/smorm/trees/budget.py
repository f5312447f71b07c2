"""Token-budget micro-batches: full ones, and what begins alike stays together.

A unit is what must stay in one forward pass: the two sides of a pair, one rated response, the N
responses of a best-of-N record. Units that share a beginning form a family, a family is packed
whole (best fit, largest first), and only one that is larger than the budget is taken apart, at the
fork nearest to its root. So packing loses sharing only where the budget leaves no choice. A unit
larger than the budget gets a batch of its own.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np

from smorm.trees.costs import Cost, Costs, Integers, Members, Unit, forest_cost, packed_cost
from smorm.trees.filling import Pack, put_together

__all__ = ["Cost", "Unit", "forest_cost", "micro_batches", "packed_cost", "padded_batches"]
_LEVELS = 48
"""Nested forks that a family is taken apart at; behind that it is cut in its order."""
_FEW = 8
"""Up to so many batches are made equally full; among more it would not lower the peak by much."""


def micro_batches(units: Sequence[Unit], budget: int, cost: Cost = forest_cost) -> list[list[int]]:
    """Split units into batches of at most `budget` rows; returns the units' indices per batch.

    A pure function of its arguments. Every unit is in exactly one batch. The fullest batch comes
    first, so that memory that does not suffice is seen at once; a few batches are made nearly
    equal, which lowers their peak.
    """
    if not units:
        return []
    costs = cost(units)
    everything = list(range(len(units)))
    packs = _packs(costs, everything, budget)
    if 1 < len(packs) <= _FEW:
        packs = _levelled(costs, packs, everything, budget)
    packs = sorted((-costs.rows(members), sorted(members)) for _, members in packs)
    return [[costs.order[i] for i in members] for _, members in packs]


def _packs(costs: Costs, members: Members, budget: int, level: int = 0) -> list[Pack]:
    """Batches of these units, each family whole where it fits."""
    rows = costs.rows(members)
    if rows <= budget or len(members) == 1:
        return [(rows, members)]
    families, stem = _families(costs, members)
    if len(families) == 1 or level == _LEVELS:
        return _cut(costs, members, budget)
    packs: list[Pack] = []
    for rows, family in families:
        fits = rows <= budget or len(family) == 1
        packs += [(rows, family)] if fits else _packs(costs, family, budget, level + 1)
    return put_together(packs, stem, budget)


def _families(costs: Costs, members: Members) -> tuple[list[Pack], int]:
    """The units apart at their first fork, each part with its rows, and the stem before the fork.

    A unit whose sequences lie in several parts holds these together; where that leaves one part,
    the next forks are tried.
    """
    sequences = costs.sequences(members)
    shared, equal = costs.shared(sequences)
    units = costs.unit[sequences]
    forks = np.unique(shared[1:][~equal[1:]])
    low, high = 0, len(forks)
    parts = [(costs.rows(members), members)]
    while low < high:  # the first fork is nearly always it
        middle = low if low == 0 else (low + high) // 2
        apart = (shared <= forks[middle]) & ~equal
        apart[0] = True
        labels = _united(np.cumsum(apart) - 1, units)
        if labels.any():
            parts, high = _parts(costs, sequences, shared, labels), middle
        else:
            low = middle + 1
    return parts, int(forks[0]) if len(forks) else 0


def _united(labels: Integers, units: Integers) -> Integers:
    """Labels of the sequences, made equal for all that a unit holds together."""
    by_unit = np.argsort(units, kind="stable")
    labels_of, units_of = labels[by_unit], units[by_unit]
    same = units_of[1:] == units_of[:-1]
    bridges = np.unique(np.stack([labels_of[:-1][same], labels_of[1:][same]], 1), axis=0)
    root = np.arange(labels[-1] + 1)
    for one, other in bridges[bridges[:, 0] != bridges[:, 1]].tolist():
        low, high = sorted((_root(root, one), _root(root, other)))
        root[high] = low
    while (root[root] != root).any():
        root = root[root]
    return root[labels]


def _root(root: Integers, label: int) -> int:
    while root[label] != label:
        label = int(root[label])
    return label


def _parts(costs: Costs, sequences: Integers, shared: Integers, labels: Integers) -> list[Pack]:
    """Units of each label, and the rows of the forest that they make by themselves."""
    by_label = np.argsort(labels, kind="stable")
    first = _fresh(labels[by_label])
    lengths = costs.lengths[sequences][by_label]
    own = lengths - shared[by_label]
    own[first] = lengths[first]
    rows = np.add.reduceat(own, first).tolist()
    units, at = np.unique(costs.unit[sequences], return_index=True)
    by_label = np.argsort(labels[at], kind="stable")
    ordered = labels[at][by_label]
    borders = [*_fresh(ordered).tolist(), len(units)]
    listed = units[by_label].tolist()
    members = [listed[a:b] for a, b in itertools.pairwise(borders)]
    # Behind a gap, what a sequence shares with its own part is not what it shares with its
    # neighbour: such parts (made by units that bridge others) are counted by themselves.
    gaps = np.bincount(labels[_fresh(labels)])[ordered[borders[:-1]]] > 1
    for index in np.flatnonzero(gaps).tolist():
        rows[index] = costs.rows(members[index])
    return list(zip(rows, members, strict=True))


def _fresh(labels: Integers) -> Integers:
    """Where each run of equal labels begins."""
    return np.flatnonzero(np.concatenate([[True], labels[1:] != labels[:-1]]))


def _cut(costs: Costs, members: Members, budget: int) -> list[Pack]:
    """Units that cannot be told apart by a fork (pairs over the same few responses), in order."""
    packs: list[Pack] = []
    for member in members:
        if packs:
            rows = costs.rows([*packs[-1][1], member])
            if rows <= budget:
                packs[-1] = (rows, [*packs[-1][1], member])
                continue
        packs.append((costs.rows([member]), [member]))
    return packs


def _levelled(costs: Costs, packs: list[Pack], members: Members, budget: int) -> list[Pack]:
    """As many batches, nearly equal, where that shares no less."""
    total = sum(rows for rows, _ in packs)
    low, high = -(-total // len(packs)), min(budget, max(rows for rows, _ in packs))
    while high - low > budget // 64:
        middle = (low + high) // 2
        tried = _packs(costs, members, middle)
        if len(tried) <= len(packs) and sum(rows for rows, _ in tried) <= total:
            packs, high = tried, middle
        else:
            low = middle + 1
    return packs


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
