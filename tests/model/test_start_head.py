"""Training goes on from a reward model's own preference row, and says so."""

from __future__ import annotations

import logging
import shutil

import pytest
import torch

from smorm import RewardModel
from smorm.config import parse_config
from smorm.errors import ModelError
from smorm.training.setup import prepare
from tests.tiny import config_values, trained


def test_a_reward_model_as_backbone_keeps_its_preference_row(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    values = config_values(tmp_path / "run", model={"backbone": str(trained())})
    network = prepare(parse_config(values)).network
    before = RewardModel.load(trained()).network
    assert torch.equal(network.head.weight[0], before.head.weight[0])
    assert not torch.equal(network.head.weight[1], before.head.weight[1])
    assert "the preference row starts from" in caplog.text


def test_a_language_model_as_backbone_starts_with_a_new_head(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    prepare(parse_config(config_values(tmp_path / "run")))
    assert "preference row" not in caplog.text


def test_a_damaged_reward_model_as_backbone_is_refused_and_not_taken_for_one_without_head(tmp_path):
    folder = shutil.copytree(trained(), tmp_path / "model")
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    values = config_values(tmp_path / "run", model={"backbone": str(folder)})
    with pytest.raises(ModelError, match="model"):
        prepare(parse_config(values))
