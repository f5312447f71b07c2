"""Token-budget micro-batches: full ones, in which sequences that begin alike stay together.

A unit is what must stay in one forward pass (a pair, one rated response, the responses of a
best-of-N record). Units that share a beginning form a family, packed as one (best fit, largest
first); only a family larger than the budget is split, at the fork nearest to its root. A unit
larger than the budget gets a batch of its own. Shapes: U units, S sequences."""

from __future__ import annotations

import itertools
from bisect import bisect_left, insort
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from smorm.arrays import Bools, Ints, Tokens
from smorm.trees.forest import MIN_SHARE, common_prefix, sort_key

Unit = Sequence[Tokens]
Members = list[int]
Pack = tuple[int, list[int]]
"""Rows, and the units that take them."""
_FULL = 0.97
"""Batches that are this full on average are not packed a second time."""
_CHOICES = 64
"""Packs considered when a batch's room is filled; all sizes are among them."""
_LEVELS = 48
"""Nested forks at which a family is split; below them it is cut in its order."""
_FEW = 8
"""Up to so many batches are made equally full; among more it would not lower the peak by much."""


@dataclass(frozen=True, slots=True)
class Costs:
    """What any set of units costs in one forward pass: exactly the rows of a forest of them."""

    # The units, sorted by their tokens; members are indices into it, [U].
    order: list[int]
    # Member of each sequence and its tokens, the sequences in the forest's order, [S] each.
    unit: Ints
    lengths: Ints
    # Tokens that each has in common with the sequence before it, and a 0 behind, [S + 1].
    common: Ints
    # The sequences of each member, [U].
    positions: list[Ints]

    @classmethod
    def of(cls, units: Sequence[Unit], *, share: bool) -> Costs:
        """Costs of units; without `share`, nothing is in common."""
        flat = list(itertools.chain.from_iterable(units))
        keys = list(map(sort_key, flat))
        ordered = sorted(range(len(flat)), key=keys.__getitem__)
        lengths = np.fromiter(map(len, flat), np.int64)
        common, rank = np.zeros(len(flat) + 1, dtype=np.int64), [0] * len(flat)
        for position, (before, index) in enumerate(itertools.pairwise(ordered), start=1):
            equal = keys[before] == keys[index]
            # Equal sequences have one rank, so that the order of the units decides nothing else.
            rank[index] = rank[before] + (not equal)
            if share and equal:
                common[position] = lengths[index]
            elif share:
                common[position] = common_prefix(flat[before], flat[index])
        ends = list(itertools.accumulate(map(len, units)))
        ranks = [rank[start:end] for start, end in itertools.pairwise([0, *ends])]
        order = sorted(range(len(units)), key=ranks.__getitem__)
        positions = np.split(np.argsort(ordered), ends[:-1])
        return cls(
            order=order,
            unit=np.repeat(np.argsort(order), list(map(len, units)))[ordered],
            lengths=lengths[ordered],
            common=common,
            positions=[positions[unit] for unit in order],
        )

    def sequences(self, members: Members) -> Ints:
        """The members' sequences, in the forest's order."""
        sequences = np.concatenate([self.positions[member] for member in members])
        sequences.sort()
        return sequences

    def shared(self, sequences: Ints) -> tuple[Ints, Bools]:
        """Tokens that a forest of these shares between each and the one before it (0 for the
        first), and where the two are equal. Few in common are not shared, equal ones always."""
        lengths = self.lengths[sequences]
        # What two sequences have in common is the least that neighbours between them have.
        links = np.concatenate([[0], np.minimum.reduceat(self.common, sequences + 1)[:-1]])
        equal = (links == lengths) & (lengths == np.concatenate([[0], lengths[:-1]]))
        return np.where((links >= MIN_SHARE) | equal, links, 0), equal

    def rows(self, members: Members) -> int:
        """Rows of the forest that `grow` makes of these units, exactly."""
        sequences = self.sequences(members)
        shared, _ = self.shared(sequences)
        return int(self.lengths[sequences].sum() - shared.sum())


def micro_batches(units: Sequence[Unit], budget: int, *, share: bool = True) -> list[list[int]]:
    """Split units into batches of at most `budget` rows; returns the units' indices per batch. With
    `share` equal beginnings are computed once. The fullest batch comes first, so that too little
    memory shows at once; a few batches are made nearly equal, which lowers their peak."""
    if not units:
        return []
    # Costs are computed once, by sorting; all that follows works on integers.
    costs = Costs.of(units, share=share)
    everything = list(range(len(units)))
    packs = _split(costs, everything, budget)
    if 1 < len(packs) <= _FEW:
        packs = _level(costs, packs, everything, budget)
    batches = [(-costs.rows(members), sorted(members)) for _, members in packs]
    ordered = []
    for _, members in sorted(batches):
        ordered.append([costs.order[member] for member in members])
    return ordered


