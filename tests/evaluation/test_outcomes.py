"""Sums of column means: values, intervals and paired differences."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smorm.errors import DataError
from smorm.evaluation.metrics import bootstrap_means, interval
from smorm.evaluation.outcomes import Outcomes, even, split, weighted

NAN = np.nan


def table(values, clusters, keys=None):
    places = [str(at) for at in range(len(values))] if keys is None else keys
    return Outcomes({"x": np.array(values)}, clusters, {"x": {"x": 1.0}}, places)


def test_a_sum_of_column_means_by_hand():
    """Column a holds 2 of 3 items, b the third: 0.25 * 1/2 + 0.75 * 1."""
    found = Outcomes(
        {"a": np.array([1.0, 0.0, NAN]), "b": np.array([NAN, NAN, 1.0])},
        ["p", "q", "r"],
        {"both": {"a": 0.25, "b": 0.75}, "a": {"a": 1.0}},
        ["0", "1", "2"],
    ).metrics()
    assert found["both"].value == pytest.approx(0.875)
    assert (found["both"].n, found["a"].n) == (3, 2)


def test_one_column_has_the_plain_clustered_interval():
    rng = np.random.default_rng(0)
    values, prompts = rng.integers(0, 2, 200) * 1.0, rng.integers(0, 60, 200)
    found = table(values, prompts).metrics()["x"]
    assert (found.low, found.high) == interval(bootstrap_means(values, prompts))


def test_a_prompt_in_two_subsets_is_resampled_once():
    """Two subsets over the same 50 prompts with the same outcomes: the mean of both is as
    uncertain as one; were they resampled apart, it would be narrower by the root of 2."""
    rng = np.random.default_rng(1)
    once = rng.integers(0, 2, 50) * 1.0
    columns = split(np.tile(once, 2), ["a"] * 50 + ["b"] * 50)
    prompts = [*range(50), *range(50)]
    sums = {"mean": even(["a", "b"]), "a": {"a": 1.0}}
    found = Outcomes(columns, prompts, sums, [str(at) for at in range(100)]).metrics()
    widths = {name: one.high - one.low for name, one in found.items()}
    assert widths["mean"] == pytest.approx(widths["a"])


def test_a_paired_difference_is_narrower_than_two_intervals_suggest():
    rng = np.random.default_rng(2)
    easy = rng.integers(0, 2, 400) * 1.0
    better = np.where(rng.random(400) < 0.05, 1.0, easy)
    prompts = list(range(400))
    one, other = table(better, prompts), table(easy, prompts)
    difference = one.difference(other)["x"]
    assert difference.value == pytest.approx(better.mean() - easy.mean())
    assert difference.low > 0
    alone = one.metrics()["x"]
    assert difference.high - difference.low < 0.5 * (alone.high - alone.low)
    # though the two intervals overlap
    assert alone.low < other.metrics()["x"].high


ROWS = st.lists(st.tuples(st.integers(0, 1), st.integers(0, 1), st.integers(0, 4)), min_size=2)


@settings(deadline=None, max_examples=25)
@given(ROWS, st.randoms(use_true_random=False))
def test_differences_change_sign_when_models_change_places_and_no_order_matters(rows, random):
    def difference(rows, swap=False):
        keys = [str(at) for at, _ in rows]
        a, b = (np.array([float(row[k]) for _, row in rows]) for k in (0, 1))
        prompts = [row[2] for _, row in rows]
        one, other = table(a, prompts, keys), table(b, prompts, keys)
        return (other.difference(one) if swap else one.difference(other))["x"]

    numbered = list(enumerate(rows))
    shuffled = list(numbered)
    random.shuffle(shuffled)
    plain, mirrored, mixed = difference(numbered), difference(numbered, True), difference(shuffled)
    assert mirrored.value == pytest.approx(-plain.value)
    np.testing.assert_allclose((mixed.value, mixed.low), (plain.value, plain.low), atol=1e-12)
    if not np.isnan(plain.low):
        assert plain.low <= plain.value + 1e-9
        assert plain.value <= plain.high + 1e-9


def test_items_are_matched_by_key_and_those_of_one_side_left_out():
    one = table([1.0, 0.0, 1.0], ["p", "q", "r"], ["a", "b", "c"])
    other = table([0.0, 1.0], ["r", "q"], ["c", "b"])
    found = one.difference(other)["x"]
    assert found.n == 2
    assert found.value == pytest.approx(((0 - 1) + (1 - 0)) / 2)


def test_what_has_nothing_in_common_has_no_difference():
    one, elsewhere = table([1.0], ["p"], ["a"]), table([1.0], ["p"], ["b"])
    with pytest.raises(DataError, match="no common item"):
        one.difference(elsewhere)
    other = Outcomes({"y": np.ones(1)}, ["p"], {"y": {"y": 1.0}}, ["a"])
    with pytest.raises(DataError, match="different suites"):
        one.difference(other)


def test_weights_sum_to_one():
    assert weighted({"a": 3, "b": 1}) == {"a": 0.75, "b": 0.25}
    assert even(["a", "b"]) == {"a": 0.5, "b": 0.5}
