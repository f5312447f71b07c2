"""Standardised views: units, offsets and prompts that count twice; and views of a whole model."""

from __future__ import annotations

import logging
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smorm import RewardModel
from smorm.data.scaling import AttributeScale
from smorm.errors import ConfigError, DataError
from smorm.model.views import View, named_view
from smorm.scoring.fit_views import fit_calibrated, fit_pessimistic, held_out, pooled_std
from tests.scoring.simulated_pairs import ATTRIBUTES, ROWS, data_of
from tests.tiny import trained

law = settings(deadline=None, max_examples=40)
seeds = st.integers(0, 10**6)


def standardising(name: str):
    if name == "calibrated":
        return partial(fit_calibrated, rows=ATTRIBUTES)
    kappa = 0.3 if name == "mean_minus_spread" else 0.0
    return partial(fit_pessimistic, rows=ROWS, kind=name, kappa=kappa)


@law
@given(
    seed=seeds,
    kind=st.sampled_from(["calibrated", "min", "mean_minus_spread"]),
    row=st.integers(0, 3),
    factor=st.floats(1e-2, 1e2),
    shift=st.floats(-20, 20),
)
def test_a_standardised_view_does_not_change_with_a_rows_units(seed, kind, row, factor, shift):
    data = data_of(seed, 60, per_prompt=2)
    rows = data.rows.copy()
    # calibrated M standardises preference and the mean attribute: attributes share their units
    moved = [row] if kind != "calibrated" or row == 0 else [1, 2, 3]
    rows[:, moved] = rows[:, moved] * factor + shift
    other = replace(data, rows=rows)
    fit = standardising(kind)
    before, after = (one.values(fit(one, one.everything)) for one in (data, other))
    np.testing.assert_allclose(after, before, atol=1e-7)


@law
@given(seed=seeds)
def test_calibrated_m_of_standardised_rows_is_m_up_to_a_constant_and_a_factor(seed):
    data = data_of(seed, 60, per_prompt=2)
    both = np.column_stack([data.rows[:, 0], data.rows[:, 1:].mean(axis=1)])
    counts = np.ones(len(both))
    spreads = pooled_std(both, data.prompts, counts, within=True)
    rows = data.rows / np.array([spreads[0], *[spreads[1]] * 3])
    ready = replace(data, rows=rows)
    values = ready.values(fit_calibrated(ready, ready.everything, rows=ATTRIBUTES))
    plain = ready.values(named_view("M", ATTRIBUTES))
    np.testing.assert_allclose(values - values.mean(), plain - plain.mean(), atol=1e-9)


@law
@given(seed=seeds)
def test_an_offset_of_each_prompt_does_not_change_calibrated_m(seed):
    data = data_of(seed, 60, per_prompt=2)
    rows = data.rows.copy()
    rows[:, 0] += np.random.default_rng(seed).normal(0, 30, data.num_prompts)[data.prompts]
    fit = standardising("calibrated")
    one, other = fit(data, data.everything), fit(replace(data, rows=rows), data.everything)
    assert other.weights == pytest.approx(one.weights, rel=1e-8)


def test_without_several_responses_a_prompt_the_spread_is_over_all_of_them():
    generator = np.random.default_rng(0)
    rows = generator.normal(size=(50, 4)) * [5.0, 1.0, 1.0, 1.0]
    data = held_out(rows, ROWS, range(50), paired=False)
    assert not data.within
    view = fit_calibrated(data, data.everything, rows=ATTRIBUTES)
    assert view.weights["preference"] == pytest.approx(0.5 / rows[:, 0].std())
    assert view.weights["style"] == pytest.approx(0.5 / (3 * rows[:, 1:].mean(axis=1).std()))


