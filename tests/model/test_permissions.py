"""Model folders that another user can read: every file and folder as the umask leaves it."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from smorm import RewardModel
from smorm.config import parse_config
from smorm.files import is_sealed
from smorm.model.export import export_all_rows, export_view
from smorm.training.loop import train
from tests.tiny import config_values


@pytest.fixture(params=[0o022, 0o077], ids=["022", "077"])
def umask(request):
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def test_weights_of_checkpoints_models_and_exports_are_readable_as_other_files_are(tmp_path, umask):
    # safetensors writes its files readable by their owner alone.
    training = {"max_steps": 2, "save_every": 1}
    folder = train(parse_config(config_values(tmp_path / "run", training=training)))
    model = RewardModel.load(folder)
    export_view(tmp_path / "F", *_parts(model), model.view("F"))
    export_all_rows(tmp_path / "rows", *_parts(model))
    weights = list(tmp_path.rglob("*.safetensors"))
    sealed = {path.parent for path in weights if is_sealed(path.parent)}
    assert {folder, tmp_path / "F", tmp_path / "rows"} < sealed  # and a checkpoint
    for path in (path for folder in sealed for path in (folder, *folder.rglob("*"))):
        expected = (0o777 if path.is_dir() else 0o666) & ~umask
        assert stat.S_IMODE(path.stat().st_mode) == expected, path


def _parts(model: RewardModel) -> tuple:
    return model.network, model.tokenizer, model.card


def test_adapters_are_readable_too(tmp_path):
    before = os.umask(0o022)
    try:
        values = config_values(tmp_path / "run", training={"max_steps": 1})
        values["model"]["lora"] = {"rank": 2, "alpha": 4}
        folder: Path = train(parse_config(values))
    finally:
        os.umask(before)
    for path in folder.iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o644, path
