"""Outcomes of items with several good responses and ties, and the rules over them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smorm.errors import DataError
from smorm.evaluation.accuracy import expected_wins, wins
from smorm.evaluation.benchmarks import best_of_k, judgebench, llmbar, rewardbench_2, rmb
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


def test_chance_levels_are_the_share_of_good_responses_weighted_as_the_number():
    items = scored(("a", [2], [1]), ("a", [2], [1, 1, 1]), ("b", [3, 2], [1]))
    levels = best_of_k.rule(items).chance_levels()
    assert levels["overall"] == pytest.approx((1 / 2 + 1 / 4 + 2 / 3) / 3)
    assert levels["subset/a"] == pytest.approx(3 / 8)
    assert "overall_minus_length_only" not in levels
    sections = judgebench.rule(scored(("mmlu-pro-law", *WON), ("livecodebench", *LOST)))
    assert sections.chance_levels()["knowledge"] == pytest.approx(0.5)


@settings(deadline=None, max_examples=5)
@given(st.integers(0, 2**32 - 1))
def test_random_scores_get_about_the_chance_level(seed):
    generator = np.random.default_rng(seed)
    sizes = [(int(good), int(bad)) for good, bad in generator.integers(1, 5, (4000, 2))]
    items = scored(
        *(("a", generator.normal(size=good), generator.normal(size=bad)) for good, bad in sizes)
    )
    table = best_of_k.rule(items)
    level = table.chance_levels()["overall"]
    assert values(table)["overall"] == pytest.approx(level, abs=4 * 0.5 / 4000**0.5)


def test_rewardbench_2_has_a_chance_level_where_ties_have_a_part_too():
    plain = rewardbench_2.rule(scored(("Math", [1], [2, 0, 0]), ("Focus", [1], [2, 0, 0])))
    assert plain.chance_levels()["overall"] == pytest.approx(0.25)
    items = (("Math", [1], [2, 0, 0]), ("Ties", [5], [1, 0]), ("Ties", [4, 3], [1]))
    with_ties = rewardbench_2.rule(scored(*items, ids=["", "ref:0", "tied:0"])).chance_levels()
    assert with_ties["Math"] == pytest.approx(0.25)
    # one right answer above two wrong ones, and two above one: a third each
    assert with_ties["Ties/ref_accuracy"] == pytest.approx(1 / 3, abs=0.05)
    assert with_ties["Ties/tied_accuracy"] == pytest.approx(1 / 3, abs=0.05)
    assert with_ties["overall"] == pytest.approx((0.25 + with_ties["Ties"]) / 2)
