"""The suggested weight and view, where the right answer is known."""

from __future__ import annotations

import numpy as np
import pytest

from smorm.model.views import View, named_view, parse_view
from smorm.theory.advice import Counts, suggest_view, weights

NAMES = ("good", "verbose")


def test_the_weight_is_that_of_maximum_likelihood():
    rng = np.random.default_rng(0)
    sigma = np.array([1.0, 3.0])
    residuals = (sigma * rng.standard_normal((4000, 2))) ** 2
    counts = Counts(pairs=400, rated=60, source="a test")
    found = weights(residuals, counts, list(range(4000)))
    expected = 60 / (2 * sigma**2 * 400)
    assert found["mean"].low < expected.sum() < found["mean"].high
    assert found["sum"].value == pytest.approx(found["mean"].value / 2)


def test_an_attribute_that_few_responses_rate_counts_for_so_many():
    residuals = np.ones((100, 2))
    residuals[:75, 1] = np.nan
    found = weights(residuals, Counts(50, 100, "a test"), list(range(100)))
    assert found["mean"].value == pytest.approx(100 / (2 * 50) * (1 + 0.25))


def made_up(count, seed=0):
    """Own-scale rows of pairs: `good` decides, preference is noise, `verbose` speaks against."""
    rng = np.random.default_rng(seed)
    rows = rng.standard_normal((2 * count, 3))
    better = rows[0::2, 1] - rows[1::2, 1] + 0.5 * rng.standard_normal(count) > 0
    chosen = np.where(better[:, None], rows[0::2], rows[1::2])
    rejected = np.where(better[:, None], rows[1::2], rows[0::2])
    chosen[:, 2], rejected[:, 2] = chosen[:, 2] - 0.7, rejected[:, 2] + 0.7
    return np.stack([chosen, rejected], axis=1).reshape(2 * count, 3)


def test_weights_that_beat_the_default_on_pairs_not_seen_are_suggested():
    found = suggest_view(made_up(200), list(map(str, range(200))), NAMES, named_view("M", NAMES))
    assert found.decided
    gain = found.metrics["accuracy/learned − M"]
    assert gain.low > 0
    assert gain.value == pytest.approx(
        found.metrics["accuracy/learned"].value - found.metrics["accuracy/M"].value
    )
    assert found.view.weights["good"] > 0
    assert found.view.weights.get("verbose", 0.0) == 0
    assert parse_view(found.view.as_dict(), NAMES) == found.view


def test_where_the_default_is_as_good_it_stays():
    best = View("best", {"good": 1.0})
    found = suggest_view(made_up(60), list(map(str, range(60))), NAMES, best)
    assert not found.decided
    assert found.view == best
