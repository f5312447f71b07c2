"""The head, and every reward that is a view on its rows."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from smorm.data.scaling import AttributeScale
from smorm.errors import ConfigError
from smorm.model.heads import ScoreHead
from smorm.model.views import View, apply_view, fold, named_view, parse_view

law = settings(deadline=None, max_examples=60)
NAMES = ("clarity", "depth", "style")
number = st.floats(-5, 5)
scales = st.builds(
    AttributeScale, name=st.just(""), offset=st.floats(-4, 4), scale=st.floats(0.05, 10)
)


@law
@given(
    weights=st.fixed_dictionaries({}, optional=dict.fromkeys(("preference", *NAMES), number)),
    offset=number,
    fitted=st.tuples(scales, scales, scales),
    seed=st.integers(0, 999),
)
def test_a_folded_view_is_the_view_up_to_its_constant(weights, offset, fitted, seed):
    generator = torch.Generator().manual_seed(seed)
    head = torch.randn(4, 24, generator=generator)
    hidden = torch.randn(7, 24, generator=generator, dtype=torch.float64)
    named = [AttributeScale(n, s.offset, s.scale) for n, s in zip(NAMES, fitted, strict=True)]
    view = View("any", weights, offset)
    row, constant = fold(view, head, named)
    rows = (hidden @ head.double().T).numpy()
    expected = apply_view(view, rows, named)
    assert (row.shape, row.dtype) == ((1, 24), torch.float32)
    found = (hidden @ row.double().T)[:, 0].numpy() + constant
    np.testing.assert_allclose(found, expected, atol=1e-6 * max(1.0, np.abs(expected).max()))


def test_a_view_is_stated_on_the_attributes_own_scale():
    fitted = [AttributeScale("clarity", offset=2.0, scale=0.5)]
    rows = np.array([[10.0, 1.0], [20.0, -2.0]])
    own = [2.0 + 0.5 * 1.0, 2.0 - 0.5 * 2.0]
    assert apply_view(named_view("L", ["clarity"]), rows, fitted).tolist() == own
    mixed = View("mixed", {"preference": 0.1, "clarity": 2.0}, offset=7.0)
    assert apply_view(mixed, rows, fitted).tolist() == [1 + 2 * own[0] + 7, 2 + 2 * own[1] + 7]


def test_the_named_views_are_their_definitions():
    rows = np.array([[1.0, 3.0, 5.0, 10.0]])
    plain = [AttributeScale(name) for name in NAMES]
    assert named_view("F", NAMES).weights == {"preference": 1.0}
    found = {name: float(apply_view(named_view(name, NAMES), rows, plain)[0]) for name in "FLM"}
    assert found == pytest.approx({"F": 1.0, "L": 6.0, "M": 3.5})


def test_the_preference_row_is_a_view_of_a_model_without_attributes():
    assert named_view("F", []).weights == {"preference": 1.0}
    for name in "LM":
        with pytest.raises(ConfigError, match=f"view: {name} needs attribute rows"):
            named_view(name, [])


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("Q", "unknown view 'Q'; expected F, L, M"),
        ("f", "unknown view 'f'"),
        ({"weights": {"claritee": 1}}, "no row 'claritee'; this model has clarity, depth"),
        ({"weights": {"clarity": "much"}}, "weight of 'clarity' is 'much'"),
        ({"weights": {"clarity": True}}, "weight of 'clarity' is True"),
        ({"weights": {"clarity": math.nan}}, "weight of 'clarity' is nan"),
        ({"weights": {"clarity": math.inf}}, "weight of 'clarity' is inf"),
        ({"weights": {"clarity": 1}, "offset": "a"}, "offset is 'a'"),
        ({"weights": {"clarity": 1}, "offset": math.nan}, "offset is nan"),
        ({"weights": {}}, "no weights"),
        ({"weights": [1]}, "expected F, L, M or"),
        (7, "expected F, L, M or"),
        (None, "expected F, L, M or"),
    ],
)
def test_a_view_that_cannot_be_is_told(value, message):
    with pytest.raises(ConfigError, match="view: ") as caught:
        parse_view(value, NAMES)
    assert message in str(caught.value)


def test_a_view_reads_back_from_its_json_form():
    view = View("helpful", {"clarity": 0.5, "preference": -1.0}, 3.0)
    assert parse_view(view.as_dict(), NAMES) == view
    assert parse_view(view, NAMES) is view
    assert parse_view({"weights": {"depth": 2}}, NAMES) == View("weighted", {"depth": 2})


def test_the_head_computes_in_fp32_whatever_surrounds_it():
    torch.manual_seed(0)
    head = ScoreHead(64, 3)
    hidden = torch.randn(5, 64)
    expected = hidden.double() @ head.weight.double().T
    with torch.autocast("cpu", dtype=torch.bfloat16):
        scores = head(hidden)
    assert scores.dtype == torch.float32
    torch.testing.assert_close(scores.double(), expected, atol=1e-5, rtol=0)
    half = head(hidden.bfloat16())
    assert half.dtype == torch.float32
    expected = hidden.bfloat16().double() @ head.weight.double().T
    torch.testing.assert_close(half.double(), expected, atol=1e-5, rtol=0)
    assert not list(head.buffers())
    assert [name for name, _ in head.named_parameters()] == ["weight"]
