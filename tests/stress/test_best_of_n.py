"""The estimator against enumeration and by hand, and the weights that sum a curve up."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smorm.errors import ConfigError, DataError
from smorm.evaluation.picks import pick_probabilities
from smorm.stress.best_of_n import (
    area_weights,
    doubling_sizes,
    kl_of,
    law_weights,
    slope_weights,
    spread_within,
)
from tests.stress.made_up import enumerated

# few different values, so that ties are frequent
SCORES = st.lists(st.integers(-3, 3), min_size=1, max_size=7)


@given(SCORES, st.data())
@settings(max_examples=150, deadline=None)
def test_the_closed_form_equals_going_through_all_subsets(scores, data):
    proxy = np.array(scores, dtype=np.float64)
    gold = np.array(data.draw(st.lists(st.integers(-9, 9), min_size=len(scores),
                                       max_size=len(scores))), dtype=np.float64)  # fmt: skip
    for size in range(1, len(scores) + 1):
        (chances,) = pick_probabilities(proxy, [size])
        assert chances @ gold == pytest.approx(enumerated(proxy, gold, size), abs=1e-12)


@given(SCORES, st.randoms())
@settings(max_examples=100, deadline=None)
def test_the_order_of_a_pool_changes_nothing(scores, random):
    proxy = np.array(scores, dtype=np.float64)
    order = list(range(len(scores)))
    random.shuffle(order)
    sizes = range(1, len(scores) + 1)
    np.testing.assert_array_equal(
        pick_probabilities(proxy[order], sizes), pick_probabilities(proxy, sizes)[:, order]
    )


@given(SCORES)
@settings(max_examples=100, deadline=None)
def test_chances_sum_to_one_n_one_is_the_mean_and_n_all_is_the_maximum(scores):
    proxy = np.array(scores, dtype=np.float64)
    chances = pick_probabilities(proxy, range(1, len(scores) + 1))
    np.testing.assert_allclose(chances.sum(axis=1), 1.0)
    np.testing.assert_allclose(chances[0], 1 / len(scores))
    assert chances[-1] @ proxy == pytest.approx(proxy.max())
    picked = chances @ proxy
    assert (np.diff(picked) >= -1e-12).all()  # a larger n never lowers the proxy


@given(SCORES)
@settings(max_examples=50, deadline=None)
def test_a_growing_function_of_the_proxy_changes_nothing(scores):
    proxy = np.array(scores, dtype=np.float64)
    sizes = range(1, len(scores) + 1)
    np.testing.assert_array_equal(
        pick_probabilities(np.exp(proxy), sizes), pick_probabilities(proxy, sizes)
    )


def test_four_answers_by_hand():
    # ranks 1..4, n = 2: six subsets, of which the k-th lowest is the best of k - 1
    chances = pick_probabilities(np.array([0.1, 0.2, 0.3, 0.4]), [2, 3])
    np.testing.assert_allclose(chances[0], [0, 1 / 6, 2 / 6, 3 / 6])
    np.testing.assert_allclose(chances[1], [0, 0, 1 / 4, 3 / 4])


def test_two_tied_best_answers_share_by_hand():
    # n = 2 of (1, 2, 2): subsets {1, 2a}, {1, 2b}, {2a, 2b}: either tied one is the pick half of it
    np.testing.assert_allclose(pick_probabilities(np.array([1.0, 2.0, 2.0]), [2])[0], [0, 0.5, 0.5])


def test_large_pools_stay_exact():
    proxy = np.random.default_rng(0).normal(size=12_500)
    chances = pick_probabilities(proxy, [1, 100, 12_500])
    np.testing.assert_allclose(chances.sum(axis=1), 1.0, rtol=1e-9)
    assert chances[2, proxy.argmax()] == 1.0
    # the chance of the very best is n / N
    assert chances[1, proxy.argmax()] == pytest.approx(100 / 12_500, rel=1e-9)


def test_what_cannot_be_chosen_from_is_an_error():
    with pytest.raises(DataError, match="NaN"):
        pick_probabilities(np.array([1.0, math.nan]), [1])
    with pytest.raises(DataError, match="none empty"):
        pick_probabilities(np.array([]), [1])
    for size in (0, 3):
        with pytest.raises(ConfigError, match="the pool has 2"):
            pick_probabilities(np.array([1.0, 2.0]), [size])


def test_kl_by_hand_and_the_published_largest_n():
    assert kl_of(1) == 0.0
    assert kl_of(2) == pytest.approx(math.log(2) - 0.5)
    assert kl_of(402) < 5.0 < kl_of(403)  # the official protocol keeps KL up to 5: N <= 402


def test_sizes_double_up_to_the_largest():
    assert doubling_sizes(58) == (1, 2, 4, 8, 16, 32, 58)
    assert doubling_sizes(4) == (1, 2, 4)
    assert doubling_sizes(3) == (1, 2, 3)
    assert doubling_sizes(1) == (1,)


@given(st.floats(-3, 3), st.floats(-3, 3), st.floats(-5, 5))
@settings(max_examples=50, deadline=None)
def test_a_curve_that_keeps_the_law_gives_its_coefficients_back(alpha, beta, start):
    sizes = (1, 2, 4, 8, 57)
    distances = np.sqrt([kl_of(size) for size in sizes])
    curve = start + distances * (alpha - beta * distances)
    np.testing.assert_allclose(law_weights(sizes) @ curve, [alpha, beta], atol=1e-8)


def test_slope_and_area_of_a_straight_line():
    sizes = (1, 2, 5, 16)
    nats = np.array([kl_of(size) for size in sizes])
    assert slope_weights(sizes) @ (3.0 + 2.0 * nats) == pytest.approx(2.0)
    assert area_weights(sizes) @ (3.0 + 2.0 * nats) == pytest.approx(3.0 + nats[-1])
    for weights in (slope_weights, area_weights):
        with pytest.raises(ConfigError):
            weights((1,))
    with pytest.raises(ConfigError, match="two larger"):
        law_weights((1, 2))


def test_a_score_without_spread_chooses_nothing():
    assert spread_within("x", [np.array([1.0, 3.0]), np.array([7.0, 9.0])]) == pytest.approx(
        math.sqrt(2)
    )
    with pytest.raises(DataError, match="x: all answers"):
        spread_within("x", [np.array([0.1, 0.1]), np.array([0.3, 0.3])])
    with pytest.raises(DataError, match="x: scores too large"):  # their squares are infinite
        spread_within("x", [np.array([1e200, 3e200])])
