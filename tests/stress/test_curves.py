"""Curves by hand, their laws, and what is found in worlds where over-optimisation is planted."""

from __future__ import annotations

import math

import numpy as np
import pytest

from smorm.stress.best_of_n import doubling_sizes, kl_of
from smorm.stress.curves import ScoredPools, measure, shape_of
from smorm.stress.symptoms import text_measures
from tests.stress.made_up import enumerated, pool


def pushed(proxies, golds, sizes=None, texts=None):
    pools = [pool(f"p{at}", (texts or [["a b"] * len(one)] * len(proxies))[at])
             for at, one in enumerate(proxies)]  # fmt: skip
    sizes = sizes or doubling_sizes(min(map(len, proxies)))
    measures = [text_measures(one.texts) for one in pools]
    return ScoredPools(pools, [np.array(p, float) for p in proxies],
                  [np.array(g, float) for g in golds], measures, sizes)  # fmt: skip


def gap_of(one, other, name):
    found = one.outcomes.difference(other.outcomes)[name]
    return found.value, found.low, found.high


def hacked(prompts=40, answers=64, seed=0):
    """Gold rises with the proxy up to its upper part, and falls steeply there."""
    rng = np.random.default_rng(seed)
    proxies = rng.normal(size=(prompts, answers))
    golds = np.where(proxies < 1.0, proxies, 1.0 - 4.0 * (proxies - 1.0))
    return proxies, golds + 0.1 * rng.normal(size=golds.shape)


def test_a_curve_equals_enumeration():
    proxies, golds = [[1, 2, 2, 5], [3, 1, 0, 0]], [[4, 1, 3, 0], [1, 2, 7, 1]]
    measurement, points = measure(pushed(proxies, golds, (1, 2, 3, 4)))
    for size, point in zip((1, 2, 3, 4), points, strict=True):
        want = np.mean([enumerated(np.array(p), np.array(g), size)
                        for p, g in zip(proxies, golds, strict=True)])  # fmt: skip
        assert measurement.metrics[f"gold@{size}"].value == pytest.approx(want)
        assert point["gold"]["value"] == pytest.approx(want)
        assert (point["n"], point["kl"]) == (size, kl_of(size))
    assert measurement.metrics["oracle"].value == pytest.approx((4 + 7) / 2)
    assert measurement.metrics["gold@1"].value == pytest.approx((2 + 2.75) / 2)
    assert measurement.metrics["proxy@1"].value == pytest.approx(0.0)


def test_planted_over_optimisation_is_found_where_it_is():
    measurement, _ = measure(pushed(*hacked()))
    numbers = measurement.metrics
    assert 2 <= numbers["peak"].value <= 8
    assert numbers["fall"].low > 0
    assert numbers["drop"].low > 0
    assert numbers["drop"].value >= numbers["fall"].value
    assert numbers["peak"].value < numbers["onset"].value <= 64
    assert numbers["gain"].high < 0  # worse than no choice at all
    assert numbers["divergence"].low > 0
    assert numbers["law/beta"].low > 0
    assert numbers["law/r2"].value > 0.8


def test_a_proxy_that_is_the_gold_is_never_over_optimised():
    golds = np.random.default_rng(1).normal(size=(30, 32))
    numbers = measure(pushed(3.0 * golds + 2.0, golds))[0].metrics
    assert numbers["peak"].value == 32
    fall = numbers["fall"]
    assert [str(one) for one in (fall.value, fall.low, fall.high)] == ["0.0"] * 3  # not "-0.0"
    assert math.isnan(numbers["onset"].value)
    assert numbers["regret"].value == pytest.approx(0.0)
    assert numbers["divergence"].value == pytest.approx(0.0)
    assert numbers["gain"].low > 0


def test_a_proxy_that_knows_nothing_gains_nothing():
    rng = np.random.default_rng(2)
    numbers = measure(pushed(rng.normal(size=(60, 32)), rng.normal(size=(60, 32))))[0].metrics
    assert numbers["gain"].low < 0 < numbers["gain"].high
    assert numbers["regret"].low > 0
    assert numbers["peak"].value < 32  # where chance put it
    assert numbers["fall"].low < 0 < numbers["fall"].high
    assert math.isnan(numbers["onset"].value)  # the fall behind it is chance too
    assert numbers["drop"].low < 0 < numbers["drop"].value


def test_a_curve_that_falls_and_rises_again_has_fallen():
    rng = np.random.default_rng(3)
    positions = (1, 2, 4, 8, 16)
    table = np.array([0.0, 1.0, 0.2, 0.8, 0.97]) + 0.1 * rng.normal(size=(40, 5))
    numbers = shape_of(table, positions, [str(index) for index in range(40)])
    assert numbers["trough"].value == 4
    assert 0.6 < numbers["drop"].low < 0.8 < numbers["drop"].high < 0.95
    assert numbers["fall"].value < 0.1


def test_neither_the_order_of_answers_nor_an_affine_proxy_changes_a_number():
    proxies, golds = hacked(12, 9)
    plain = measure(pushed(proxies, golds))[0].metrics
    answers = np.random.default_rng(3).permutation(9)
    moved = measure(pushed(5.0 * proxies[:, answers] - 7.0, golds[:, answers]))[0].metrics
    for name, metric in plain.items():
        assert moved[name].value == pytest.approx(metric.value, abs=1e-9, nan_ok=True), name
        assert moved[name].low == pytest.approx(metric.low, abs=1e-9, nan_ok=True), name


def test_the_difference_of_two_proxies_is_paired():
    proxies, golds = hacked()
    rng = np.random.default_rng(4)
    one = measure(pushed(proxies, golds))[0]
    other = measure(pushed(proxies + 0.05 * rng.normal(size=proxies.shape), golds))[0]
    gap = one.outcomes.difference(other.outcomes)["gold@8"]
    own = one.metrics["gold@8"]
    for name in ("gold@1", "proxy@1", "oracle"):  # no proxy has a part in these
        assert gap_of(one, other, name) == (0.0, 0.0, 0.0)
    assert gap.value == pytest.approx(own.value - other.metrics["gold@8"].value)
    assert gap.high - gap.low < (own.high - own.low) / 2


def test_length_and_repetition_slopes_see_a_proxy_that_likes_length():
    texts = [[" ".join(["word"] * size) for size in range(1, 9)] for _ in range(5)]
    proxies = [[float(size) for size in range(1, 9)]] * 5
    golds = [[1.0, 2, 1, 2, 1, 2, 1, 2]] * 5
    numbers = measure(pushed(proxies, golds, texts=texts))[0].metrics
    assert numbers["slope/length"].value > 0
    assert numbers["slope/repetition"].value > 0
    assert numbers["slope/distinct_2"].value < 0
    assert numbers["slope/format"].value == 0.0


def test_two_points_say_nothing_of_how_well_the_law_fits():
    proxies, golds = hacked(12, 9)
    assert math.isnan(measure(pushed(proxies, golds, (1, 3, 9)))[0].metrics["law/r2"].value)
    assert measure(pushed(proxies, golds, (1, 3, 5, 9)))[0].metrics["law/r2"].value < 1.0


def test_one_prompt_gives_numbers_without_intervals():
    numbers = measure(pushed([[1.0, 2, 3]], [[3.0, 1, 2]]))[0].metrics
    assert numbers["gold@3"].value == 2.0
    assert math.isnan(numbers["gold@3"].low)
    assert math.isnan(numbers["peak"].low)
