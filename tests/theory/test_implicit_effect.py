"""Theorem 1's measures: the algebra that always holds, and values known by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smorm.evaluation.metrics import Metric
from smorm.theory import implicit_effect as effect

SIZES = st.tuples(st.integers(2, 30), st.integers(1, 40), st.integers(0, 2**32 - 1))


def responses(rng, count, dimension, groups=5):
    return effect.Responses(
        rng.standard_normal((count, dimension)) * 10.0 ** rng.integers(-3, 4),
        rng.standard_normal(dimension),
        rng.standard_normal(dimension),
        rng.integers(0, groups, count).tolist(),
    )


@settings(deadline=None, max_examples=60)
@given(SIZES, st.floats(-1e3, 1e3))
def test_the_inequality_is_never_violated_whatever_the_vectors_and_c(sizes, c):
    count, dimension, seed = sizes
    rng = np.random.default_rng(seed)
    some = responses(rng, count, dimension)
    deltas = some.hidden[:1] - some.hidden[1:2]
    found = effect.bound(some, Metric(c, count), deltas, ["p"])
    assert found["violations"].value == 0
    assert found["largest"].value <= found["cauchy_schwarz"].value * (1 + 1e-9) + 1e-9


def test_an_epsilon_that_is_too_small_would_be_seen():
    some = effect.Responses(
        np.array([[3.0, 4.0]]), np.array([1.0, 0.0]), np.array([0.0, -1.0]), [0]
    )
    found = effect.bound(some, Metric(1.0, 1), np.array([[1.0, 0.0]]), ["p"])
    # c r_s − r_m = 3 + 4, and epsilon = 5 · ‖(−1, −1)‖ = 7.07: nearly reached, not exceeded
    assert found["largest"].value == pytest.approx(7.0)
    assert found["cauchy_schwarz"].value == pytest.approx(5 * math.sqrt(2))
    assert found["tightness"].value == math.inf


@settings(deadline=None, max_examples=40)
@given(SIZES)
def test_an_order_that_is_guaranteed_is_the_order_of_the_mean_attribute(sizes):
    _, dimension, seed = sizes
    rng = np.random.default_rng(seed)
    some = responses(rng, 40, dimension)
    # nearly parallel rows, so that something is guaranteed at all
    some = effect.Responses(
        some.hidden,
        some.preference_row,
        2 * some.preference_row + 0.05 * some.mean_row,
        some.prompts,
    )
    deltas = some.hidden[0::2] - some.hidden[1::2]
    c = 2.0
    found = effect.bound(some, Metric(c, 40), deltas, list(range(20)))
    rest = np.linalg.norm(some.mean_row - c * some.preference_row)
    sure = c * (deltas @ some.preference_row) > rest * np.linalg.norm(deltas, axis=1)
    assert found["order_guaranteed"].value == pytest.approx(sure.mean())
    assert (deltas[sure] @ some.mean_row > 0).all()


@settings(deadline=None, max_examples=40)
@given(SIZES)
def test_with_the_linearised_row_the_published_c_is_the_projection(sizes):
    count, dimension, seed = sizes
    rng = np.random.default_rng(seed)
    deltas = rng.standard_normal((count + 2 * dimension, dimension)) + 0.3
    mean_row = rng.standard_normal(dimension)
    (solved,) = effect.solve(deltas, 0.0)
    linear = deltas @ solved.direction
    margins = effect.PairMargins(linear, deltas @ mean_row, linear, solved)
    prompts = list(range(len(deltas)))
    formula, projection = effect.formula(margins, prompts), effect.projection(margins, prompts)
    assert formula.value == pytest.approx(projection.value, rel=1e-6, abs=1e-9)


@settings(deadline=None, max_examples=40)
@given(SIZES)
def test_q_lies_between_0_and_1_even_where_the_second_moment_is_singular(sizes):
    count, dimension, seed = sizes
    deltas = np.random.default_rng(seed).standard_normal((count, dimension)) + 0.1
    (solved,) = effect.solve(deltas, 0.0)
    q = float(deltas.mean(axis=0) @ solved.direction)
    assert -1e-9 <= q <= 1 + 1e-9
    if count < dimension:
        assert q == pytest.approx(1.0, abs=1e-6)
        assert solved.condition() == math.inf
        assert solved.rank == count


def test_the_spectrum_of_a_planted_second_moment_is_found():
    deltas = np.repeat(np.eye(3) * [2.0, 2.0, 1.0], 10, axis=0)
    (solved,) = effect.solve(deltas, 0.5)
    assert solved.eigenvalues.tolist() == pytest.approx([4 / 3, 4 / 3, 1 / 3])
    assert solved.condition() == pytest.approx(4.0)
    assert solved.ridge == pytest.approx(0.5 * 1.0)
    shares = np.array([4, 4, 1]) / 9
    assert solved.effective_rank == pytest.approx(np.exp(-(shares * np.log(shares)).sum()))
    assert solved.direction == pytest.approx(
        [(2 / 3) / (4 / 3 + 0.5)] * 2 + [(1 / 3) / (1 / 3 + 0.5)]
    )


def test_an_attribute_against_preference_has_a_negative_alpha():
    rng = np.random.default_rng(0)
    margins = np.column_stack([rng.normal(0.5, 1, 200), rng.normal(-0.5, 1, 200)])
    found = effect.alphas(margins, ["good", "verbose"], list(range(200)))
    assert found["alpha/good"].low > 0
    assert found["alpha/verbose"].high < 0
    assert found["alpha/verbose"].value == pytest.approx(margins[:, 1].mean())
    assert found["alpha_accuracy/verbose"].value == (margins[:, 1] > 0).mean()
    assert found["alpha_total"].value == pytest.approx(margins.sum() / 200)


def test_the_regression_c_ignores_offsets_of_prompts_and_equals_the_projection_on_pairs():
    rng = np.random.default_rng(1)
    preference = rng.standard_normal((50, 2))
    mean = 0.7 * preference + 0.1 * rng.standard_normal((50, 2))
    s, m = preference[:, 0] - preference[:, 1], mean[:, 0] - mean[:, 1]
    shifted = preference + 100 * rng.standard_normal((50, 1))
    found = effect.regression(shifted.reshape(-1), mean.reshape(-1), np.repeat(np.arange(50), 2))
    assert found.value == pytest.approx((m * s).sum() / (s * s).sum(), rel=1e-6)
    assert found.low < found.value < found.high
