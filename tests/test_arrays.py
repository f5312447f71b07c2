"""What a number of a JSON file is."""

from __future__ import annotations

import math

import pytest

from smorm.arrays import is_finite_number


@pytest.mark.parametrize("value", [0, -1.5, 10**300, 5e-324])
def test_numbers_that_a_float_has_are_finite(value):
    assert is_finite_number(value)


@pytest.mark.parametrize("value", [True, None, "1", [1], math.nan, -math.inf, 10**400])
def test_anything_else_is_not(value):
    assert not is_finite_number(value)