def count_rows(units: Sequence[Unit], *, share: bool = True) -> int:
    """Rows of the forest of these units."""
    if not units:
        return 0
    return Costs.of(units, share=share).rows(list(range(len(units))))


def _split(costs: Costs, members: Members, budget: int, level: int = 0) -> list[Pack]:
    rows = costs.rows(members)
    if rows <= budget or len(members) == 1:
        return [(rows, members)]
    # The stem stands once in a batch, however many families of it are put together there.
    families, stem = _families(costs, members)
    if len(families) == 1 or level == _LEVELS:
        return _cut(costs, members, budget)
    packs: list[Pack] = []
    for rows, family in families:
        if rows <= budget or len(family) == 1:
            packs.append((rows, family))
        else:
            packs += _split(costs, family, budget, level + 1)
    return fill_batches(packs, stem, budget)


def _families(costs: Costs, members: Members) -> tuple[list[Pack], int]:
    """The units separated at their first fork, each family with its rows, and the stem before it.
    Where units that lie in several branches leave one family, the next forks are tried."""
    sequences = costs.sequences(members)
    shared, equal = costs.shared(sequences)
    units = costs.unit[sequences]
    forks = np.unique(shared[1:][~equal[1:]])
    low, high = 0, len(forks)
    families = [(costs.rows(members), members)]
    while low < high:
        # The first fork nearly always separates: it is tried before halving.
        middle = low if low == 0 else (low + high) // 2
        begins = (shared <= forks[middle]) & ~equal
        begins[0] = True
        labels = _unite(np.cumsum(begins) - 1, units)
        if labels.any():
            families, high = _group(costs, sequences, shared, labels), middle
        else:
            low = middle + 1
    return families, int(forks[0]) if len(forks) else 0


def _unite(labels: Ints, units: Ints) -> Ints:
    """Labels of the sequences, made equal for all that a unit holds together."""
    by_unit = np.argsort(units, kind="stable")
    same = np.diff(units[by_unit]) == 0
    edges = np.stack([labels[by_unit][:-1][same], labels[by_unit][1:][same]], 1)
    edges = np.unique(edges[edges[:, 0] != edges[:, 1]], axis=0)
    # Union-find by hand: scipy's graph of the few edges takes longer to build than this.
    root = np.arange(labels[-1] + 1)
    for edge in edges.tolist():
        low, high = sorted((_root(root, edge[0]), _root(root, edge[1])))
        root[high] = low
    while (root[root] != root).any():
        root = root[root]
    return root[labels]


def _root(root: Ints, label: int) -> int:
    while root[label] != label:
        label = int(root[label])
    return label


def _group(costs: Costs, sequences: Ints, shared: Ints, labels: Ints) -> list[Pack]:
    """Units of each label, and the rows of the forest that they make by themselves."""
    by_label = np.argsort(labels, kind="stable")
    first = _run_starts(labels[by_label])
    lengths = costs.lengths[sequences][by_label]
    added = lengths - shared[by_label]
    added[first] = lengths[first]
    rows = np.add.reduceat(added, first).tolist()
    units, position = np.unique(costs.unit[sequences], return_index=True)
    by_label = np.argsort(labels[position], kind="stable")
    ordered = labels[position][by_label]
    borders = [*_run_starts(ordered).tolist(), len(units)]
    listed = units[by_label].tolist()
    members = [listed[start:end] for start, end in itertools.pairwise(borders)]
    # Behind a gap, what a sequence shares with its own label is not what it shares with its
    # neighbour: such families (made by units that hold branches together) are counted exactly.
    gaps = np.bincount(labels[_run_starts(labels)])[ordered[borders[:-1]]] > 1
    for index in np.flatnonzero(gaps).tolist():
        rows[index] = costs.rows(members[index])
    return list(zip(rows, members, strict=True))


def _run_starts(labels: Ints) -> Ints:
    return np.flatnonzero(np.concatenate([[True], labels[1:] != labels[:-1]]))


