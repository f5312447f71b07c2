"""Theorem 2's comparison: arms from configurations, matching, and differences item by item."""

from __future__ import annotations

import numpy as np
import orjson
import pytest

from smorm import RewardModel
from smorm.config import parse_config
from smorm.data.reading import Source
from smorm.errors import ConfigError
from smorm.theory.features import Reading, featured, gold_of
from smorm.theory.matched import (
    ComparisonData,
    Run,
    affine_errors,
    arm_of,
    compare,
    pair_errors,
    read_run,
    unmatched,
)
from tests.tiny import config_values, trained, world


@pytest.fixture(scope="module")
def runs():
    return [read_run(str(trained(kind).parent)) for kind in ("joint", "preference", "regression")]


@pytest.fixture(scope="module")
def held():
    model = RewardModel.load(trained())
    pairs = featured(model, Source(world()["eval-pairs-ID"]), "preference", Reading())
    rated = featured(model, Source(world()["eval-rated-ID"]), "rated", Reading())
    gold = gold_of(str(world()["eval-pairs-ID"]), pairs.records, Reading())
    return ComparisonData(pairs, gold, rated)


def test_arms_are_named_by_what_was_minimised(tmp_path):
    def arm(**objective):
        return arm_of(parse_config(config_values(tmp_path, objective=objective)))

    assert arm(kind="preference") == "Single"
    assert arm(kind="regression") == "Multi"
    assert arm() == "SMORM official"
    assert arm(weighting="fixed", weight=0.05) == "SMORM 0.05 mean"
    assert arm(weighting="fixed", weight=2, reduction="sum") == "SMORM 2 sum"
    assert (arm(kind="odin"), arm(kind="grm")) == ("ODIN", "GRM")
    assert arm(kind="preference", bsr=0.01) == "Single + bsr 0.01"


def test_a_folder_that_is_no_run_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="expected a run's folder"):
        read_run(str(tmp_path))


def test_runs_that_differ_beside_the_objective_are_told(runs, tmp_path):
    assert unmatched(runs) == []
    other = config_values(
        tmp_path, training={"learning_rate": 1e-5}, objective={"kind": "preference"}
    )
    told = unmatched([runs[0], Run(tmp_path, "Single", 0, parse_config(other))])
    assert told == ["seed 0: Single and SMORM official differ in training.learning_rate."]


def test_data_that_a_method_does_not_use_is_no_difference(tmp_path):
    """Whichever method it is: ODIN reads no ratings, nor does a regularised Single."""
    ratings = config_values(tmp_path)
    for objective in ({"kind": "odin"}, {"kind": "preference", "bsr": 0.1}):
        values = config_values(tmp_path, objective=objective)
        values["data"] = {**values["data"], "rated": "other.jsonl"}
        runs = [Run(tmp_path, "A", 0, parse_config(each)) for each in (ratings, values)]
        assert unmatched(runs) == []


def test_differences_are_those_of_the_numbers_and_paired(runs, held):
    found = compare(runs, held, Reading())
    for head, base in (("F", "Single"), ("L", "Multi")):
        for quantity in ("accuracy", "mse"):
            gap = found[f"{head}/{quantity}/SMORM official − {base}"]
            parts = [found[f"{head}/{quantity}/{arm}"].value for arm in ("SMORM official", base)]
            assert gap.value == pytest.approx(parts[0] - parts[1])
            assert gap.low <= gap.value <= gap.high
    assert found["attributes/mse/Multi"].n == 40
    rows = [orjson.loads(line) for line in world()["eval-pairs-ID"].read_bytes().splitlines()]
    scores = RewardModel.load(trained("preference")).score(rows, "F").view().reshape(-1, 2)
    assert found["F/accuracy/Single"].value == np.mean(scores[:, 0] > scores[:, 1])
    assert found["F/mse/Single"].value == pytest.approx(
        pair_errors(scores, held.gold, held.pairs.prompts).mean(), rel=1e-3
    )


def test_a_run_compared_with_itself_shows_no_difference(runs, held):
    joint = runs[0]
    single = Run(joint.folder, "Single", 0, joint.config)
    found = compare([joint, single], held, Reading())
    gap = found["F/mse/SMORM official − Single"]
    assert (gap.value, gap.low, gap.high) == (0.0, 0.0, 0.0)


def test_the_same_arm_twice_and_seeds_apart_are_refused(runs, held):
    with pytest.raises(ConfigError, match="came before"):
        compare([runs[0], runs[0]], held, Reading())
    moved = Run(runs[1].folder, "Single", 7, runs[1].config)
    with pytest.raises(ConfigError, match="no seed in common"):
        compare([runs[0], moved], held, Reading())


def test_calibrated_errors_ignore_offsets_of_prompts_and_scale_but_not_direction():
    rng = np.random.default_rng(0)
    prompts = list(range(30))
    truth = rng.standard_normal((30, 2))
    reward = 5 * truth + 100 * rng.standard_normal((30, 1))
    assert pair_errors(reward, truth, prompts) == pytest.approx(0, abs=1e-12)
    constant = pair_errors(np.zeros((30, 2)), truth, prompts)
    assert pair_errors(-reward, truth, prompts) == pytest.approx(constant)
    noisy = pair_errors(truth + rng.standard_normal((30, 2)), truth, prompts)
    assert 0 < noisy.mean() < constant.mean()


def test_attribute_errors_are_in_units_of_the_ratings_variance():
    rng = np.random.default_rng(1)
    ratings = rng.standard_normal((50, 2)) * [1.0, 9.0]
    ratings[:10, 0] = np.nan
    found = affine_errors(np.column_stack([np.zeros(50), 3 * ratings[:, 1] + 4]), ratings)
    assert np.isnan(found[:10, 0]).all()
    assert np.nanmean(found[:, 0]) == pytest.approx(1.0)
    assert found[:, 1] == pytest.approx(0, abs=1e-12)
