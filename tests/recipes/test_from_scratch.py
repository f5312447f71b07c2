"""The recipes from scratch: each trains all three objectives as its first lines say."""

from pathlib import Path

import numpy as np
import pytest

from smorm.config import load_config
from smorm.training.methods import make_method
from smorm.training.setup import prepare
from smorm.training.step import run_step
from tests.experiments.made_up import FOLDERS, make_data

RECIPES = Path(__file__).parents[2] / "recipes"


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_data(tmp_path_factory.mktemp("recipes") / "data")


@pytest.mark.parametrize("kind", ["joint", "preference", "regression"])
@pytest.mark.parametrize("name", FOLDERS)
def test_a_recipe_from_scratch_builds_and_makes_a_step(name, kind, data, tmp_path):
    pairs, rated = FOLDERS[name]
    config = load_config(
        RECIPES / f"{name}.yaml",
        [
            f"data.preference.path={data / pairs / 'train.jsonl.gz'}",
            f"data.rated.path={data / rated / 'train.jsonl.gz'}",
            f"objective.kind={kind}",
            f"output.folder={tmp_path}",
        ],
    )
    prepared = prepare(config)
    result = run_step(prepared, make_method(prepared), 0)
    terms = {"joint": {"loss/preference", "loss/regression"}, "preference": {"loss/preference"}}
    found = {key for key in result.values if key.startswith("loss/")}
    assert found == terms.get(kind, {"loss/regression"})
    assert np.isfinite(result.values["loss"])


@pytest.mark.slow
@pytest.mark.data
@pytest.mark.parametrize("name", FOLDERS)
def test_a_recipe_from_scratch_fits_the_real_data(name, data_folder, tmp_path):
    pairs, rated = FOLDERS[name]
    config = load_config(
        RECIPES / f"{name}.yaml",
        [
            f"data.preference.path={data_folder / pairs / 'train.jsonl.gz'}",
            f"data.rated.path={data_folder / rated / 'train.jsonl.gz'}",
            f"output.folder={tmp_path}",
        ],
    )
    prepared = prepare(config)
    counted = {"truthfulqa": (7137, 1000), "ukp": (7550, 677)}
    assert (len(prepared.train.pairs), len(prepared.train.rated)) == counted[name]
    prompts = len({one.prompt for one in prepared.train.rated})
    assert prompts > {"truthfulqa": 500, "ukp": 19}[name]
    parameters = sum(parameter.numel() for parameter in prepared.network.parameters())
    assert 1_000_000 < parameters < 4_000_000
