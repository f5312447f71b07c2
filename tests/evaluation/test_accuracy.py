"""Outcomes of items with several good responses and ties, and the rules over them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from smorm.errors import DataError
from smorm.evaluation.accuracy import expected_wins, wins
from smorm.evaluation.benchmarks import best_of_k, judgebench, llmbar, rmb
from tests.evaluation.scoring import scored, values

WON, LOST, TIED = ([2], [1]), ([1], [2]), ([1], [1])


def test_a_tie_at_the_top_is_shared_and_a_loss_under_the_strict_rule():
    cases = [
        ([2, 1], 1, 1.0, 1.0),
        ([1, 1], 1, 0.0, 0.5),
        ([1, 1, 1, 1], 1, 0.0, 0.25),
        ([3, 1, 3, 0], 2, 0.0, 0.5),  # one good and one other at the top
        ([3, 3, 1], 2, 1.0, 1.0),  # two good ones tie: no matter
        ([0, 1], 1, 0.0, 0.0),
    ]
    for scores, chosen, strict, shared in cases:
        array = np.array(scores, dtype=float)
        assert wins(array, chosen) == strict
        assert expected_wins(array, chosen) == pytest.approx(shared)


@given(st.lists(st.integers(0, 3), min_size=2, max_size=6), st.data())
def test_a_rule_sees_only_the_order_of_scores(scores, data):
    chosen = data.draw(st.integers(1, len(scores) - 1))
    plain = np.array(scores, dtype=float)
    for rule in (wins, expected_wins):
        assert rule(plain * 7.0 - 3.0, chosen) == rule(plain, chosen)
        assert 0.0 <= rule(plain, chosen) <= 1.0
    assert wins(plain, chosen) <= expected_wins(plain, chosen)


def test_best_of_k_is_the_mean_over_items_with_each_subset_beside():
    found = values(best_of_k.rule(scored(("a", *WON), ("a", *WON), ("a", *TIED), ("b", *LOST))))
    assert found["overall"] == pytest.approx(2.5 / 4)
    assert found["subset/a"] == pytest.approx(2.5 / 3)
    assert found["subset/b"] == 0


def test_items_without_a_subset_have_only_the_overall_number():
    found = values(best_of_k.rule(scored(("", *WON), ("", *LOST))))
    assert found["overall"] == 0.5
    assert not [name for name in found if name.startswith("subset/")]


def test_judgebench_pools_subjects_into_categories_and_counts_pairs():
    found = values(
        judgebench.rule(
            scored(
                ("mmlu-pro-law", *WON), ("mmlu-pro-law", *LOST), ("mmlu-pro-physics", *WON),
                ("livebench-math", *LOST), ("livecodebench", *TIED),
            )
        )
    )  # fmt: skip
    assert found["knowledge"] == pytest.approx(2 / 3)
    assert (found["math"], found["coding"]) == (0, 0)
    assert found["overall"] == pytest.approx(2 / 5)
    assert found["ties_half/overall"] == pytest.approx(2.5 / 5)


def test_llmbar_averages_its_four_adversarial_sets():
    found = values(
        llmbar.rule(
            scored(
                ("Natural", *WON), ("Adversarial/GPTInst", *WON), ("Adversarial/GPTInst", *WON),
                ("Adversarial/GPTInst", *WON), ("Adversarial/Manual", *LOST),
            )
        )
    )  # fmt: skip
    assert found["Natural"] == 1
    assert found["Adversarial"] == 0.5
    assert found["overall"] == pytest.approx(4 / 5)


def test_rmb_averages_goals_and_ways():
    found = values(
        rmb.rule(
            scored(
                ("best-of-n/Helpfulness/Chat", [3], [1, 2]),
                ("best-of-n/Helpfulness/Code", [1], [1, 0]),
                ("pairs/Helpfulness/Chat", *WON),
                ("pairs/Harmlessness/S1", *LOST),
            )
        )
    )
    assert found["Helpfulness/best-of-n"] == 0.5
    assert found["Helpfulness/pairs"] == 1
    assert found["Harmlessness/pairs"] == 0
    assert found["overall"] == pytest.approx(0.5)


def test_items_that_compare_nothing_or_are_not_finite_are_named():
    with pytest.raises(DataError, match="item 0: 2 good of 2 responses"):
        scored(("a", [1, 2], [])).check()
    with pytest.raises(DataError, match="NaN or infinite"):
        scored(("a", [1], [np.nan])).check()
