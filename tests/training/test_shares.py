"""The shares of ranks: a pure function, every micro-batch once, none much longer than the mean."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from smorm.training.batches import MicroBatch
from smorm.training.distributed.ranks import Ranks
from smorm.training.distributed.shares import imbalance, in_multiples, shares
from tests.training.runs import prepared


@pytest.mark.parametrize("ranks", [1, 2, 3, 7])
@pytest.mark.parametrize("seed", range(5))
def test_every_micro_batch_is_one_rank_s_and_no_rank_has_a_third_too_much(
    ranks: int, seed: int
) -> None:
    rows = np.random.default_rng(seed).integers(1, 4000, 23).tolist()
    plan = shares(rows, ranks)
    assert sorted(index for indices in plan for index in indices) == list(range(23))
    loads = [sum(rows[index] for index in indices) for indices in plan]
    # Graham's bound of the longest first: 4/3 - 1/(3 ranks) of what no plan can be below.
    least = max(sum(rows) / ranks, max(rows))
    assert max(loads) <= least * (4 / 3 - 1 / (3 * ranks)) + 1
    assert plan == shares(list(rows), ranks)


def test_ranks_beyond_the_micro_batches_have_none() -> None:
    assert shares([5, 9], 4) == [[1], [0], [], []]
    assert shares([], 2) == [[], []]


def test_imbalance_is_the_busiest_over_the_mean() -> None:
    assert imbalance([30, 10, 20]) == pytest.approx(0.5)
    assert imbalance([7, 7]) == 0
    assert imbalance([0, 0]) == 0


@pytest.mark.parametrize("multiple_of", [1, 2, 3, 4])
@pytest.mark.parametrize("budget", [100, 300, 10**6])
def test_a_step_is_split_into_a_multiple_of_nearly_equal_parts(
    multiple_of: int, budget: int
) -> None:
    ready = prepared()
    units = [[pair.chosen, pair.rejected] for pair in ready.train.pairs[:12]]
    network = ready.network

    def split(tokens: int) -> list[list[int]]:
        return network.micro_batches(units, tokens)

    plan = in_multiples(split, network.count_rows(units), budget, multiple_of)
    assert sorted(index for members in plan for index in members) == list(range(12))
    assert len(plan) <= -(-len(split(budget)) // multiple_of) * multiple_of
    if budget == 10**6:
        assert len(plan) == multiple_of
        rows = [network.count_rows([units[index] for index in members]) for members in plan]
        assert max(rows) < 1.5 * sum(rows) / len(rows)


@pytest.mark.parametrize("world", [2, 3, 30])
def test_the_ranks_together_have_the_micro_batches_of_one(world: int) -> None:
    """The same numbers, so the same dropout; the same places among the pairs of the step."""
    ready = prepared()
    pairs, rated = ready.order.step(1)
    expected = list(ready.batcher.split(pairs, rated))
    found: list[MicroBatch] = []
    for rank in range(world):
        batcher = replace(ready.batcher, ranks=Ranks(rank, world))
        share = list(batcher.split(pairs, rated))
        assert [micro.last for micro in share] == [False] * (len(share) - 1) + [True] * min(
            1, len(share)
        )
        found += share
    found.sort(key=lambda micro: micro.number)
    assert [(m.number, m.first_pair, m.where) for m in found] == [
        (m.number, m.first_pair, m.where) for m in expected
    ]
