"""The gradient-noise measurement, on gradients whose correlation is known."""

from __future__ import annotations

import numpy as np
import pytest

from experiments.grouping import BATCH, compare, inner_products, variance
from experiments.several_answers import ANSWERS, lab_answers


def steps_of(rng, count, size, rho, weights=400):
    """Means over BATCH items in groups of `size`, any two of a group correlated by rho."""
    groups = BATCH // size
    common = rng.standard_normal((count, groups, 1, weights)) * np.sqrt(rho)
    own = rng.standard_normal((count, groups, size, weights)) * np.sqrt(1 - rho)
    return (0.3 + common + own).mean((1, 2)).astype(np.float32)


@pytest.mark.slow
@pytest.mark.parametrize(("size", "rho"), [(6, 0.0), (6, 0.3), (4, 0.9)])
def test_the_variance_grows_by_one_plus_the_partners_times_the_correlation(size, rho):
    rng = np.random.default_rng(0)
    grouped, ungrouped = steps_of(rng, 300, size, rho), steps_of(rng, 300, 1, 0.0)
    found = compare(
        inner_products(grouped, grouped), inner_products(ungrouped, ungrouped), float(size)
    )
    ratio = found["variance_ratio"]
    assert ratio["value"] == pytest.approx(1 + (size - 1) * rho, rel=0.05)
    assert ratio["low"] < ratio["value"] < ratio["high"]
    assert found["correlation"] == pytest.approx(rho, abs=0.03)
    assert found["effective_batch"] == pytest.approx(BATCH / ratio["value"])
    assert found["noise_scale_ungrouped"] == pytest.approx(1 / 0.3**2, rel=0.1)


@pytest.mark.slow
def test_the_interval_holds_the_truth_about_as_often_as_it_says():
    inside = 0
    for seed in range(20):
        rng = np.random.default_rng(seed)
        grams = [inner_products(s, s) for s in (steps_of(rng, 60, 4, 0.3), steps_of(rng, 60, 1, 0))]
        found = compare(*grams, 4.0)["variance_ratio"]
        inside += found["low"] < 1.9 < found["high"]
    assert inside >= 16


def test_the_variance_is_the_trace_of_the_covariance():
    steps = np.random.default_rng(1).standard_normal((20, 70_000)).astype(np.float32)
    spread, norm = variance(inner_products(steps, steps))
    assert spread == pytest.approx(np.var(steps.astype(float), axis=0, ddof=1).sum())
    mean = (steps.astype(float).mean(0) ** 2).sum()
    assert norm == pytest.approx(mean - spread / 20)


def test_the_lab_gives_each_prompt_its_answers_with_their_scores():
    found = lab_answers(prompts=5)
    assert len({one.prompt for one in found}) == 5
    for one in found:
        assert len({text for text, *_ in one.answers}) == ANSWERS
        assert all(scores and 0 <= gold <= 1 for _, scores, gold in one.answers)
