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


def run(folder: Path, code: str) -> subprocess.CompletedProcess[str]:
    # The hub's place is read when its library is imported: a process of its own.
    settings = {"HF_HUB_CACHE": str(folder), "HF_HUB_OFFLINE": "1"}
    return subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, **settings}, capture_output=True, text=True
    )


def test_a_model_in_the_hubs_cache_is_loaded_by_its_id_without_a_network(tmp_path):
    code = (
        "from smorm import RewardModel\n"
        "model = RewardModel.load('someone/reward')\n"
        "print(model.name, len(model.score([('hello', 'there')])))"
    )
    done = run(hub_cache(tmp_path), code)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["someone/reward", "1"]


def test_a_model_that_cannot_be_had_is_told_in_one_line(tmp_path):
    code = (
        "from smorm.errors import ModelError\n"
        "from smorm.model.store import resolve\n"
        "try:\n    resolve('someone/nothing')\n"
        "except ModelError as error:\n    print(error)"
    )
    done = run(hub_cache(tmp_path), code)
    assert "someone/nothing: no such local folder" in done.stdout
    assert len(done.stdout.splitlines()) == 1


def test_a_misspelt_path_is_no_hub_id(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    assert not may_be_hub_id("runs/modle")
    assert not may_be_hub_id("/tmp/x/y")
    assert not may_be_hub_id("model")
    assert may_be_hub_id("Skywork/Skywork-Reward-V2-Qwen3-0.6B")
    with pytest.raises(ModelError, match="no such model folder"):
        resolve("runs/modle")
