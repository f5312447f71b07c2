"""What decides the last bits beside the configuration: recorded, restored, refused or reported."""

from __future__ import annotations

import json
import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from smorm.config import Config
from smorm.errors import CheckpointError, Interrupted
from smorm.files import MANIFEST, sha256
from smorm.model.run_folder import list_checkpoints
from smorm.training.loop import train
from smorm.training.numerics import describe
from tests.training.runs import LORA, bits, config_of
from tests.training.test_resume import stopping_in


@pytest.fixture(autouse=True)
def own_threads(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Nobody asks for a number of threads; what a test sets does not outlive it."""
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def run_of(folder: Path, threads: int | None, **training: Any) -> Config:
    return config_of(folder, training={"threads": threads, "max_batch_tokens": 2000, **training})


def stopped(folder: Path, threads: int | None) -> Path:
    """A run that began with so many threads and was stopped; its last checkpoint."""
    with stopping_in(3), pytest.raises(Interrupted):
        train(run_of(folder, threads))
    return list_checkpoints(folder / "checkpoints")[-1]


def change_record(checkpoint: Path, numerics: dict[str, Any] | None) -> None:
    """Another record in a checkpoint; None: that of a version that had none."""
    path, manifest = checkpoint / "state.json", checkpoint / MANIFEST
    state = json.loads(path.read_text())
    state["numerics"] = numerics
    if numerics is None:
        del state["numerics"]
    path.write_text(json.dumps(state))
    sums = json.loads(manifest.read_text())
    sums["sha256"]["state.json"] = sha256(path)
    manifest.write_text(json.dumps(sums))


def test_a_run_goes_on_with_its_number_of_threads(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    torch.set_num_threads(2)
    train(run_of(tmp_path / "straight", None))
    checkpoint = stopped(tmp_path / "run", None)
    torch.set_num_threads(1)
    with caplog.at_level(logging.INFO, logger="smorm"):
        train(run_of(tmp_path / "run", None), resume=True)
    assert f"threads: 2, as in {checkpoint} (this process began with 1)" in caplog.messages
    assert torch.get_num_threads() == 2
    assert bits(tmp_path / "run") == bits(tmp_path / "straight")


def test_another_number_is_refused_with_both_ways_to_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    checkpoint = stopped(tmp_path / "run", 2)
    before = (tmp_path / "run" / "data.json").read_bytes()
    said = "was computed with 2 threads, and {} asks for 1, .*training.threads=2.*" + (
        "training.accept_other_bits=true with 1$"
    )
    with pytest.raises(CheckpointError, match=said.format("training.threads=1")):
        train(run_of(tmp_path / "run", 1), resume=True)
    torch.set_num_threads(1)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    with pytest.raises(CheckpointError, match=said.format("OMP_NUM_THREADS=1")):
        train(run_of(tmp_path / "run", None), resume=True)
    assert (tmp_path / "run" / "data.json").read_bytes() == before
    with caplog.at_level(logging.WARNING, logger="smorm"):
        train(run_of(tmp_path / "run", 1, accept_other_bits=True), resume=True)
    beginning = f"{checkpoint}: was computed with 2"
    assert any(line.startswith(beginning) for line in caplog.messages)
    recorded = json.loads((tmp_path / "run" / "data.json").read_text())["numerics"]
    assert recorded["threads"] == 1


def test_what_else_is_different_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    checkpoint = stopped(tmp_path / "run", 1)
    record = describe()
    record |= {"processor": "Abacus", "settings": {"MKL_CBWR": "COMPATIBLE"}}
    record["versions"] |= {"torch": "1.0"}
    change_record(checkpoint, record)
    with caplog.at_level(logging.WARNING, logger="smorm"):
        train(run_of(tmp_path / "run", 1), resume=True)
    (line,) = [line for line in caplog.messages if "the last bits may differ" in line]
    now = describe()
    assert f"processor Abacus (now {now['processor']})" in line
    assert "MKL_CBWR COMPATIBLE (now unset)" in line
    assert f"torch 1.0 (now {torch.__version__})" in line
    assert "transformers" not in line


def test_a_checkpoint_of_an_older_version_is_gone_on_from(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    checkpoint = stopped(tmp_path / "run", 1)
    change_record(checkpoint, None)
    with caplog.at_level(logging.WARNING, logger="smorm"):
        train(run_of(tmp_path / "run", 1), resume=True)
    assert f"{checkpoint} does not say how many threads computed it" in caplog.text
    train(run_of(tmp_path / "straight", 1))
    assert bits(tmp_path / "run") == bits(tmp_path / "straight")


ELSEWHERE = """
import json, sys
from smorm.config import parse_config
from smorm.training.loop import train

for values in sys.argv[1:]:
    train(parse_config(json.loads(values)))
"""


@pytest.mark.slow
def test_hash_seed_language_workers_and_cache_decide_nothing(tmp_path: Path) -> None:
    run = tmp_path / "run"
    train(config_of(tmp_path / "straight"))
    train(config_of(tmp_path / "lora", model=LORA))
    other = config_of(run, data={"workers": 2, "cache": str(tmp_path / "cache")})
    environment = {
        **os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "PYTHONHASHSEED": "77",
        "LC_ALL": "C", "TZ": "Pacific/Auckland", "TOKENIZERS_PARALLELISM": "true",
    }  # fmt: skip
    adapters = config_of(tmp_path / "other-lora", model=LORA)
    values = [json.dumps(config.as_dict()) for config in (other, adapters)]
    command = [sys.executable, "-c", ELSEWHERE, *values]
    subprocess.run(command, check=True, env=environment, cwd=tmp_path)
    assert bits(run) == bits(tmp_path / "straight")
    # The list of modules too, which is a set in between.
    written = [tmp_path / name / "model" / "adapter_config.json" for name in ("lora", "other-lora")]
    assert written[0].read_bytes() == written[1].read_bytes()
    # Once more, with the tokens of the cache.
    shutil.rmtree(run)
    assert len(list((tmp_path / "cache").iterdir())) == 2
    train(other)
    assert bits(run) == bits(tmp_path / "straight")
