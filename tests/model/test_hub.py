"""Models by hub id: a cache of the hub's own shape is read, and what cannot be had is told."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from smorm import RewardModel
from smorm.data.readers import may_be_hub_id
from smorm.errors import ModelError
from smorm.model.store import resolve
from tests.model.foreign_folders import change_json, classifier
from tests.model.test_foreign_adapters import adapted
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


ADAPTED = """
import sys
import numpy as np
from smorm import RewardModel
from smorm.errors import ModelError

pairs = [("hello", "there"), ("hello", "a longer answer")]
there, gone = sys.argv[1:]
print(np.round(RewardModel.load(there).score(pairs).preference, 5).tolist())
try:
    RewardModel.load(gone)
except ModelError as error:
    print(error)
"""


@pytest.mark.slow
def test_adapters_are_merged_into_a_base_of_the_hubs_cache(tmp_path):
    base = classifier(tmp_path / "base")
    adapted(base, tmp_path / "local")
    expected = RewardModel.load(tmp_path / "local").score(
        [("hello", "there"), ("hello", "a longer answer")]
    )
    model = tmp_path / "hub" / "models--someone--base"
    (model / "refs").mkdir(parents=True)
    (model / "refs" / "main").write_text(REVISION)
    shutil.copytree(base, model / "snapshots" / REVISION)
    for name, base_id in (("there", "someone/base"), ("gone", "someone/nothing")):
        shutil.copytree(tmp_path / "local", tmp_path / name)
        change_json(tmp_path / name / "adapter_config.json", base_model_name_or_path=base_id)
    shutil.rmtree(base)
    settings = {"HF_HUB_CACHE": str(tmp_path / "hub"), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", ADAPTED, tmp_path / "there", tmp_path / "gone"],
        env={**os.environ, **settings}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    scores, refused = done.stdout.splitlines()
    np.testing.assert_allclose(json.loads(scores), expected.preference, atol=2e-5)
    assert refused.startswith("someone/nothing: no such local folder")


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
