"""What units cost in one forward pass: exactly the rows that a forest of them has.

Shapes: U units, S sequences.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from smorm.trees.forest import MIN_SHARE, Tokens, common_prefix, sort_key

Unit = Sequence[Tokens]
Members = list[int]
Integers = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Costs:
    """What any set of units costs in one forward pass.

    Attributes:
        order: the units, sorted by their tokens: all members below are places in it, [U].
        unit: member that each sequence is of, the sequences in the forest's order, [S].
        lengths: tokens of each sequence, [S].
        common: tokens that each has in common with the sequence before it, and a 0 behind, [S + 1].
        places: the sequences of each member.
    """

    order: list[int]
    unit: Integers
    lengths: Integers
    common: Integers
    places: list[Integers]

    def sequences(self, members: Members) -> Integers:
        """Their sequences, in the forest's order."""
        found = np.concatenate([self.places[i] for i in members])
        found.sort()
        return found

    def shared(self, sequences: Integers) -> tuple[Integers, NDArray[np.bool_]]:
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


Cost = Callable[[Sequence[Unit]], Costs]


def forest_cost(units: Sequence[Unit]) -> Costs:
    """Costs where equal beginnings are computed once."""
    return _costs(units, share=True)


def packed_cost(units: Sequence[Unit]) -> Costs:
    """Costs where nothing is shared."""
    return _costs(units, share=False)


def _costs(units: Sequence[Unit], share: bool) -> Costs:
    flat = [tokens for unit in units for tokens in unit]
    keys = [sort_key(tokens) for tokens in flat]
    ordered = sorted(range(len(flat)), key=keys.__getitem__)
    lengths = np.array([len(tokens) for tokens in flat])
    common, rank = np.zeros(len(flat) + 1, dtype=np.int64), [0] * len(flat)
    for place, (before, here) in enumerate(itertools.pairwise(ordered), start=1):
        equal = keys[before] == keys[here]
        rank[here] = rank[before] + (not equal)
        if share:
            common[place] = lengths[here] if equal else common_prefix(flat[before], flat[here])
    # Equal sequences have one rank: the order of the units decides nothing but equal units' names.
    ends = list(itertools.accumulate(map(len, units)))
    ranks = [rank[end - len(unit) : end] for unit, end in zip(units, ends, strict=True)]
    order = sorted(range(len(units)), key=ranks.__getitem__)
    member = np.argsort(order)
    places = np.split(np.argsort(ordered), ends[:-1])
    return Costs(
        order=order,
        unit=np.repeat(member, [len(unit) for unit in units])[ordered],
        lengths=lengths[ordered],
        common=common,
        places=[places[i] for i in order],
    )
