"""RewardBench's published arithmetic on made-up scores; every section is worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smorm.errors import DataError
from smorm.evaluation.benchmarks import prior_sets, rewardbench, rewardbench_2
from smorm.evaluation.benchmarks.rewardbench import SECTIONS
from tests.evaluation.scoring import scored, values

WON, LOST, TIED = ([2], [1]), ([1], [2]), ([1], [1])


def test_the_published_sections_hold_23_subsets_and_2985_items_but_for_math():
    counts = {name: n for part in SECTIONS.values() for name, n in part.items()}
    assert len(counts) == 23
    assert sum(counts.values()) - 984 + 447 == 2985
    # math-prm weighs as much as all code
    assert counts["math-prm"] == sum(n for name, n in counts.items() if name.startswith("hep-"))


def test_sections_by_hand():
    """Chat (100 * 3/4 + 40 * 1/2) / 140; Reasoning (984 * 1/2 + 164 * 1) / 1148; Safety 0."""
    found = values(
        rewardbench.rule(
            scored(
                *(("alpacaeval-easy", *one) for one in (WON, WON, WON, LOST)),
                *(("mt-bench-med", *one) for one in (WON, LOST)),
                *(("math-prm", *one) for one in (WON, TIED)),
                ("hep-python", *WON),
                ("donotanswer", *LOST),
            )
        )
    )
    assert found["Chat"] == pytest.approx(95 / 140)
    assert found["Reasoning"] == pytest.approx(656 / 1148)
    assert found["Safety"] == 0
    assert "Chat Hard" not in found
    assert found["overall"] == pytest.approx((95 / 140 + 656 / 1148) / 3)
    assert found["subset/alpacaeval-easy"] == 0.75
    # the tie is a loss as published, and half beside it
    assert found["subset/math-prm"] == 0.5
    assert found["ties_half/Reasoning"] == pytest.approx((984 * 0.75 + 164) / 1148)
    # the rejected one is always the longer one here
    assert found["length_only/overall"] == 0
    assert found["overall_minus_length_only"] == pytest.approx(found["overall"])


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 2**32 - 1))
def test_sections_are_the_reference_arithmetic_on_every_subset(seed):
    generator = np.random.default_rng(seed)
    names = [name for part in SECTIONS.values() for name in part]
    items = [
        (name, [float(generator.integers(3))], [float(generator.integers(3))])
        for name in names
        for _ in range(int(generator.integers(1, 4)))
    ]
    found = values(rewardbench.rule(scored(*items)))
    accuracy = {
        name: np.mean([good[0] > other[0] for subset, good, other in items if subset == name])
        for name in names
    }
    expected = {
        section: sum(accuracy[name] * n for name, n in part.items()) / sum(part.values())
        for section, part in SECTIONS.items()
    }
    for section, value in expected.items():
        assert found[section] == pytest.approx(value)
    assert found["overall"] == pytest.approx(np.mean(list(expected.values())))


def test_subsets_of_another_benchmark_are_refused():
    with pytest.raises(DataError, match="none of the benchmark's subsets is here: found poetry"):
        rewardbench.rule(scored(("poetry", *WON)))


def test_prior_sets_are_a_plain_mean_of_four():
    found = values(
        prior_sets.rule(
            scored(
                *(("anthropic_helpful", *one) for one in (WON, WON, WON, LOST)),
                ("anthropic_hhh", *WON),
                ("shp", *LOST),
                *(("summarize", *one) for one in (WON, LOST)),
                ("mtbench_human", *LOST),  # measured, but not part of the mean
            )
        )
    )
    assert found["overall"] == pytest.approx((0.75 + 1 + 0 + 0.5) / 4)
    assert found["subset/mtbench_human"] == 0


TIES = (
    ("Ties", [5], [1, 0]),  # ref:0, gap 4
    ("Ties", [4, 3], [1]),  # tied:0, gap 2, spread 1
    ("Ties", [1], [2]),  # ref:1, gap -1
    ("Ties", [3, 1], [0]),  # tied:1, gap 1, spread 2
    ("Ties", [1, 1], [1]),  # tied:2, gap 0, without a ref
)
IDS = ["ref:0", "tied:0", "ref:1", "tied:1", "tied:2"]


def test_the_ties_score_by_hand():
    found = values(rewardbench_2.rule(scored(*TIES, ids=IDS)))
    assert found["Ties/tied_accuracy"] == pytest.approx(2 / 3)
    assert found["Ties/ref_accuracy"] == 0.5
    assert found["Ties/correctness_preferred"] == 0.5
    assert found["Ties/correctness_preferred_hard"] == 0.5
    margin = (math.tanh(2 / 1 - 1) + math.tanh(-1 / 2 - 1)) / 2
    assert found["Ties/correctness_margin"] == pytest.approx(margin)
    score = 0.3 * 2 / 3 + 0.3 * 0.5 + 0.2 * 0.5 + 0.2 * 0.5 + 0.01 * margin
    assert found["Ties"] == found["overall"] == pytest.approx(score)


def test_equal_right_answers_give_margins_of_one_minus_one_and_zero():
    """Spread 0: the margin is tanh of ±infinity, and 0 where the gap is 0 too."""
    for gap, expected in ((1.0, 1.0), (-1.0, -1.0), (0.0, 0.0)):
        items = (("Ties", [5], [0]), ("Ties", [2, 2], [2 - gap]))
        found = values(rewardbench_2.rule(scored(*items, ids=["ref:7", "tied:7"])))
        assert found["Ties/correctness_margin"] == expected


def test_the_best_of_four_shares_a_tie_at_the_top_and_domains_are_averaged():
    items = (
        ("Factuality", [3], [1, 1, 1]),
        ("Factuality", [2], [2, 1, 1]),
        ("Math", [1], [2, 0, 0]),
        ("Precise IF", [1], [1, 1, 1]),
        *TIES,
    )
    found = values(rewardbench_2.rule(scored(*items, ids=["", "", "", "", *IDS])))
    assert found["Factuality"] == 0.75
    assert found["Math"] == 0
    assert found["Precise IF"] == 0.25
    assert found["overall"] == pytest.approx((0.75 + 0 + 0.25 + found["Ties"]) / 4)


def test_a_ties_item_without_its_kind_is_named():
    with pytest.raises(DataError, match='expected an id "ref:N"'):
        rewardbench_2.rule(scored(("Ties", [1], [0]), ids=["17"]))


def test_both_items_of_a_ties_question_are_resampled_together():
    """20 questions, each with a ref and a tied item that agree: 20 clusters, not 40."""
    rng = np.random.default_rng(0)
    items, ids = [], []
    for number in range(20):
        gap = float(rng.integers(0, 2)) * 2 - 1
        items += [("Ties", [gap], [0]), ("Ties", [gap, gap + 0.1], [0])]
        ids += [f"ref:{number}", f"tied:{number}"]
    together = rewardbench_2.rule(scored(*items, ids=ids)).metrics()
    parts = together["Ties/ref_accuracy"]
    whole = together["Ties"]
    # all parts of the score move together, so its interval is as wide as each part's
    assert whole.high - whole.low > 0.9 * (parts.high - parts.low)


# Intervals of the Ties score, which may be above 1 and below 0 by its margin


def ties_file(generator, gap, spread):
    """Up to five questions of Ties, with or without their pendants, and items of other domains;
    right answers lie `gap` above wrong ones but for noise."""
    items, ids = [], []
    for number in range(generator.integers(1, 6)):
        for kind in (("ref", "tied"), ("ref",), ("tied",))[generator.integers(3)]:
            right = gap + spread * generator.normal(size=1 if kind == "ref" else 3).round(1)
            wrong = spread * generator.normal(size=generator.integers(1, 4)).round(1)
            items.append(("Ties", right, wrong))
            ids.append(f"{kind}:{number}")
    for domain in generator.choice(["Math", "Focus"], size=generator.integers(0, 4)):
        items.append((str(domain), generator.normal(size=1) + gap, generator.normal(size=3)))
        ids.append("")
    return scored(*items, ids=ids)


@settings(deadline=None, max_examples=60, derandomize=True)
@given(
    st.integers(0, 2**32 - 1), st.sampled_from([-9.0, 0.0, 1.0, 9.0]), st.sampled_from([0, 0.1, 2])
)
def test_every_interval_holds_its_value(seed, gap, spread):
    items = ties_file(np.random.default_rng(seed), gap, spread)
    for name, metric in rewardbench_2.rule(items).metrics().items():
        assert math.isnan(metric.low) or metric.low <= metric.value <= metric.high, name


def test_a_perfect_ties_score_has_wilsons_interval_around_a_value_above_one():
    """Three questions without a fault: the four shares are 1 and their margins nearly so."""
    items = []
    for _ in range(3):
        items += [("Ties", [9.0], [0.0]), ("Ties", [9.0, 8.9], [0.0])]
    ids = [f"{kind}:{number}" for number in range(3) for kind in ("ref", "tied")]
    found = rewardbench_2.rule(scored(*items, ids=ids)).metrics()
    assert found["Ties"].value == pytest.approx(1.01, abs=1e-6)
    width = 1.959963984540054**2 / (3 + 1.959963984540054**2)
    assert found["Ties"].low == pytest.approx(1.01 - width, abs=1e-6)
    assert found["Ties"].high == found["Ties"].value
    assert found["overall"].low <= found["overall"].value <= found["overall"].high
