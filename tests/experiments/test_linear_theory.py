"""Theorem 2 on linear problems with a known truth: where it holds, and where it fails."""

from __future__ import annotations

import functools
from types import SimpleNamespace

import numpy as np
import pytest

from experiments.high_dimension import measure_once
from experiments.linear_fits import (
    Case,
    bradley_terry_alone,
    make_problem,
    minimise,
    regression_alone,
)
from experiments.linear_theory import (
    CASES,
    EARLIER,
    LESSONS,
    case_table,
    maximum_likelihood_weight,
    page,
    run_case,
)

SEEDS = range(6)
BY_NAME = {case.name: case for case in CASES}


@functools.cache
def case_row(name):
    return run_case(BY_NAME[name], SEEDS)


def row(name):
    """The same with attributes in place of keys."""
    values = case_row(name)
    return SimpleNamespace(**{**values, "means": SimpleNamespace(**values["means"])})


def test_with_a_bottleneck_and_a_fitting_weight_preference_gains_several_fold():
    for name in ("A", "F"):
        means = row(name).means
        assert means.joint_preference < 0.5 * means.single
        assert means.joint_attributes < 1.02 * means.multi
        assert row(name).preference_gains >= 5


def test_a_weight_that_is_too_small_hurts_the_attribute_head():
    means = row("A2").means
    assert means.joint_attributes > 1.5 * means.multi
    assert means.joint_preference < means.single


@pytest.mark.parametrize("name", ["B", "B2"])
def test_without_a_bottleneck_nothing_changes_at_all(name):
    means = row(name).means
    assert means.joint_preference == means.single
    assert means.joint_attributes == means.multi
    assert row(name).preference_gains == row(name).attribute_gains == 0


def test_without_a_bottleneck_the_optimiser_too_finds_the_two_heads_alone():
    """The equality is no artefact of taking the closed form: L-BFGS arrives there as well."""
    case = BY_NAME["B"]
    problem = make_problem(case, 0)
    alone = np.column_stack(
        [bradley_terry_alone(problem.deltas), regression_alone(problem.inputs, problem.ratings, 6)]
    )
    start = alone + 0.3 * np.random.default_rng(0).standard_normal(alone.shape)
    np.testing.assert_allclose(minimise(problem, case, start), alone, atol=2e-3)


@pytest.mark.slow
def test_with_weight_decay_a_gain_appears_without_any_bottleneck():
    weak, strong = row("B + ridge 1e-2"), row("B + ridge 3e-2")
    for one in (weak, strong):
        assert one.means.joint_preference < one.means.single
        assert one.preference_gains >= 5
    assert strong.means.joint_preference < 0.7 * strong.means.single


def test_noisy_scarce_ratings_at_weight_1_hurt_preference_and_the_likely_weight_mends_it():
    wrong, right = row("C").means, row("C1").means
    assert wrong.joint_preference > 2 * wrong.single
    assert right.joint_preference < right.single
    assert right.joint_attributes < 0.85 * right.multi


def test_a_misspecified_model_is_ruined_without_room_and_saved_by_one_dimension():
    tight, roomy = row("D").means, row("E").means
    assert tight.joint_preference > 4 * tight.single
    assert roomy.joint_preference < 1.3 * roomy.single
    assert roomy.joint_attributes < 0.85 * roomy.multi


@pytest.mark.slow
def test_scarce_ratings_beside_many_pairs_at_weight_1_sacrifice_the_strong_head():
    wrong, right, ten_times = row("G").means, row("G2").means, row("G3").means
    assert wrong.joint_preference > 5 * wrong.single
    assert right.joint_preference < 1.05 * right.single
    assert right.joint_attributes < 0.8 * right.multi
    assert ten_times.joint_preference > 1.5 * ten_times.single


@pytest.mark.slow
def test_sizes_are_roughly_those_of_the_earlier_check():
    """Within a factor of three: it says neither how the truth was drawn nor how often."""
    for case in CASES:
        means = row(case.name).means
        ours = (means.single, means.joint_preference, means.multi, means.joint_attributes)
        for mine, theirs in zip(ours, EARLIER[case.name], strict=True):
            assert theirs / 3 < mine < theirs * 3, (case.name, mine, theirs)


def test_the_likely_weight_is_its_formula():
    assert maximum_likelihood_weight(400, 60, 3.0) == pytest.approx(0.00833, abs=1e-5)
    assert maximum_likelihood_weight(4000, 40, 1.0) == 0.005


def test_the_heads_alone_are_at_their_minima():
    case = Case("small", pairs=200, rated=100)
    problem = make_problem(case, 3)
    preference = bradley_terry_alone(problem.deltas)
    chance = 1 / (1 + np.exp(problem.deltas @ preference))
    assert np.abs(problem.deltas.T @ chance / 200).max() < 1e-8
    full = regression_alone(problem.inputs, problem.ratings, 5)
    expected = np.linalg.lstsq(problem.inputs, problem.ratings, rcond=None)[0]
    np.testing.assert_allclose(full, expected, atol=1e-10)
    assert np.linalg.matrix_rank(regression_alone(problem.inputs, problem.ratings, 2)) == 2


@pytest.mark.slow
def test_in_high_dimension_the_floor_says_nothing_although_the_rewards_agree():
    low, high = measure_once(4, 0), measure_once(512, 0)
    for one in (low, high):
        assert one["violations"] == 0
        assert one["correlation"] > 0.85
    assert low["floor"] > low["lowest"]
    assert high["floor"] < high["lowest"]
    assert high["guaranteed"] == 0
    assert high["c_ratio"] > 2


@pytest.mark.slow
def test_the_page_has_every_case_with_its_lesson():
    rows = [case_row(case.name) for case in CASES]
    text = page({"version": "0", "cases": rows, "floors": [measure_once(4, 0)]})
    for name, lesson in LESSONS.items():
        assert f"| {name} |" in text
        assert lesson in text
    assert len(case_table(rows).splitlines()) == 2 + len(CASES)
