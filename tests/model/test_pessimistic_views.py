"""Pessimistic views and published sets of weights: their laws, and what is refused."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from smorm.data.scaling import AttributeScale
from smorm.errors import ConfigError
from smorm.model.views import (
    PUBLISHED,
    PessimisticView,
    View,
    apply_view,
    doubt_of_scale,
    fold,
    largest_monotone_kappa,
    named_view,
    parse_view,
)

law = settings(deadline=None, max_examples=60)
NAMES = ("clarity", "depth", "style")
ROWS = ("preference", *NAMES)
PLAIN = [AttributeScale(name) for name in NAMES]
table = arrays(np.float64, (5, 4), elements=st.floats(-50, 50))
centres = st.lists(st.floats(-5, 5), min_size=4, max_size=4)
spreads = st.lists(st.floats(0.1, 10), min_size=4, max_size=4)


def pessimistic(kind, middle, width, kappa=0.0, rows=ROWS) -> PessimisticView:
    return PessimisticView(
        name="p", kind=kind, kappa=kappa,
        centres=dict(zip(rows, middle, strict=True)), spreads=dict(zip(rows, width, strict=True)),
    )  # fmt: skip


def mean_of(middle, width) -> View:
    """The mean of the standardised rows, as a linear view."""
    weights = {row: 1 / (4 * w) for row, w in zip(ROWS, width, strict=True)}
    return View("mean", weights, -sum(m / (4 * w) for m, w in zip(middle, width, strict=True)))


@law
@given(rows=table, middle=centres, width=spreads, kappa=st.floats(0, 1))
def test_the_pessimistic_values_lie_between_the_minimum_and_the_mean(rows, middle, width, kappa):
    kappa *= largest_monotone_kappa(4)
    least = apply_view(pessimistic("min", middle, width), rows, PLAIN)
    doubting = apply_view(pessimistic("mean_minus_spread", middle, width, kappa), rows, PLAIN)
    mean = apply_view(mean_of(middle, width), rows, PLAIN)
    slack = 1e-9 * (1 + np.abs(rows).max() / min(width))
    assert (least <= doubting + slack).all()
    assert (doubting <= mean + slack).all()


@law
@given(
    rows=table,
    middle=centres,
    width=spreads,
    kappa=st.floats(0, 1),
    row=st.integers(0, 3),
    gain=st.floats(0, 30),
)
def test_a_better_row_never_lowers_a_pessimistic_view(rows, middle, width, kappa, row, gain):
    better = rows.copy()
    better[:, row] += gain
    price = kappa * largest_monotone_kappa(4)
    for kind, cost in (("min", 0.0), ("mean_minus_spread", price)):
        view = pessimistic(kind, middle, width, cost)
        before, after = (apply_view(view, one, PLAIN) for one in (rows, better))
        assert (after >= before - 1e-9 * (1 + np.abs(before))).all()


def test_above_the_largest_monotone_kappa_a_better_row_can_cost():
    zeros, ones = [0.0] * 4, [1.0] * 4
    even, better = np.zeros((1, 4)), np.array([[0.0, 0.0, 0.0, 3.0]])
    most = largest_monotone_kappa(4)
    assert most == pytest.approx(1 / math.sqrt(3))
    for kappa, fewer in ((most * 0.99, False), (most * 1.01, True)):
        view = pessimistic("mean_minus_spread", zeros, ones, kappa)
        assert (apply_view(view, better, PLAIN) < apply_view(view, even, PLAIN)).item() is fewer


@law
@given(
    rows=table,
    middle=centres,
    width=spreads,
    shift=st.floats(-20, 20),
    factor=st.floats(0.05, 20),
    order=st.permutations(range(4)),
)
def test_neither_a_rows_units_nor_the_order_of_rows_matter(
    rows, middle, width, shift, factor, order
):
    moved = rows.copy()
    moved[:, 2] = moved[:, 2] * factor + shift
    other_middle, other_width = list(middle), list(width)
    other_middle[2] = middle[2] * factor + shift
    other_width[2] = width[2] * factor
    for kind, kappa in (("min", 0.0), ("mean_minus_spread", 0.4)):
        expected = apply_view(pessimistic(kind, middle, width, kappa), rows, PLAIN)
        slack = 1e-8 * (1 + np.abs(expected).max())
        found = apply_view(pessimistic(kind, other_middle, other_width, kappa), moved, PLAIN)
        np.testing.assert_allclose(found, expected, atol=slack)
        named = [tuple(values[i] for i in order) for values in (middle, width, ROWS)]
        shuffled = pessimistic(kind, named[0], named[1], kappa, rows=named[2])
        np.testing.assert_allclose(apply_view(shuffled, rows, PLAIN), expected, atol=slack)


def test_a_pessimistic_view_is_stated_on_the_attributes_own_scale():
    fitted = [AttributeScale("clarity", offset=2.0, scale=0.5)]
    rows = np.array([[3.0, 2.0], [-1.0, 6.0]])  # clarity of 3 and 5 on its own scale
    parts = {"centres": {"preference": 1.0, "clarity": 4.0}}
    parts["spreads"] = {"preference": 2.0, "clarity": 0.5}
    standard = [[1.0, -2.0], [-1.0, 2.0]]
    least = PessimisticView(name="p", kind="min", **parts)
    assert apply_view(least, rows, fitted).tolist() == [min(row) for row in standard]
    doubting = PessimisticView(name="p", kind="mean_minus_spread", kappa=0.5, **parts)
    expected = [np.mean(row) - 0.5 * np.std(row) for row in standard]
    np.testing.assert_allclose(apply_view(doubting, rows, fitted), expected)


@pytest.mark.parametrize("kind", ["min", "mean_minus_spread"])
def test_a_pessimistic_view_reads_back_from_its_json_form_and_does_not_fold(kind):
    kappa = 0.25 if kind == "mean_minus_spread" else 0.0
    view = pessimistic(kind, [0.1, 1 / 3, -2.0, 7.0], [0.7, 1 / 7, 3.0, 1.0], kappa)
    assert parse_view({**view.as_dict(), "fitted": {"kind": "x"}}, NAMES) == view
    assert view.rows == ROWS
    with pytest.raises(ConfigError, match=r"is not linear: .*export --all-rows"):
        fold(view, torch.zeros(4, 8), PLAIN)


GOOD = {
    "kind": "min",
    "rows": ["preference", "style"],
    "centres": {"preference": 0, "style": 1},
    "spreads": {"preference": 1, "style": 2},
}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "max"}, "kind is 'max'; expected one of min, mean_minus_spread"),
        ({"kind": ["min"]}, "kind is ['min']"),
        ({"rows": ["style"]}, "a list of two or more different rows"),
        ({"rows": ["style", "style"]}, "a list of two or more different rows"),
        ({"rows": "style"}, "a list of two or more different rows"),
        ({"rows": [{}, 1]}, "a list of two or more different rows"),
        ({"centres": {"style": 1}}, "centres: expected one number for each of preference, style"),
        ({"spreads": {"preference": 1, "style": 0}}, "spread of 'style' must be above 0"),
        ({"spreads": {"preference": 1, "style": math.nan}}, "spread of 'style' is nan"),
        ({"spreads": {"preference": True, "style": 1}}, "spread of 'preference' is True"),
        ({"kappa": 1}, "none with min"),
        ({"kind": "mean_minus_spread"}, "kappa is None"),
        ({"kind": "mean_minus_spread", "kappa": -1}, "kappa is -1; expected 0 or more"),
        ({"weights": {"style": 1}}, "unknown key 'weights'"),
        (
            {"rows": ["style", "tone"], "centres": {"style": 0, "tone": 0}},
            "no row 'tone'; this model has clarity, depth",
        ),
    ],
)
def test_a_pessimistic_view_that_cannot_be_is_told(change, message):
    with pytest.raises(ConfigError, match="view: ") as caught:
        parse_view({**GOOD, **change}, NAMES)
    assert message in str(caught.value)


def test_a_misspelt_key_of_a_linear_view_is_told():
    with pytest.raises(ConfigError, match="unknown key 'ofset'; expected some of fitted, name"):
        parse_view({"weights": {"style": 1}, "ofset": 2}, NAMES)


HELPSTEER2 = ("helpfulness", "correctness", "coherence", "complexity", "verbosity")


def test_the_published_weights_are_nvidias():
    rows = np.array([[9.0, 4.0, 3.0, 2.0, 1.0, 0.5]])
    plain = [AttributeScale(name) for name in HELPSTEER2]
    for name, expected in (
        ("helpsteer2-nemotron-340b", 0.3 * 4 + 0.74 * 3 + 0.46 * 2 + 0.47 * 1 - 0.33 * 0.5),
        ("helpsteer2-llama3-70b", 0.65 * 4 + 0.8 * 3 + 0.45 * 2 + 0.55 * 1 - 0.4 * 0.5),
    ):
        found = apply_view(named_view(name, HELPSTEER2), rows, plain)
        np.testing.assert_allclose(found, [expected])
        with pytest.raises(ConfigError, match=r"this model lacks complexity, verbosity"):
            named_view(name, HELPSTEER2[:3])


@pytest.mark.parametrize(
    ("offset", "scale", "mean", "verdict"),
    [
        (0.0, 4.0, 2.9, "sure"),  # minimum 0 and range 4
        (2.9, 0.9, 2.9, "unsure"),  # mean and deviation that ratings of 0 to 4 can have
        (0.0, 1.0, 2.9, "unsure"),  # not scaled
        (0.0, 1.0, None, "unsure"),  # a model that says nothing
        (1.0, 4.0, 3.4, "refused"),  # minimum 1 and range 4: 1 to 5
        (0.0, 9.0, 2.0, "refused"),
        (-0.7, 1.4, 0.1, "refused"),
        (6.2, 1.1, 6.2, "refused"),
        (0.0, 1.0, 6.2, "refused"),
        (3.9, 1.5, 3.9, "refused"),  # so near the top they cannot deviate so much
    ],
)
def test_the_rating_scale_is_judged_by_what_can_be_known(offset, scale, mean, verdict):
    fitted = [AttributeScale(name, 0.0, 4.0) for name in HELPSTEER2[1:]]
    fitted += [AttributeScale("helpfulness", offset, scale), AttributeScale("other", 50.0, 9.0)]
    means = {} if mean is None else {"helpfulness": mean}
    for name in PUBLISHED:
        if verdict == "refused":
            with pytest.raises(ConfigError, match=r"this model's helpfulness was trained on ano"):
                doubt_of_scale(name, fitted, means)
            continue
        doubt = doubt_of_scale(name, fitted, means)
        assert (doubt is None) is (verdict == "sure")
        assert doubt is None or "says about helpfulness allows" in doubt


@law
@given(
    ratings=st.lists(st.integers(0, 4), min_size=2, max_size=40),
    method=st.sampled_from(["standardize", "unit", "none"]),
)
def test_ratings_of_0_to_4_are_never_refused(ratings, method):
    from smorm.data.census import Census
    from smorm.data.scaling import fit_scales

    assume(len(set(ratings)) > 1)
    column = np.array(ratings, dtype=np.float64)[:, None]
    (fitted,) = fit_scales(["helpfulness"], column, method, Census())
    others = [AttributeScale(name, 0.0, 4.0) for name in HELPSTEER2[1:]]
    means = {"helpfulness": float(column.mean())}
    doubt_of_scale("helpsteer2-nemotron-340b", [fitted, *others], means)