@law
@given(seed=seeds, within=st.booleans())
def test_a_prompt_that_counts_twice_is_a_prompt_that_is_there_twice(seed, within):
    data = data_of(seed, 30, per_prompt=2)
    counts = np.random.default_rng(seed).integers(0, 3, data.num_prompts)
    counts[:2] = 2
    copies = [
        (data.rows[data.prompts == prompt], f"{prompt}/{copy}")
        for prompt in range(data.num_prompts)
        for copy in range(counts[prompt])
    ]
    rows = np.concatenate([block for block, _ in copies])
    codes = np.repeat(np.arange(len(copies)), [len(block) for block, _ in copies])
    expected = pooled_std(rows, codes, np.ones(len(rows)), within=within)
    if not within:
        np.testing.assert_allclose(expected, rows.std(axis=0))
    weight = counts.astype(float)[data.prompts]
    found = pooled_std(data.rows, data.prompts, weight, within=within)
    np.testing.assert_allclose(found, expected, rtol=1e-9)


def test_the_spread_within_prompts_is_the_pooled_standard_deviation():
    values = np.array([[1.0], [3.0], [10.0], [10.0], [16.0], [7.0]])
    found = pooled_std(values, np.array([0, 0, 1, 1, 1, 2]), np.ones(6), within=True)
    assert found[0] == pytest.approx(np.sqrt((2 + 24) / (1 + 2 + 0)))


@pytest.mark.parametrize("kind", ["calibrated", "min", "mean_minus_spread"])
def test_a_row_that_does_not_vary_cannot_be_standardised(kind):
    data = data_of(0, 60, per_prompt=2)
    rows = data.rows.copy()
    rows[:, 1:] = 0.1
    with pytest.raises(DataError, match=r"(clarity|mean attribute) does not vary"):
        standardising(kind)(replace(data, rows=rows), data.everything)


def test_a_models_default_view_may_be_linear_but_not_pessimistic():
    model = RewardModel.load(trained())
    linear = {"name": "own", "weights": {"preference": 1.0, "style": -0.5}, "offset": 0.0}
    model.card = replace(model.card, default_view=linear)
    assert model.view() == View("own", {"preference": 1.0, "style": -0.5})
    least = {"kind": "min", "rows": ["preference", "style"]}
    least |= {"centres": {"preference": 0, "style": 0}, "spreads": {"preference": 1, "style": 1}}
    model.card = replace(model.card, default_view=least)
    assert model.view(least).kind == "min"
    with pytest.raises(ConfigError, match="its default view min is not linear"):
        model.view()


def test_a_pessimistic_view_does_not_read_a_row_that_was_not_trained():
    model = RewardModel.load(trained())
    model.card = replace(model.card, preference_trained=False)
    view = {"kind": "min", "rows": ["preference", "style"]}
    view |= {"centres": {"preference": 0, "style": 0}, "spreads": {"preference": 1, "style": 1}}
    with pytest.raises(ConfigError, match="its preference row is not trained"):
        model.view(view)


def test_a_published_view_warns_or_refuses_by_the_cards_scales(caplog):
    model = RewardModel.load(trained())
    names = ("helpfulness", "correctness", "coherence", "complexity", "verbosity")

    def rated(offset: float, scale: float) -> None:
        scales = tuple(AttributeScale(name, offset, scale) for name in names)
        model.card = replace(model.card, attributes=names, scales=scales, means={})

    rated(0.0, 4.0)
    scores = model.score([("a question", "an answer")], "helpsteer2-nemotron-340b")
    expected = scores.attributes @ [0.3, 0.74, 0.46, 0.47, -0.33]
    np.testing.assert_allclose(scores.view(), expected, atol=1e-9)
    assert not caplog.records
    rated(2.5, 1.0)
    with caplog.at_level(logging.WARNING):
        model.view("helpsteer2-llama3-70b")
    assert "allows that scale but does not prove it" in caplog.text
    rated(1.0, 4.0)
    with pytest.raises(ConfigError, match="was trained on another scale"):
        model.view("helpsteer2-llama3-70b")
