import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from smorm.data.census import Census, DropReason, Reason
from smorm.data.records import Rated
from smorm.data.scaling import (
    AttributeScale,
    apply_scales,
    attribute_names,
    fit_scales,
    rating_matrix,
    restore_scales,
)
from smorm.errors import DataError
from tests.data.sources import law

RATINGS = npst.arrays(
    np.float64,
    st.tuples(st.integers(1, 20), st.integers(1, 4)),
    elements=st.floats(-100, 100, width=32) | st.just(np.nan),
).filter(lambda ratings: not np.isnan(ratings).all(axis=0).any())
METHODS = st.sampled_from(["standardize", "unit", "none"])


def names_for(ratings):
    return [f"a{k}" for k in range(ratings.shape[1])]


@law
@given(RATINGS, METHODS)
def test_restoring_undoes_applying_and_keeps_what_is_missing(ratings, method):
    scales = fit_scales(names_for(ratings), ratings, method, Census())
    scaled = apply_scales(scales, ratings)
    np.testing.assert_array_equal(np.isnan(scaled), np.isnan(ratings))
    np.testing.assert_allclose(restore_scales(scales, scaled), ratings, rtol=1e-9, atol=1e-9)


@law
@given(RATINGS)
def test_unit_fills_zero_to_one(ratings):
    scaled = apply_scales(fit_scales(names_for(ratings), ratings, "unit", Census()), ratings)
    known = scaled[~np.isnan(scaled)]
    assert (known >= 0).all()
    assert (known <= 1 + 1e-12).all()


def test_standardize_gives_mean_zero_and_population_deviation_one():
    ratings = np.array([[0.0, 4.0], [2.0, np.nan], [4.0, 0.0], [np.nan, 1.0]])
    scaled = apply_scales(fit_scales(["a", "b"], ratings, "standardize", Census()), ratings)
    np.testing.assert_allclose(np.nanmean(scaled, axis=0), 0, atol=1e-12)
    np.testing.assert_allclose(np.nanstd(scaled, axis=0), 1)


@pytest.mark.parametrize("method", ["standardize", "unit", "none"])
def test_a_constant_attribute_keeps_scale_one_and_is_told(method):
    census = Census()
    (scale,) = fit_scales(["calm"], np.full((7, 1), 0.1), method, census)
    assert scale.scale == 1.0
    assert census.count(Reason(DropReason.CONSTANT_ATTRIBUTE, "'calm'")) == 1


def test_none_changes_nothing():
    assert fit_scales(["a"], np.array([[1.0], [9.0]]), "none", Census()) == [AttributeScale("a")]


def test_an_attribute_that_nobody_rated_is_an_error():
    with pytest.raises(DataError, match="'b': no training record rates it"):
        fit_scales(["a", "b"], np.array([[1.0, np.nan]]), "standardize", Census())


def test_ratings_too_large_to_scale_are_an_error():
    with pytest.raises(DataError, match="too large"):
        fit_scales(["a"], np.array([[-1.5e308], [1.5e308]]), "unit", Census())


def test_names_are_the_union_in_order_of_first_appearance_and_gaps_are_missing():
    one = [Rated((), (), {"b": 1.0, "a": None})]
    two = [Rated((), (), {"c": 2.0, "b": 0.0})]
    names = attribute_names(one, two)
    assert names == ["b", "a", "c"]
    nan = np.nan
    np.testing.assert_array_equal(
        rating_matrix([*one, *two], names), [[1.0, nan, nan], [0.0, nan, 2.0]]
    )
    assert rating_matrix([], names).shape == (0, 3)
