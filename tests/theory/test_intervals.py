"""Intervals of ratios, quantiles and correlations, against what is known."""

from __future__ import annotations

import numpy as np
import pytest

from smorm.theory.intervals import (
    of_means,
    pearson_metric,
    quantile_metric,
    ratio,
    within_prompt,
)


def test_a_ratio_of_means_is_that_and_its_interval_holds_the_truth_about_as_often_as_promised():
    hits = 0
    for seed in range(100):
        rng = np.random.default_rng(seed)
        x = rng.standard_normal(150)
        y = 2 * x + rng.standard_normal(150)
        found = ratio(x * y, x * x, list(range(150)))
        assert found.value == pytest.approx((x * y).mean() / (x * x).mean())
        hits += found.low <= 2 <= found.high
    assert 88 <= hits <= 100


def test_a_value_that_an_item_lacks_is_left_out():
    columns = [np.array([1.0, np.nan, 3.0]), np.array([2.0, 4.0, np.nan])]
    found = of_means(columns, [0, 1, 2], lambda means: means[:, 0] + means[:, 1])
    assert found.value == 5.0


def test_a_quantile_is_the_smallest_value_that_covers_its_share():
    values = np.arange(1.0, 101.0)
    found = quantile_metric(values, 0.95, list(range(100)))
    assert found.value == 95.0
    assert found.low < 95 < found.high <= 100
    assert np.isnan(quantile_metric(values, 0.95, [0] * 100).low)


def test_pearson_s_interval_holds_the_truth_about_as_often_as_promised():
    hits = 0
    for seed in range(100):
        rng = np.random.default_rng(seed)
        x, noise = rng.standard_normal((2, 200))
        found = pearson_metric(x, 0.6 * x + 0.8 * noise, list(range(200)))
        assert found.value == pytest.approx(np.corrcoef(x, 0.6 * x + 0.8 * noise)[0, 1])
        hits += found.low <= 0.6 <= found.high
    assert 88 <= hits <= 100


def test_agreement_within_a_prompt_ignores_what_prompts_differ_by():
    rng = np.random.default_rng(0)
    prompts = np.repeat(np.arange(40), 3)
    level = 10 * rng.standard_normal(40)[prompts]
    x = level + rng.standard_normal(120)
    y = level - (x - level)
    found = within_prompt(x, y, prompts)
    assert np.corrcoef(x, y)[0, 1] > 0.9
    assert found["pearson"].value == pytest.approx(-1)
    assert found["spearman"].value == pytest.approx(-1)