def _cut(costs: Costs, members: Members, budget: int) -> list[Pack]:
    """Units that no fork separates (pairs over the same few responses), in order."""
    packs: list[Pack] = []
    for member in members:
        if packs:
            longer = [*packs[-1][1], member]
            rows = costs.rows(longer)
            if rows <= budget:
                packs[-1] = (rows, longer)
                continue
        packs.append((costs.rows([member]), [member]))
    return packs


def _level(costs: Costs, packs: list[Pack], members: Members, budget: int) -> list[Pack]:
    """As many batches, nearly equal, where that shares no less."""
    sizes, _ = zip(*packs, strict=True)
    total = sum(sizes)
    low, high = -(-total // len(packs)), min(budget, max(sizes))
    while high - low > budget // 64:
        middle = (low + high) // 2
        smaller = _split(costs, members, middle)
        sizes, _ = zip(*smaller, strict=True)
        if len(smaller) <= len(packs) and sum(sizes) <= total:
            packs, high = smaller, middle
        else:
            low = middle + 1
    return packs


def padded_batches(units: Sequence[Unit], budget: int) -> list[list[int]]:
    """As `micro_batches` for padded rows: the area (sequences x longest) is within the budget."""
    longest = [max(map(len, unit)) for unit in units]
    order = sorted(range(len(units)), key=lambda index: (longest[index], index))
    batches: list[list[int]] = []
    sequences = 0
    for index in order:
        # In ascending order the newest unit's length is the width of its batch.
        sequences += len(units[index])
        if not batches or sequences * longest[index] > budget:
            batches.append([])
            sequences = len(units[index])
        batches[-1].append(index)
    return batches


def fill_batches(packs: list[Pack], stem: int, budget: int) -> list[Pack]:
    """Packs into batches; `stem` tokens are common to all of them and stand once in a batch."""
    packs = sorted(packs, key=lambda pack: (-pack[0], pack[1]))
    batches = _best_fit(packs, stem, budget)
    # The emptiest batch is what remains at the end, and says nothing about the others.
    filled = sorted(rows for rows, _ in batches if rows <= budget)[1:]
    if sum(filled) < _FULL * budget * len(filled):
        # A few large units to a batch: best fit leaves gaps that none of them fits in.
        alternative = _best_sums(packs, stem, budget)
        if len(alternative) < len(batches):
            return alternative
    return batches


def _best_fit(packs: list[Pack], stem: int, budget: int) -> list[Pack]:
    """Each pack, the largest first, into the batch with the least room that is enough."""
    batches: list[Pack] = []
    room: list[tuple[int, int]] = []  # (free rows, index of the batch), sorted
    for rows, members in packs:
        position = bisect_left(room, (rows - stem, -1))
        if position == len(room):
            insort(room, (budget - rows, len(batches)))
            batches.append((rows, list(members)))
            continue
        free, index = room.pop(position)
        filled, batch = batches[index]
        batches[index] = (filled + rows - stem, batch + members)
        insort(room, (free - rows + stem, index))
    return batches


def _best_sums(packs: list[Pack], stem: int, budget: int) -> list[Pack]:
    """The largest pack that waits, then those that together fill its room best."""
    sizes = [stem - rows for rows, _ in packs]  # negative, so that they ascend for bisection
    waiting = [members for _, members in packs]
    batches: list[Pack] = []
    while waiting:
        rows, members = stem - sizes.pop(0), list(waiting.pop(0))
        while rows < budget:
            first = bisect_left(sizes, rows - budget)
            step = max(1, (len(sizes) - first) // _CHOICES)
            fitting = range(first, len(sizes), step)
            chosen = _best_sum([-sizes[index] for index in fitting], budget - rows, budget // 256)
            if not chosen:
                break
            # From the back, so that the indices before stay right.
            for index in reversed(chosen):
                rows -= sizes.pop(fitting[index])
                members += waiting.pop(fitting[index])
        batches.append((rows, members))
    return batches


def _best_sum(sizes: list[int], room: int, slack: int) -> list[int]:
    """Indices of sizes whose sum fills the room best (up to the slack), the first preferred."""
    # Subset sums as bits of an integer: bit s is set where some of the sizes so far add up to s.
    mask, enough = (1 << (room + 1)) - 1, 1 << max(room - slack, 0)
    sums, history = 1, []
    for size in sizes:
        history.append(sums)
        sums |= sums << size & mask
        if sums >= enough:
            break
    total, chosen = sums.bit_length() - 1, []
    for index in range(len(history) - 1, -1, -1):
        # The total was not possible without this size: it is part of the sum.
        if not history[index] >> total & 1:
            chosen.append(index)
            total -= sizes[index]
    return chosen[::-1]
