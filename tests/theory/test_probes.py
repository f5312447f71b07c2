"""Linear probes: found where planted, not found where not, and no prompt on both sides."""

from __future__ import annotations

import numpy as np
import pytest

from smorm.errors import DataError
from smorm.theory.probes import explained, folds_of, held_out_predictions, probe, ridge_predictions


def planted(seed=0, count=200, dimension=30, noise=0.3):
    rng = np.random.default_rng(seed)
    hidden = rng.standard_normal((count, dimension)) * 5 + 3
    direction = rng.standard_normal(dimension) / np.sqrt(dimension) / 5
    return hidden, hidden @ direction + noise * rng.standard_normal(count), rng


def test_a_planted_attribute_is_found_and_noise_is_not():
    hidden, target, rng = planted()
    ratings = np.column_stack([target, rng.standard_normal(200)])
    prompts = np.repeat(np.arange(100), 2).tolist()
    found = probe(hidden, ratings, ["planted", "noise"], prompts, {})
    assert found.metrics["probe/r2/planted"].low > 0.5
    assert found.metrics["probe/spearman/planted"].low > 0.7
    assert found.metrics["probe/r2/noise"].value < 0.1
    assert found.metrics["probe/spearman/noise"].value < 0.3
    assert "probe/r2/mean" in found.metrics


def test_ridge_is_the_solution_of_its_normal_equations():
    hidden, target, _ = planted(count=40, dimension=6)
    targets, levels = np.column_stack([target, -target]), np.array([0.1, 10.0])
    predicted = ridge_predictions(hidden, targets, levels, hidden)
    x, y = hidden - hidden.mean(axis=0), target - target.mean()
    for column, level, sign in ((0, 0.1, 1), (1, 10.0, -1)):
        penalty = level * np.trace(x.T @ x) / 6 * np.eye(6)
        expected = x @ np.linalg.solve(x.T @ x + penalty, x.T @ y) + target.mean()
        assert predicted[:, column] == pytest.approx(sign * expected)


def test_more_dimensions_than_responses_are_no_obstacle():
    hidden, target, _ = planted(count=60, dimension=200, noise=0.0)
    predicted = held_out_predictions(hidden, target[:, None], list(range(60)))[:, 0]
    assert np.corrcoef(predicted, target)[0, 1] > 0.3


def test_what_only_tells_prompts_apart_does_not_help_on_other_prompts():
    rng = np.random.default_rng(1)
    prompts = np.repeat(np.arange(40), 5)
    target = rng.standard_normal(40)[prompts]
    predicted = held_out_predictions(np.eye(40)[prompts], target[:, None], prompts.tolist())[:, 0]
    assert explained(predicted, target, prompts).value < 0.05


def test_a_fold_holds_whole_prompts():
    prompts = np.random.default_rng(2).integers(0, 17, 100)
    folds = folds_of(prompts.tolist(), 100)
    for prompt in range(17):
        assert len(set(folds[prompts == prompt])) <= 1
    assert set(folds) == set(range(5))
    with pytest.raises(DataError, match="one prompt"):
        folds_of([0, 0], 2)


def test_the_probe_is_set_beside_the_models_own_row():
    hidden, target, rng = planted()
    prompts = list(range(200))
    good = probe(hidden, target[:, None], ["x"], prompts, {"x": target}).metrics
    assert good["rows/spearman/x"].value == pytest.approx(1)
    assert good["rows/r2/x"].value == pytest.approx(1)
    assert good["probe_minus_rows/spearman/x"].high < 0
    bad = probe(hidden, target[:, None], ["x"], prompts, {"x": rng.standard_normal(200)}).metrics
    assert bad["probe_minus_rows/spearman/x"].low > 0


def test_missing_and_constant_ratings_are_left_out_and_told():
    hidden, target, _ = planted(count=60)
    target[:20] = np.nan
    ratings = np.column_stack([target, np.ones(60)])
    found = probe(hidden, ratings, ["some", "flat"], list(range(60)), {})
    assert found.metrics["probe/r2/some"].n == 40
    alone = held_out_predictions(hidden[20:], target[20:, None], list(range(20, 60)))[:, 0]
    assert found.predicted["some"][20:] == pytest.approx(alone)
    assert np.isnan(found.predicted["some"][:20]).all()
    assert found.left_out["flat"] == "its ratings are all equal"
