"""Paired differences over seeds: planted ones are found, and nothing else changes them."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from smorm.errors import ConfigError
from smorm.evaluation.metrics import Metric
from smorm.evaluation.result import Result
from smorm.report.paired import (
    growth_of,
    holm,
    paired_differences,
    representative_sizes,
    two_sided,
)
from tests.report.made_up import rising, runs, stress_result

numbers = st.floats(-5, 5).map(lambda x: round(x, 3))


def two(gap, noise=0.004, seeds=range(6)):
    return runs(
        {
            ("Single", "F"): {"ID": rising(0.70)},
            ("SMORM", "F"): {"ID": rising(0.70 + gap)},
        },
        seeds,
        noise,
    )


def only(pairs, metric="gold@256", **attributes):
    chosen = [
        pair
        for pair in pairs
        if pair.metric == metric and all(getattr(pair, k) == v for k, v in attributes.items())
    ]
    assert len(chosen) == 1
    return chosen[0]


def test_a_planted_difference_is_found_with_its_seeds():
    pair = only(paired_differences(two(0.03)))
    assert (pair.label, pair.base, pair.over) == ("SMORM", "Single", "seeds")
    assert pair.better
    assert not pair.worse
    assert pair.difference.n == 6
    assert pair.difference.low < 0.03 < pair.difference.high


def test_a_planted_loss_is_found_and_noise_alone_is_not():
    assert only(paired_differences(two(-0.05))).worse
    same = only(paired_differences(two(0.0, noise=0.01)))
    assert not same.better
    assert not same.worse


def test_pairing_takes_out_what_the_seeds_share():
    shared = [0.3, -0.2, 0.1, 0.0, -0.4]
    results = [
        Result("eval", "pairs/ID", model, "F", {"accuracy": Metric(0.5 + luck + gain, 9)}, [],
               {"seed": seed})
        for seed, luck in enumerate(shared)
        for model, gain in (("a", 0.0), ("b", 0.01 + 0.001 * seed))
    ]  # fmt: skip
    pair = only(paired_differences(results), "accuracy")
    values = [0.01 + 0.001 * seed for seed in range(5)]
    expected = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert (pair.difference.low, pair.difference.high) == pytest.approx(tuple(expected), abs=1e-6)
    assert pair.p_value == pytest.approx(stats.ttest_1samp(values, 0).pvalue, abs=1e-9)


@given(st.randoms(use_true_random=False))
def test_the_order_of_runs_changes_no_difference(random):
    results = two(0.02, seeds=range(4))
    expected = {(p.label, p.base, p.metric): p.difference for p in paired_differences(results)}
    shuffled = list(results)
    random.shuffle(shuffled)
    pairs = paired_differences(shuffled, ["Single"])
    assert {(p.label, p.base, p.metric): p.difference for p in pairs} == expected


def test_unequal_seeds_are_compared_over_the_common_ones_and_counted():
    results = [r for r in two(0.03) if r.model == "Single" or r.fingerprint["seed"] > 1]
    pair = only(paired_differences(results))
    assert (pair.difference.n, pair.unpaired) == (4, 2)
    assert [seed for seed, _ in pair.by_seed] == ["2", "3", "4", "5"]


def test_without_two_common_seeds_nothing_is_compared():
    results = [r for r in two(0.03) if (r.fingerprint["seed"] > 2) == (r.model == "SMORM")]
    assert paired_differences(results) == []


def test_one_run_each_takes_the_difference_over_prompts_that_was_measured():
    base = stress_result("Single", "F", "ID", None, rising(0.7))
    method = stress_result("SMORM", "M", "ID", None, rising(0.8))
    compared = {"of": dict(method.fingerprint), "less": dict(base.fingerprint)}
    measured = {"gold@256": Metric(0.1, 40, 0.05, 0.15)}
    difference = Result(
        "difference", method.suite, "SMORM − Single", "M − F", measured, [], compared
    )
    pair = only(paired_differences([base, method, difference]))
    assert (pair.over, pair.difference) == ("prompts", measured["gold@256"])
    assert math.isnan(pair.p_value)
    wrong = replace(difference, fingerprint={"of": {"model": "other"}, "less": compared["less"]})
    assert paired_differences([base, method, wrong]) == []


def test_baselines_are_the_first_model_and_the_naive_ensemble_and_views_meet_their_first():
    sets = {"ID": rising(0.7)}
    methods = [("Single", "F"), ("SM", "mean"), ("SMORM", "F"), ("SMORM", "M")]
    pairs = paired_differences(runs(dict.fromkeys(methods, sets)))
    couples = {(pair.label, pair.base) for pair in pairs}
    assert couples == {
        ("SM", "Single"),
        ("SMORM-F", "Single"),
        ("SMORM-F", "SM"),
        ("SMORM-M", "Single"),
        ("SMORM-M", "SM"),
        ("SMORM-M", "SMORM-F"),
    }
    chosen = paired_differences(runs(dict.fromkeys(methods, sets)), ["SMORM-M"])
    assert {pair.base for pair in chosen} == {"SMORM-M", "SMORM-F"}


def test_a_baseline_that_is_in_no_result_is_an_error_that_names_what_is_there():
    with pytest.raises(ConfigError, match=r"baseline Nobody: .* Single, SMORM"):
        paired_differences(two(0.0), ["Nobody"])


def test_a_larger_gain_out_of_distribution_is_found_over_common_seeds():
    results = runs(
        {
            ("Single", "F"): {"ID": rising(0.7), "OODtopic": rising(0.6)},
            ("SMORM", "F"): {"ID": rising(0.72), "OODtopic": rising(0.68)},
        }
    )
    pairs = paired_differences(results)
    inside = only(pairs, suite="best-of-n/ID")
    outside = only(pairs, suite="best-of-n/OODtopic")
    shift = growth_of(outside, inside)
    assert shift is not None
    assert shift.low < 0.06 < shift.high
    assert shift.low > 0


def test_the_representative_sizes_are_the_largest_and_its_roots():
    names = [f"gold@{2**power}" for power in range(9)]
    assert representative_sizes(names) == ["gold@16", "gold@64", "gold@256"]
    assert representative_sizes(["gold@1", "gold@4"]) == ["gold@4"]
    assert representative_sizes(["gold@last", "accuracy"]) == []


@given(st.lists(numbers, min_size=2, max_size=12))
def test_student_is_that_of_scipy(values):
    expected = stats.ttest_1samp(values, 0).pvalue if len(set(values)) > 1 else None
    p_value = two_sided(values)
    if expected is None:
        assert p_value == (1.0 if values[0] == 0 else p_value)
    else:
        assert p_value == pytest.approx(expected, abs=1e-9)


def test_student_needs_two_finite_values():
    assert math.isnan(two_sided([1.0]))
    assert math.isnan(two_sided([1.0, math.nan]))
    assert two_sided([0.5, 0.5, 0.5]) == 0.0


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_lies_between_no_correction_and_bonferroni_and_keeps_the_order(p_values):
    adjusted = holm(p_values)
    for p, q in zip(p_values, adjusted, strict=True):
        assert p <= q <= min(1.0, p * len(p_values)) + 1e-12 or q == max(adjusted)
    order = sorted(range(len(p_values)), key=lambda at: p_values[at])
    assert [adjusted[at] for at in order] == sorted(adjusted)
    smallest = min(p_values)
    assert adjusted[p_values.index(smallest)] == pytest.approx(min(1.0, smallest * len(p_values)))


def test_holm_of_a_worked_example_leaves_missing_tests_out():
    adjusted = holm([0.01, 0.04, math.nan, 0.03])
    assert adjusted[:2] == pytest.approx([0.03, 0.06])
    assert math.isnan(adjusted[2])
    assert adjusted[3] == pytest.approx(0.06)
