"""Trainings as processes that are ended, or that meet, at random moments: a sample of
`python -m chaos.kills` and `python -m chaos.rank_kills`, which try hundreds."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest

from chaos.kills import STEPS, kill_training, start_training, write_config
from chaos.rank_kills import kill_ranks
from smorm.errors import ConfigError
from smorm.model.run_folder import steps_of
from smorm.stopping import SIGNALS
from smorm.training.checkpoint_model import model_at

pytestmark = pytest.mark.slow


def test_killed_at_random_moments_a_run_has_the_same_bits_and_leaves_nothing(
    tmp_path: Path,
) -> None:
    report = kill_training(tmp_path, count=4, seed=1, signals=[signal.SIGKILL])
    assert report.faults == []
    assert report.kills == 4


def test_ranks_that_are_killed_start_anew_and_the_run_has_the_same_bits(tmp_path: Path) -> None:
    report = kill_ranks(tmp_path, count=2, seed=1)
    assert report.faults == []
    assert report.kills == 2


def test_so_it_is_with_bursts_of_stop_signals(tmp_path: Path) -> None:
    report = kill_training(tmp_path, count=3, seed=2, signals=SIGNALS, burst=5)
    assert report.faults == []
    assert report.kills == 3


def test_two_runs_that_start_at_one_instant_are_one_run(tmp_path: Path) -> None:
    config, run = write_config(tmp_path), tmp_path / "run"
    for _ in range(3):
        both = [start_training(config, run, resume=False), start_training(config, run, resume=True)]
        for process in both:
            process.join()
        codes = sorted(int(process.exitcode or 0) for process in both)
        # The second one was refused, or came when the first was done.
        assert codes in ([0, 2], [0, 0])
        lines = (run / "metrics.jsonl").read_text().splitlines()
        assert [json.loads(line)["step"] for line in lines] == list(range(1, STEPS + 1))


def test_a_step_can_be_read_while_the_run_goes_on(tmp_path: Path) -> None:
    """Checkpoints vanish under the reader: it gets a model, or one line."""
    config, run = write_config(tmp_path), tmp_path / "run"
    process, read, refusals = start_training(config, run), 0, []
    while process.is_alive():
        for step in steps_of(run)[:1]:
            try:
                assert (model_at(run, step) / "model.safetensors").is_file()
                read += 1
            except ConfigError as error:
                refusals.append(str(error))
    assert process.exitcode == 0
    assert read + len(refusals) > 0
    assert all("--step " in refusal for refusal in refusals)
