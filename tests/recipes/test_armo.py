"""ArmoRM's recipe: it begins with the Single that its first lines train."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from smorm import RewardModel
from smorm.config import load_config
from smorm.errors import DataError
from smorm.training.loop import train
from tests.conftest import ROOT
from tests.experiments.made_up import FOLDERS, make_data

SHORT = ["training.max_steps=3", "training.batch_size=16", "training.log_every=1"]


def run_both(data: Path, folder: Path, *overrides: str) -> Path:
    """Both lines of the recipe, shortened; the second one's folder."""
    pairs, rated = FOLDERS["truthfulqa"]
    sources = [
        f"data.preference.path={data / pairs / 'train.jsonl.gz'}",
        f"data.rated.path={data / rated / 'train.jsonl.gz'}",
        *SHORT,
        *overrides,
    ]
    single = ["objective.kind=preference", f"output.folder={folder / 'single'}"]
    train(load_config(ROOT / "recipes" / "truthfulqa.yaml", [*sources, *single]))
    own = [f"model.backbone={folder / 'single' / 'model'}", f"output.folder={folder / 'armo'}"]
    train(load_config(ROOT / "recipes" / "truthfulqa-armo.yaml", [*sources, *own]))
    return folder / "armo"


def check(folder: Path) -> None:
    model = RewardModel.load(folder)
    assert model.attributes == ("truthful", "informative")
    found = json.loads((folder / "armo.json").read_text())["attributes"]
    assert all(abs(one["correlation"]["after"]) <= 0.03 for one in found.values())
    scores = model.score([("Is the sun cold?", "No."), ("Is the sun cold?", "Yes, it is cold.")])
    assert np.ptp(scores.preference) > 0
    assert np.isfinite(scores.attributes).all()


@pytest.mark.slow
def test_the_recipe_runs_through(tmp_path: Path) -> None:
    # the made-up ratings repeat every 14 lines
    check(run_both(make_data(tmp_path / "data"), tmp_path, "data.rated.stride=1"))


def test_ratings_that_never_vary_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no rating varies \(truthful, informative\)"):
        run_both(make_data(tmp_path / "data"), tmp_path)


@pytest.mark.slow
@pytest.mark.data
def test_the_recipe_fits_the_real_data(data_folder: Path, tmp_path: Path) -> None:
    check(run_both(data_folder, tmp_path, "data.preference.limit=64", "data.rated.stride=100"))
