"""Rows fitted to fixed states: against least squares, scikit-learn, and folds by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression

from smorm.training.linear_fits import (
    Comparisons,
    fit_logistic,
    fit_ridge,
    folds_of,
    logistic_fits,
    penalties_for,
)
from tests.training.test_armo_stages import ridge_by_hand

RNG = np.random.default_rng(0)
GROUPS = np.arange(90) // 3


@pytest.fixture(scope="module")
def states():
    return RNG.normal(size=(90, 8)) * np.geomspace(3.0, 0.01, 8)


def gaps_of(noise: float) -> Comparisons:
    gaps = RNG.normal(size=(90, 8)).astype(np.float32)
    scores = gaps @ RNG.normal(size=8) + noise * RNG.normal(size=90)
    return Comparisons(gaps * np.sign(scores)[:, None].astype(np.float32), np.zeros(90))


def test_the_ridge_penalty_is_the_best_over_grouped_folds(states):
    target = states @ RNG.normal(size=8) + RNG.normal(size=90)
    target[RNG.random(90) < 0.3] = np.nan
    rated, folds = ~np.isnan(target), folds_of(GROUPS, seed=1)
    fit = fit_ridge(states, target, folds, {})
    assert fit is not None
    losses = {}
    for penalty in penalties_for(states[rated]):
        errors = []
        for fold in range(5):
            train, test = rated & (folds != fold), rated & (folds == fold)
            weights = ridge_by_hand(states[train], target[train], penalty)
            errors.append((states[test] @ weights - target[test]) ** 2)
        losses[penalty] = np.concatenate(errors).mean()
    assert fit.penalty == min(losses, key=losses.get)
    assert fit.held_out == pytest.approx(losses[fit.penalty])
    weights = ridge_by_hand(states[rated], target[rated], fit.penalty)
    np.testing.assert_allclose(fit.weights, weights, atol=1e-8)
    assert fit.loss == pytest.approx(np.mean((states[rated] @ weights - target[rated]) ** 2))


def test_a_logistic_row_is_that_of_scikit_learn():
    pairs = gaps_of(noise=2.0)
    # scikit-learn wants two classes: half of the pairs the other way round.
    signs = np.where(np.arange(90) % 2, 1.0, -1.0)
    for penalty, weights in logistic_fits(pairs, [10.0, 1.0, 0.1]).items():
        model = LogisticRegression(C=1 / penalty, fit_intercept=False, tol=1e-10, max_iter=10_000)
        model.fit(pairs.gaps * signs[:, None], signs)
        np.testing.assert_allclose(weights, model.coef_[0], rtol=1e-4, atol=1e-5)


def test_margins_and_smoothing_are_those_of_the_loss():
    """Pairs that are told apart without error need a penalty, or smoothed labels."""
    plain = gaps_of(noise=0.0)
    smooth = Comparisons(plain.gaps, np.full(90, 0.5), smoothing=0.1)
    (weights,) = logistic_fits(smooth, [1e-6]).values()
    slope = plain.gaps.T @ smooth.slopes(plain.gaps @ weights)
    assert np.abs(slope).max() < 1e-4
    scores = RNG.normal(size=90)
    step = 1e-6
    numeric = (smooth.losses(scores + step) - smooth.losses(scores - step)) / (2 * step)
    np.testing.assert_allclose(smooth.slopes(scores), numeric, atol=1e-8)


def test_noise_asks_for_a_larger_penalty():
    folds = folds_of(GROUPS, seed=0)
    clean, noisy = (fit_logistic(gaps_of(noise), folds) for noise in (0.0, 100.0))
    assert clean is not None
    assert noisy is not None
    assert noisy.penalty > clean.penalty
    # A random half of labels is learned by no row: as good as a row of zeros.
    assert noisy.held_out < 0.75
    assert clean.loss < clean.held_out < 0.4


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 8), min_size=1, max_size=40), st.integers(0, 3))
def test_a_group_is_in_one_fold_and_the_folds_are_even(groups: list[int], seed: int) -> None:
    folds = folds_of(np.array(groups), seed)
    by_group = {group: {*folds[np.array(groups) == group]} for group in groups}
    assert all(len(numbers) == 1 for numbers in by_group.values())
    sizes = [sum(numbers == {fold} for numbers in by_group.values()) for fold in {*folds}]
    assert len(sizes) == min(5, len(by_group))
    assert max(sizes) - min(sizes) <= 1


def test_under_one_prompt_there_is_no_fit(states):
    one = folds_of(np.zeros(90, dtype=np.int64), seed=0)
    assert fit_ridge(states, RNG.normal(size=90), one, {}) is None
    assert fit_logistic(gaps_of(noise=1.0), one) is None


def test_states_of_zeros_give_rows_of_zeros():
    folds = folds_of(GROUPS, seed=0)
    ridge = fit_ridge(np.zeros((90, 8)), RNG.normal(size=90), folds, {})
    logistic = fit_logistic(Comparisons(np.zeros((90, 8)), np.zeros(90)), folds)
    assert ridge is not None
    assert logistic is not None
    assert not ridge.weights.any()
    assert not logistic.weights.any()
    assert logistic.loss == pytest.approx(np.log(2))
