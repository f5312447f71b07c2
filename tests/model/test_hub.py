"""Models by hub id: a cache of the hub's own shape is read, and what cannot be had is told."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from smorm.data.readers import may_be_hub_id
from smorm.errors import ModelError
from smorm.model.store import resolve
from tests.tiny import trained

REVISION = "0123456789abcdef0123456789abcdef01234567"


def hub_cache(folder: Path) -> Path:
    """A hub cache that holds one model, as huggingface_hub lays it out."""
    model = folder / "models--someone--reward"
    (model / "refs").mkdir(parents=True)
    (model / "refs" / "main").write_text(REVISION)
    shutil.copytree(trained(), model / "snapshots" / REVISION)
    return folder


CODE = """
from smorm import RewardModel
from smorm.errors import ModelError

model = RewardModel.load("someone/reward")
print(model.name, len(model.score([("hello", "there")])))
try:
    RewardModel.load("someone/nothing")
except ModelError as error:
    print(error)
"""


@pytest.mark.slow
def test_without_a_network_a_model_in_the_hubs_cache_is_loaded_and_another_told_in_a_line(tmp_path):
    # The hub's place is read when its library is imported: a process of its own.
    settings = {"HF_HUB_CACHE": str(hub_cache(tmp_path)), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", CODE], env={**os.environ, **settings}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    loaded, refused = done.stdout.splitlines()
    assert loaded == "someone/reward 1"
    assert refused.startswith("someone/nothing: no such local folder")


def test_a_misspelt_path_is_no_hub_id(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    assert not may_be_hub_id("runs/modle")
    assert not may_be_hub_id("/tmp/x/y")
    assert not may_be_hub_id("model")
    assert may_be_hub_id("Skywork/Skywork-Reward-V2-Qwen3-0.6B")
    with pytest.raises(ModelError, match="no such model folder"):
        resolve("runs/modle")
