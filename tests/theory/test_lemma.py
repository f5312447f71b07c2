"""Lemma 1 in every reading: laws, the published counterexample, and the sharp form."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from smorm.errors import DataError
from smorm.theory.lemma import lemma, preference_errors, readings

NUMBERS = st.floats(-50, 50, allow_nan=False)
TWO = st.integers(1, 20).flatmap(
    lambda n: st.tuples(
        arrays(np.float64, (n, 2), elements=NUMBERS), arrays(np.float64, (n, 2), elements=NUMBERS)
    )
)


@given(TWO)
def test_the_left_side_is_at_most_a_quarter_of_the_errors_difference(rewards):
    reward, gold = rewards
    left, sides = preference_errors(reward, gold), readings(reward - gold)
    assert (left <= sides["quarter_gap"] + 1e-9).all()
    assert (sides["quarter_gap"] <= sides["pair_sum"] + 1e-9).all()


@pytest.mark.parametrize(
    ("delta", "left", "published"),
    [(0.01, 0.0050, 0.0035), (0.1, 0.0498, 0.0354), (0.5, 0.2311, 0.1768)],
)
def test_the_reading_of_a_single_response_fails_on_the_published_counterexample(
    delta, left, published
):
    reward, gold = np.array([[delta, -delta]]), np.zeros((1, 2))
    sides = readings(reward - gold)
    assert preference_errors(reward, gold)[0] == pytest.approx(left, abs=6e-5)
    assert sides["per_response"][0] == pytest.approx(published, abs=6e-5)
    assert sides["pair_sum"][0] == pytest.approx(delta / 2)
    assert sides["per_response"][0] < preference_errors(reward, gold)[0] <= sides["pair_sum"][0]


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 2**32 - 1))
def test_the_sharp_form_lies_above_the_left_side_and_is_what_its_formula_says(seed):
    rng = np.random.default_rng(seed)
    gold = rng.standard_normal((30, 2))
    reward = gold + rng.standard_normal((30, 2))
    prompts = rng.integers(0, 10, 30).tolist()
    found = lemma(reward, gold, prompts)
    mse, rho = found["mse"].value, found["error_correlation"].value
    assert found["sharp"].value == pytest.approx(np.sqrt(2 * mse * (1 - rho)) / 4)
    assert found["preference_error"].value <= found["quarter_gap"].value + 1e-12
    assert found["quarter_gap"].value <= found["sharp"].value + 1e-12
    assert found["fails/quarter_gap"].value == found["fails/pair_sum"].value == 0


def test_a_shift_of_every_prompt_changes_nothing():
    rng = np.random.default_rng(2)
    gold = rng.standard_normal((40, 2))
    reward = gold + 0.5 * rng.standard_normal((40, 2))
    prompts = np.repeat(np.arange(20), 2)
    shift = 100 * rng.standard_normal(20)[prompts][:, None]
    plain, moved = lemma(reward, gold, prompts), lemma(reward + shift, gold, prompts)
    for name, metric in plain.items():
        assert moved[name].value == pytest.approx(metric.value, abs=1e-9), name
    # unshifted, the bound would be about 35 as in r = g + 100
    assert plain["published_pair_sum"].value < 1


def test_a_reward_that_is_the_gold_on_another_scale_is_right():
    gold = np.random.default_rng(3).standard_normal((20, 2))
    found = lemma(7 * gold, gold, list(range(20)))
    assert found["preference_error"].value == pytest.approx(0, abs=1e-12)
    assert found["mse"].value == pytest.approx(0, abs=1e-18)


def test_one_pair_a_prompt_makes_errors_opposite_and_the_published_reading_fail():
    rng = np.random.default_rng(4)
    gold = 0.3 * rng.standard_normal((50, 2))
    found = lemma(gold + 0.1 * rng.standard_normal((50, 2)), gold, list(range(50)))
    assert found["error_correlation"].value == pytest.approx(-1)
    assert found["fails/per_response"].value > 0.5
    assert found["published_per_response"].value < found["preference_error"].value


def test_a_gold_that_says_nothing_is_refused():
    with pytest.raises(DataError, match="same gold"):
        lemma(np.ones((3, 2)), np.zeros((3, 2)), [0, 1, 2])
    with pytest.raises(DataError, match="gold"):
        lemma(np.ones((3, 2)), np.full((3, 2), np.nan), [0, 1, 2])
