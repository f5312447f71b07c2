"""Learned views: the optimum is one, units and order do not matter, and nobody is flattered."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smorm.errors import ConfigError, DataError, SmormError
from smorm.scoring.fit_views import (
    choose_l2,
    fit_learned,
    fit_weights,
    held_out,
    held_out_values,
    resampled_views,
)
from tests.scoring.simulated_pairs import ATTRIBUTES, ROWS, TRUE, data_of, learn_view, pairs

law = settings(deadline=None, max_examples=40)
# Of laws whose every example chooses a penalty, by some thirty fits.
costly_law = settings(deadline=None, max_examples=10)
seeds = st.integers(0, 10**6)


@law
@given(
    seed=seeds,
    count=st.integers(12, 60),
    columns=st.integers(1, 6),
    bounds=st.integers(0, 63),
    l2=st.sampled_from([1e-6, 1e-3, 0.1, 3.0]),
    alike=st.booleans(),
)
def test_the_weights_meet_the_conditions_of_optimality(seed, count, columns, bounds, l2, alike):
    generator = np.random.default_rng(seed)
    z = generator.normal(size=(count, columns))
    if alike and columns > 1:  # nearly the same row twice
        z[:, 1] = z[:, 0] + 1e-4 * z[:, 1]
    counts = generator.integers(0, 3, count).astype(float)
    counts[0] = 1.0
    bounded = np.array([bool(bounds >> i & 1) for i in range(columns)])
    u = fit_weights(z, counts, bounded, l2)
    share = counts / counts.sum()
    gradient = l2 * u - (share / (1 + np.exp(z @ u))) @ z
    assert (u[bounded] >= 0).all()
    at_bound = bounded & (u == 0)
    assert np.abs(gradient[~at_bound]).max(initial=0.0) < 1e-7
    assert (gradient[at_bound] > -1e-7).all()


def test_pairs_that_a_row_separates_get_a_finite_weight():
    z = np.abs(np.random.default_rng(0).normal(size=(50, 2)))
    u = fit_weights(z, np.ones(50), np.array([True, True]), 1e-4)
    assert np.isfinite(u).all()
    assert (u > 1).all()


def test_numbers_that_are_not_finite_are_an_error_and_no_answer():
    z = np.array([[np.nan], [1.0]])
    with pytest.raises(SmormError, match="no convergence"), np.errstate(invalid="ignore"):
        fit_weights(z, np.ones(2), np.array([True]), 0.1)


@pytest.mark.slow
@costly_law
@given(seed=seeds)
def test_a_learned_view_has_no_negative_weight_unless_it_is_freed(seed):
    chosen, rejected = pairs(seed, 400)
    assert min(learn_view(chosen, rejected, ATTRIBUTES).weights.values()) >= 0
    freed = learn_view(chosen, rejected, ATTRIBUTES, free_sign=["style"]).weights
    assert freed["style"] < 0
    assert min(freed[row] for row in ROWS[:3]) >= 0


@pytest.mark.slow
@costly_law
@given(seed=seeds, row=st.integers(0, 3), factor=st.floats(1e-3, 1e3), shift=st.floats(-9, 9))
def test_a_rows_units_change_its_weight_inversely_and_the_scores_not(seed, row, factor, shift):
    chosen, rejected = pairs(seed)
    scaled = np.ones(4)
    scaled[row] = factor
    moved = np.zeros(4)
    moved[row] = shift
    before = learn_view(chosen, rejected, ATTRIBUTES)
    after = learn_view(chosen * scaled + moved, rejected * scaled + moved, ATTRIBUTES)
    old, new = (np.array([view.weights[name] for name in ROWS]) for view in (before, after))
    np.testing.assert_allclose(new * scaled, old, atol=1e-6)
    np.testing.assert_allclose((chosen * scaled) @ new, chosen @ old, atol=1e-5)


@costly_law
@given(seed=seeds, order=st.permutations(range(4)))
def test_neither_the_order_of_rows_nor_of_pairs_matters(seed, order):
    data = data_of(seed)
    fit = partial(fit_learned, data, data.everything, l2=0.01)
    permuted = fit(rows=[ROWS[i] for i in order]).weights
    for name, weight in fit(rows=ROWS).weights.items():
        assert permuted[name] == pytest.approx(weight, abs=1e-7)
    chosen, rejected = pairs(seed)
    places = np.random.default_rng(seed).permutation(len(chosen))
    labels = [f"prompt {i}" for i in range(len(chosen))]
    one = learn_view(chosen, rejected, ATTRIBUTES, prompts=labels)
    shuffled = [labels[i] for i in places]
    other = learn_view(chosen[places], rejected[places], ATTRIBUTES, prompts=shuffled)
    assert other.weights == pytest.approx(one.weights, abs=1e-7)


@law
@given(seed=seeds)
def test_swapped_labels_turn_free_weights_round(seed):
    data = data_of(seed)
    swapped = replace(data, rows=data.rows.reshape(-1, 2, 4)[:, ::-1].reshape(-1, 4))
    found = [
        fit_learned(one, one.everything, rows=ROWS, free_sign=ROWS, l2=0.01).weights
        for one in (data, swapped)
    ]
    for row in ROWS:
        assert found[1][row] == pytest.approx(-found[0][row], abs=1e-7)


def test_the_weights_that_made_the_labels_are_found_within_their_intervals():
    data = data_of(3, 4000)
    fit = partial(fit_learned, rows=ROWS, free_sign=["style"])
    view = fit(data, data.everything)
    draws = resampled_views(data, partial(fit, l2=1e-4), resamples=60)
    for row, truth in zip(ROWS, TRUE, strict=True):
        low, high = np.quantile([one.weights[row] for one in draws], [0.0, 1.0])
        assert low - 0.02 <= truth <= high + 0.02, row
        assert abs(view.weights[row] - truth) < 0.15
        assert high - low < 0.4


def test_the_penalty_is_stronger_where_rows_are_noise():
    noise, signal = data_of(1, 80, true=np.zeros(6)), data_of(1, 2000)
    strong = choose_l2(noise, noise.everything, rows=noise.names, free_sign=noise.names)
    weak = choose_l2(signal, signal.everything, rows=ROWS, free_sign=ROWS)
    assert strong == 1.0
    assert weak <= 1e-2


def test_a_row_that_does_not_vary_gets_no_weight():
    chosen, rejected = pairs(0)
    chosen[:, 2] = rejected[:, 2] = 3.0
    assert learn_view(chosen, rejected, ATTRIBUTES).weights["depth"] == 0.0


def test_pairs_that_every_row_speaks_against_are_refused():
    chosen, rejected = pairs(0, true=np.array([1.0, 0.6, 0.4, 0.7]))
    with pytest.raises(DataError, match=r"no row of preference, .* favours .* swapped"):
        learn_view(rejected, chosen, ATTRIBUTES)


def test_what_no_view_can_be_fitted_on_is_refused():
    chosen, rejected = pairs(0, 9)
    with pytest.raises(DataError, match="9 prompts are too few"):
        learn_view(chosen, rejected, ATTRIBUTES)
    chosen, rejected = pairs(0)
    with pytest.raises(DataError, match="2 prompts are too few"):
        learn_view(chosen, rejected, ATTRIBUTES, prompts=[i % 2 for i in range(120)])
    with pytest.raises(DataError, match="scores of shape"):
        learn_view(chosen, rejected, ATTRIBUTES[:2])
    chosen[3, 1] = np.inf
    with pytest.raises(DataError, match="NaN or infinite"):
        learn_view(chosen, rejected, ATTRIBUTES)
    data = data_of(0)
    with pytest.raises(ConfigError, match="no row 'tone'; there are preference, clarity"):
        fit_learned(data, data.everything, rows=["preference", "tone"])


@law
@given(seed=seeds, prompt=st.integers(0, 39))
def test_a_prompts_held_out_values_do_not_depend_on_its_own_labels(seed, prompt):
    data = data_of(seed, 120, per_prompt=3)
    fit = partial(fit_learned, rows=ROWS, l2=0.01)
    rows = data.rows.copy()
    mine = data.prompts == prompt
    rows[mine] = rows[mine].reshape(-1, 2, 4)[:, ::-1].reshape(-1, 4)
    before = held_out_values(data, fit)[mine].reshape(-1, 2)
    after = held_out_values(replace(data, rows=rows), fit)[mine].reshape(-1, 2)
    np.testing.assert_allclose(after, before[:, ::-1], atol=1e-9)


def test_held_out_accuracy_of_noise_is_a_half_where_in_sample_accuracy_flatters():
    inside, outside = [], []
    for seed in range(12):
        data = data_of(seed, 40, true=np.zeros(8))
        fit = partial(fit_learned, rows=data.names, free_sign=data.names, l2=1e-3)
        for found, values in (
            (inside, data.values(fit(data, data.everything))),
            (outside, held_out_values(data, fit)),
        ):
            found.append((values[0::2] > values[1::2]).mean())
    assert np.mean(inside) > 0.6
    assert abs(np.mean(outside) - 0.5) < 0.07


def test_repeating_a_prompts_pairs_makes_the_weights_no_surer():
    once = data_of(5, 100)
    blocks = np.repeat(once.rows.reshape(-1, 2, 4), 6, axis=0).reshape(-1, 4)
    often = held_out(blocks, ROWS, np.repeat(once.prompts, 6), paired=True)
    fit = partial(fit_learned, rows=ROWS, l2=1e-3)
    widths = [
        np.std([view.weights["preference"] for view in resampled_views(data, fit, resamples=50)])
        for data in (once, often)
    ]
    assert widths[1] == pytest.approx(widths[0], rel=1e-6)
    assert widths[0] > 0.05


def test_resamples_that_allow_no_fit_are_missing():
    data = data_of(2, 12, true=np.array([0.05, 0.0, 0.0, 0.0]))
    fit = partial(fit_learned, rows=["preference"], l2=0.1)
    fit(data, data.everything)
    assert 0 < len(resampled_views(data, fit, resamples=80)) < 80
