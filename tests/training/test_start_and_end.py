"""A safe start and a proven end: one run in a folder, what is said at once, what "done" means."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from smorm.config import Config
from smorm.errors import ConfigError, Interrupted, ModelError, OutputError, UnprovenError
from smorm.locks import LOCK, only_run, only_writer
from smorm.model.heads import ScoreHead
from smorm.model.store import load_model, resolve
from smorm.training.loop import train
from tests.training.runs import LORA, config_of
from tests.training.test_resume import first_of, stopping_in

HOLDER = """
import os, sys, time
from pathlib import Path
from smorm.locks import only_run

with only_run(Path(sys.argv[1])):
    if os.fork() == 0:  # a worker, which outlives a killed run
        time.sleep(20)
        os._exit(0)
    print("held", flush=True)
    time.sleep(60)
"""


# One run in a folder


def test_a_folder_in_which_another_process_trains_is_refused_by_its_number(tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "run"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", HOLDER, str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        for resume in (False, True):
            with pytest.raises(ConfigError, match=f"in use by another run, process {holder.pid} "):
                train(config_of(folder), resume=resume)
        assert [path.name for path in folder.iterdir()] == [LOCK]
        # Killed, it releases nothing by itself, and its worker lives on.
        holder.send_signal(signal.SIGKILL)
        holder.wait()
        assert (folder / LOCK).exists()
        with only_run(folder):
            assert str(os.getpid()) in (folder / LOCK).read_text()
        holder.stdout.close()


def test_two_runs_of_one_process_and_what_a_lock_leaves(tmp_path: Path) -> None:
    folder = tmp_path / "a" / "b"
    with only_run(folder):
        with pytest.raises(ConfigError, match=f"process {os.getpid()}"), only_run(folder):
            pass
        with only_run(tmp_path / "a" / "c"):
            pass
    assert list(tmp_path.iterdir()) == []
    folder.mkdir(parents=True)
    with pytest.raises(RuntimeError), only_run(folder):
        raise RuntimeError
    assert list(folder.iterdir()) == []


def test_one_writer_of_a_file_and_any_number_of_a_pipe(tmp_path: Path) -> None:
    output = tmp_path / "new" / "scores.jsonl"
    with only_writer(output):
        taken = f"{output} is in use by another run, process {os.getpid()}"
        with pytest.raises(ConfigError, match=taken), only_writer(output):
            pass
        with only_writer(output.with_name("other.jsonl")):
            pass
    assert list(output.parent.iterdir()) == []
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with only_writer(pipe), only_writer(pipe):
        assert {path.name for path in tmp_path.iterdir()} == {"new", "pipe"}


def test_a_lock_that_is_a_link_is_refused(tmp_path: Path) -> None:
    (tmp_path / LOCK).symlink_to(tmp_path / "missing" / "file")
    with pytest.raises(OutputError, match=LOCK), only_run(tmp_path):
        pass


# What is said at once


def test_parameters_device_precision_and_the_first_step_are_told_at_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, logger="smorm"):
        train(config_of(tmp_path / "run", model=LORA, training={"log_every": 50}))
    lines = [record.getMessage() for record in caplog.records]
    cost = json.loads((tmp_path / "run" / "cost.json").read_text())["parameters"]
    (about,) = [line for line in lines if line.startswith("training ")]
    assert about.startswith(f"training {cost['trained']:,} of {cost['model']:,} parameters (")
    assert about.endswith("on cpu, in fp32")
    steps = [line for line in lines if line.startswith("step ")]
    assert [line.split()[1] for line in steps] == ["1/5", "5/5"]
    assert "loss " in steps[0]
    assert " s, about " in steps[0]
    assert steps[0].endswith(" to go")


# An unfinished run


def test_an_unfinished_run_says_how_far_it_came_and_the_next_step(tmp_path: Path) -> None:
    config = config_of(tmp_path / "run", training={"save_every": 1})
    with stopping_in(first_of(3)), pytest.raises(Interrupted, match="after step 3 of 5; go on"):
        train(config)
    with pytest.raises(ConfigError, match="which came to step 3 of 5: add --resume"):
        train(config)
    said = r"an unfinished run, which came to step 3 of 5: .*--resume`, or add --step N \(2, 3\)$"
    with pytest.raises(ModelError, match=said):
        resolve(tmp_path / "run")
    with pytest.raises(ModelError, match=r"a checkpoint, not a model: .*run --step 3$"):
        resolve(tmp_path / "run" / "checkpoints" / "step-00000003")


# A proven end


class Distorted:
    """Adds to the scores of one network, the first that scores: what the proof is to see."""

    def __init__(self, by: float) -> None:
        self.by = by
        self.head: Any = None

    def __call__(self, module: Any, inputs: Any, output: torch.Tensor) -> torch.Tensor | None:
        if not isinstance(module, ScoreHead):
            return None
        self.head = self.head or module
        return output + self.by if module is self.head else None

    def train(self, config: Config, **options: Any) -> Path:
        handle = torch.nn.modules.module.register_module_forward_hook(self)
        try:
            return train(config, **options)
        finally:
            handle.remove()


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_model_that_would_score_otherwise_is_not_written(tmp_path: Path, precision: str) -> None:
    config = config_of(tmp_path / "run", training={"precision": precision})
    with pytest.raises(UnprovenError, match=r"not written: loaded again, it scores .*jsonl:\d+ as"):
        Distorted(1e-3).train(config)
    assert not (tmp_path / "run" / "model").exists()
    assert not list((tmp_path / "run").glob(".*")), "neither a half-written model nor a lock"
    train(config, resume=True)
    load_model(tmp_path / "run")


def test_rounding_within_the_tolerance_is_no_difference(tmp_path: Path) -> None:
    Distorted(1e-6).train(config_of(tmp_path / "run"))
    assert (tmp_path / "run" / "model").is_dir()
