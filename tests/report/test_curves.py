"""Curves out of results: means over seeds, common points, peaks that are not noise."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from smorm.errors import DataError
from smorm.evaluation.metrics import Metric, mean_over_seeds
from smorm.evaluation.result import Result
from smorm.report.curves import curves_of, id_first, peak_of
from tests.report.made_up import (
    SIZES,
    hacked,
    kl_of,
    policy_result,
    rising,
    runs,
    stress_result,
    training_result,
)


def test_a_curve_is_the_mean_over_seeds_with_students_interval_at_each_point():
    results = runs({("a", "F"): {"ID": rising(0.8)}}, range(4), 0.02)
    (curve,) = curves_of(results)
    assert (curve.family, curve.prompts, curve.label, curve.seeds) == ("best-of-n", "ID", "a", 4)
    assert curve.at == SIZES
    values = [result.items[5]["gold"]["value"] for result in results]
    expected = mean_over_seeds(values, 40)
    assert curve.values["gold"][5] == expected
    assert curve.values["kl"][5].value == pytest.approx(kl_of(32))
    assert curve.runs["2"]["gold"][5] == values[2]


def test_a_single_run_keeps_its_own_intervals():
    (curve,) = curves_of([stress_result("a", "F", "ID", None, rising(0.8))])
    last = curve.values["gold"][-1]
    assert (last.value, last.low, last.high) == pytest.approx((0.8, 0.78, 0.82))
    assert curve.runs == {}


def test_points_that_a_seed_lacks_are_left_out_and_counted():
    results = runs({("a", "F"): {"ID": rising(0.8)}}, range(2))
    short = replace(results[1], items=results[1].items[:-2])
    (curve,) = curves_of([results[0], short])
    assert curve.at == SIZES[:-2]
    assert curve.dropped_points == 2


def test_in_distribution_comes_first_and_the_others_as_they_are():
    results = runs({("a", "F"): {s: rising(0.8) for s in ("far", "OODtopic", "ID")}}, range(1))
    assert id_first(curve.prompts for curve in curves_of(results)) == ["ID", "far", "OODtopic"]


def test_policies_and_losses_have_curves_along_steps():
    results = [policy_result("a", "F", "ID", seed, [0.5, 0.6, 0.55]) for seed in range(3)]
    results += [training_result("a", seed, [1.0, 0.5]) for seed in range(3)]
    policy, loss = curves_of(results)
    assert (policy.family, policy.at) == ("ppo", (0, 5, 10))
    assert (loss.kind, loss.prompts, [m.value for m in loss.values["loss"]]) == (
        "training",
        "",
        [1.0, 0.5],
    )


def test_results_without_points_have_no_curve():
    empty = replace(stress_result("a", "F", "ID", 0, rising(0.8)), items=[])
    elsewhere = replace(empty, suite="best-of-n/x", items="points.json")
    assert curves_of([empty, elsewhere]) == []


@pytest.mark.parametrize(
    "item",
    [
        7,
        {"kl": 0.5},
        {"n": "two"},
        {"n": 2, "gold": [1]},
        {"n": 2, "gold": {"low": 1}},
        {"n": 2, "gold": {"value": "x"}},
    ],
)
def test_a_point_that_is_not_of_the_contract_is_named(item):
    result = Result("stress", "best-of-n/ID", "SMORM", "F", {}, [{"n": 1, "kl": 0}, item])
    with pytest.raises(DataError, match=r"best-of-n/ID, SMORM: items\[1\]"):
        curves_of([result])


def test_a_planted_peak_and_fall_are_found():
    (curve,) = curves_of(runs({("a", "F"): {"ID": hacked(0.7, 0.6)}}, range(5)))
    peak = peak_of(curve)
    assert (peak.at, peak.last) == (16, 256)
    assert peak.drops
    assert peak.drop.low < 0.1 < peak.drop.high


def test_noise_on_a_flat_curve_is_no_fall():
    """At its own peak every seed falls; at the peak of the others it does so by chance only."""
    rng = np.random.default_rng(4)
    peaks = []
    for _ in range(60):
        results = [
            stress_result("a", "F", "ID", seed, list(0.5 + 0.05 * rng.standard_normal(len(SIZES))))
            for seed in range(6)
        ]
        (curve,) = curves_of(results)
        peaks.append(peak_of(curve))
    assert sum(peak.drops for peak in peaks) <= 9  # 2.5 % one-sided: 1.5 of 60; own peaks: all
    assert abs(np.mean([peak.drop.value for peak in peaks])) < 0.02


def test_a_rising_curve_has_its_peak_at_the_end():
    (curve,) = curves_of(runs({("a", "F"): {"ID": rising(0.9)}}, range(3)))
    peak = peak_of(curve)
    assert (peak.at, peak.drops) == (256, False)


def test_a_single_run_takes_the_fall_that_it_measured():
    (curve,) = curves_of([stress_result("a", "F", "ID", None, hacked(0.7, 0.6))])
    measured = Metric(0.1, 40, 0.06, 0.14)
    assert peak_of(curve, measured).drop == measured
    assert math.isnan(peak_of(curve).drop.low)
    assert not peak_of(curve).drops


def test_a_curve_that_falls_and_rises_again_has_fallen():
    middle = len(SIZES) // 2
    again = [*np.linspace(0.5, 0.7, middle), 0.6, *np.linspace(0.65, 0.69, len(SIZES) - middle - 1)]
    (curve,) = curves_of(runs({("a", "F"): {"ID": again}}, range(5)))
    peak = peak_of(curve)
    assert (peak.at, peak.last) == (SIZES[middle - 1], SIZES[middle])
    assert peak.drops
    # a single run of an older file has its fall to the last point alone
    (old,) = curves_of([stress_result("a", "F", "ID", None, again)])
    assert peak_of(old, Metric(0.01, 40, -0.1, 0.1), to_end=True).last == SIZES[-1]


def test_a_curve_without_finite_gold_has_no_peak():
    result = stress_result("a", "F", "ID", None, [math.nan] * len(SIZES))
    (curve,) = curves_of([result])
    assert peak_of(curve) is None
    assert peak_of(replace(curve, values={})) is None
