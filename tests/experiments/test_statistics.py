"""The statistics of the summary and the sentences made of them, on numbers known by hand."""

import numpy as np
import pytest

from experiments.real_summary import (
    PairOutcomes,
    RatedOutcomes,
    accuracies,
    accuracy_differences,
    attribute_table,
)
from experiments.tables import verdict_of

PROMPTS = ["a", "a", "b", "b", "c", "c"]


def outcomes(**rows):
    return PairOutcomes(PROMPTS, {k.replace("_", "-"): np.array(v) for k, v in rows.items()})


def test_an_accuracy_is_the_mean_over_seeds_and_shows_each_seed():
    found = accuracies(outcomes(Single=[[1, 1, 0, 0, 1, 0.5], [1, 1, 1, 1, 1, 0.5]]))["Single"]
    assert found["value"] == pytest.approx(9 / 12)
    assert found["seeds"] == pytest.approx([3.5 / 6, 5.5 / 6])
    assert found["n"] == 6
    assert 0.5 <= found["low"] <= found["value"] <= found["high"] <= 1.0


def test_differences_pair_the_items_and_the_seeds():
    same = [[1, 0, 1, 0, 1, 0], [0, 1, 0, 1, 0, 1]]
    better = [[1, 1, 1, 0, 1, 1], [1, 1, 0, 1, 1, 1]]
    found = accuracy_differences(
        outcomes(Single=same, Multi=same, SMORM_F=same, SMORM_L=better, SMORM_M=same)
    )
    # the same outcomes on both sides leave no doubt, however unsure each accuracy is
    assert (found["SMORM-F − Single"]["low"], found["SMORM-F − Single"]["high"]) == (0.0, 0.0)
    row = found["SMORM-L − Multi"]
    assert row["value"] == pytest.approx(4 / 12)
    assert row["seeds"] == pytest.approx([2 / 6, 2 / 6])


def rated_outcomes(multi, smorm):
    ratings = np.array([[0.0, 3.0], [1.0, 3.0], [2.0, 3.0], [3.0, 3.0], [4.0, 3.0], [5.0, 3.0]])
    return RatedOutcomes(PROMPTS, ["x", "flat"], ratings, {"Multi": multi, "SMORM": smorm})


def test_an_attribute_without_spread_has_no_spearman_and_is_left_out_of_the_mean():
    line = np.arange(6.0)
    ones = np.ones(6)
    perfect = np.stack([np.stack([line, ones], axis=1)] * 2)
    reverse = np.stack([np.stack([-line, ones], axis=1)] * 2)
    found = attribute_table(rated_outcomes(perfect, reverse), "spearman")
    assert found["Multi"]["x"]["value"] == pytest.approx(1.0)
    assert found["Multi"]["flat"]["value"] is None
    assert found["Multi"]["mean"]["value"] == pytest.approx(1.0)
    assert found["SMORM − Multi"]["mean"]["value"] == pytest.approx(-2.0)
    assert found["SMORM − Multi"]["mean"]["seeds"] == pytest.approx([-2.0, -2.0])


def test_squared_errors_are_means_over_items_seeds_and_attributes():
    exact = np.stack([np.stack([np.arange(6.0), np.full(6, 3.0)], axis=1)] * 2)
    shift = np.array([[[1.0, 2.0]], [[3.0, 0.0]]])
    found = attribute_table(rated_outcomes(exact, exact + shift), "mse")
    assert found["Multi"]["mean"]["value"] == 0.0
    assert found["SMORM"]["x"]["value"] == pytest.approx((1 + 9) / 2)
    assert found["SMORM"]["flat"]["value"] == pytest.approx((4 + 0) / 2)
    assert found["SMORM − Multi"]["mean"]["value"] == pytest.approx((5 + 2) / 2)


def test_a_difference_has_students_t_over_the_seeds_beside_it():
    worse = [[0, 0, 0, 0, 0, 0], [1, 0, 0, 0, 0, 0]]
    full = [[1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 1, 1]]
    found = accuracy_differences(
        outcomes(Single=worse, Multi=worse, SMORM_F=full, SMORM_L=full, SMORM_M=worse)
    )["SMORM-F − Single"]
    # seeds 1 and 5/6: mean 11/12, standard error 1/12, t with one degree of freedom 12.7062
    assert found["seeds_low"] == pytest.approx(11 / 12 - 12.7062 / 12)
    assert found["seeds_high"] == pytest.approx(11 / 12 + 12.7062 / 12)
    assert found["low"] > 0.5


PLAIN = "not distinguishable from 0"


@pytest.mark.parametrize(
    ("prompts", "seeds", "values", "said"),
    [
        ((0.01, 0.05), (0.01, 0.04), [0.02, 0.04], "above 0, over prompts and over seeds"),
        ((-0.05, -0.01), (-0.04, -0.01), [-0.02, -0.04], "below 0, over prompts and over seeds"),
        ((0.01, 0.05), (-0.01, 0.08), [0.02, 0.04], "above 0 over prompts for the mean of these"),
        ((0.01, 0.05), (None, None), [0.02], "above 0 over prompts for the mean of these"),
        ((-0.01, 0.05), (0.01, 0.03), [0.02, 0.02], f"{PLAIN}, with the same sign in every seed"),
        ((-0.01, 0.05), (-0.01, 0.03), [0.05, -0.01], PLAIN),
        ((0.0, 0.0), (0.0, 0.0), [0.0, 0.0], PLAIN),
        ((None, None), (None, None), [0.05, 0.05], "no interval, so nothing is shown"),
    ],
)
def test_a_difference_is_told_for_what_it_is(prompts, seeds, values, said):
    row = {"low": prompts[0], "high": prompts[1], "seeds": values}
    verdict = verdict_of({**row, "seeds_low": seeds[0], "seeds_high": seeds[1]})
    assert verdict.value.startswith(said)
    assert (verdict.value == said) == (said != "above 0 over prompts for the mean of these")
