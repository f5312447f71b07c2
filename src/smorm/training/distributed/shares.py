"""Which rank computes which micro-batches of a step: a pure function, equal on every rank.

The micro-batches themselves do not depend on the number of ranks, so that the loss curve does not:
`training.step_parts` says of what number they are a multiple, and a run that goes on keeps it."""

import heapq
from collections.abc import Callable, Sequence

Plan = list[list[int]]
"""Indices of units, by micro-batch."""
_STEPS = 64
"""A smaller budget is looked for in steps of this part of the largest one."""


def in_multiples(split: Callable[[int], Plan], total: int, budget: int, multiple_of: int) -> Plan:
    """The micro-batches that `split` makes of a budget; their number is a multiple of `multiple_of`
    where that can be, and they are nearly equal. `total` are the rows of all units together."""
    plan = split(budget)
    count = -(-len(plan) // multiple_of) * multiple_of
    if len(plan) == count:
        return plan
    # A budget beyond all of it makes the same as one of all of it.
    low, high = -(-total // count), min(budget, total)
    nearly = high // _STEPS
    while high - low > nearly:
        middle = (low + high) // 2
        smaller = split(middle)
        if len(smaller) <= count:
            plan, high = smaller, middle
        else:
            low = middle + 1
    return plan


def shares(rows: Sequence[int], ranks: int) -> list[list[int]]:
    """The micro-batches of each rank, in their order: of these `rows`, each goes, the longest
    first, to the rank that has least. Ranks beyond the number of micro-batches have none."""
    loads = [(0, rank) for rank in range(ranks)]
    of_rank: list[list[int]] = [[] for _ in range(ranks)]
    for index in sorted(range(len(rows)), key=lambda index: -rows[index]):
        load, rank = heapq.heappop(loads)
        of_rank[rank].append(index)
        heapq.heappush(loads, (load + rows[index], rank))
    return [sorted(indices) for indices in of_rank]


def imbalance(tokens: Sequence[float]) -> float:
    """How much more the busiest rank computes than the mean of all: 0 where all have as much."""
    mean = sum(tokens) / len(tokens)
    return max(tokens) / mean - 1 if mean else 0.0
