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


def only(found, metric="gold@256", **wanted):
    chosen = [
        one
        for one in found
        if one.metric == metric and all(getattr(one, k) == v for k, v in wanted.items())
    ]
    assert len(chosen) == 1
    return chosen[0]


def test_a_planted_difference_is_found_with_its_seeds():
    one = only(paired_differences(two(0.03)))
    assert (one.label, one.base, one.over) == ("SMORM", "Single", "seeds")
    assert one.better
    assert not one.worse
    assert one.difference.n == 6
    assert one.difference.low < 0.03 < one.difference.high


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
    one = only(paired_differences(results), "accuracy")
    values = [0.01 + 0.001 * seed for seed in range(5)]
    expected = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert (one.difference.low, one.difference.high) == pytest.approx(tuple(expected), abs=1e-6)
    assert one.p_value == pytest.approx(stats.ttest_1samp(values, 0).pvalue, abs=1e-9)


@given(st.randoms(use_true_random=False))
def test_the_order_of_runs_changes_no_difference(random):
    results = two(0.02, seeds=range(4))
    expected = {(p.label, p.base, p.metric): p.difference for p in paired_differences(results)}
    shuffled = list(results)
    random.shuffle(shuffled)
    found = paired_differences(shuffled, ["Single"])
    assert {(p.label, p.base, p.metric): p.difference for p in found} == expected


def test_unequal_seeds_are_compared_over_the_common_ones_and_counted():
    results = [one for one in two(0.03) if one.model == "Single" or one.fingerprint["seed"] > 1]
    one = only(paired_differences(results))
    assert (one.difference.n, one.unpaired) == (4, 2)
    assert [seed for seed, _ in one.by_seed] == ["2", "3", "4", "5"]


def test_without_two_common_seeds_nothing_is_compared():
    results = [one for one in two(0.03) if (one.fingerprint["seed"] > 2) == (one.model == "SMORM")]
    assert paired_differences(results) == []


def test_one_run_each_takes_the_difference_over_prompts_that_was_measured():
    base = stress_result("Single", "F", "ID", None, rising(0.7))
    other = stress_result("SMORM", "M", "ID", None, rising(0.8))
    told = {"of": dict(other.fingerprint), "less": dict(base.fingerprint)}
    measured = {"gold@256": Metric(0.1, 40, 0.05, 0.15)}
    apart = Result("difference", other.suite, "SMORM − Single", "M − F", measured, [], told)
    one = only(paired_differences([base, other, apart]))
    assert (one.over, one.difference) == ("prompts", measured["gold@256"])
    assert math.isnan(one.p_value)
    wrong = replace(apart, fingerprint={"of": {"model": "other"}, "less": told["less"]})
    assert paired_differences([base, other, wrong]) == []


def test_baselines_are_the_first_model_and_the_naive_ensemble_and_views_meet_their_first():
    sets = {"ID": rising(0.7)}
    methods = [("Single", "F"), ("SM", "mean"), ("SMORM", "F"), ("SMORM", "M")]
    found = paired_differences(runs(dict.fromkeys(methods, sets)))
    couples = {(one.label, one.base) for one in found}
    assert couples == {
        ("SM", "Single"),
        ("SMORM-F", "Single"),
        ("SMORM-F", "SM"),
        ("SMORM-M", "Single"),
        ("SMORM-M", "SM"),
        ("SMORM-M", "SMORM-F"),
    }
    chosen = paired_differences(runs(dict.fromkeys(methods, sets)), ["SMORM-M"])
    assert {one.base for one in chosen} == {"SMORM-M", "SMORM-F"}


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
    found = paired_differences(results)
    inside = only(found, suite="best-of-n/ID")
    outside = only(found, suite="best-of-n/OODtopic")
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
    found = two_sided(values)
    if expected is None:
        assert found == (1.0 if values[0] == 0 else found)
    else:
        assert found == pytest.approx(expected, abs=1e-9)


def test_student_needs_two_finite_values():
    assert math.isnan(two_sided([1.0]))
    assert math.isnan(two_sided([1.0, math.nan]))
    assert two_sided([0.5, 0.5, 0.5]) == 0.0


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_lies_between_no_correction_and_bonferroni_and_keeps_the_order(chances):
    found = holm(chances)
    for p, q in zip(chances, found, strict=True):
        assert p <= q <= min(1.0, p * len(chances)) + 1e-12 or q == max(found)
    order = sorted(range(len(chances)), key=lambda at: chances[at])
    assert [found[at] for at in order] == sorted(found)
    smallest = min(chances)
    assert found[chances.index(smallest)] == pytest.approx(min(1.0, smallest * len(chances)))


def test_holm_of_a_worked_example_leaves_missing_tests_out():
    found = holm([0.01, 0.04, math.nan, 0.03])
    assert found[:2] == pytest.approx([0.03, 0.06])
    assert math.isnan(found[2])
    assert found[3] == pytest.approx(0.06)
