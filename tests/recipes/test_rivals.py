"""The rivals' recipes: each makes the step that its first lines say."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from smorm.config import load_config
from smorm.training.methods import make_method
from smorm.training.setup import prepare
from smorm.training.step import run_step
from tests.conftest import ROOT
from tests.experiments.made_up import make_data

RIVALS = {
    "truthfulqa-odin": {"loss/preference", "loss/length", "loss/orthogonality"},
    "truthfulqa-bsr": {"loss/preference", "loss/bsr"},
    "stories-grm": {"loss/preference", "loss/language"},
    "stories-frozen": {"loss/preference"},
}


def first_step(name: str, *overrides: str) -> set[str]:
    """Names of the losses of a recipe's first step, all of them finite."""
    config = load_config(ROOT / "recipes" / f"{name}.yaml", overrides)
    ready = prepare(config)
    result = run_step(ready, make_method(ready), 0)
    assert np.isfinite(result.values["loss"])
    return {key for key in result.values if key.startswith("loss/")}


@pytest.mark.parametrize("name", [name for name in RIVALS if name.startswith("truthfulqa")])
def test_a_recipe_from_scratch_makes_a_step(name: str, tmp_path: Path) -> None:
    data = make_data(tmp_path / "data") / "truthfulqa_pairs" / "train.jsonl.gz"
    found = first_step(name, f"data.preference.path={data}", f"output.folder={tmp_path}")
    assert found == RIVALS[name]


@pytest.mark.data
@pytest.mark.parametrize("name", RIVALS)
def test_a_recipe_makes_a_step_on_the_real_data(
    name: str, data_folder: Path, tmp_path: Path
) -> None:
    pairs = data_folder / "truthfulqa_pairs" / "train.jsonl.gz"
    overrides = [f"data.preference.path={pairs}", "data.preference.limit=64"]
    overrides += ["training.batch_size=8", f"output.folder={tmp_path}"]
    if name.startswith("stories"):
        overrides.append(f"model.backbone={data_folder / 'stories260k' / 'hf'}")
    assert first_step(name, *overrides) == RIVALS[name]
