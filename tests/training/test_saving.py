"""Checkpoints that are written while training goes on."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

from smorm.errors import OutputError
from smorm.files import verify_folder
from smorm.training import saving
from smorm.training.folder import load_checkpoint
from smorm.training.saving import Saver
from tests.training.ranks import in_ranks, train
from tests.training.test_ranks import PARTS, printed, write_config


class Small:
    """A weight with moments, and its checkpoints."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.weight = torch.nn.Parameter(torch.arange(6.0))
        self.optimizer = torch.optim.AdamW([self.weight])
        self.step()
        self.saver = Saver(folder, {"w": self.weight}, self.optimizer, 2)

    def step(self) -> None:
        self.weight.grad = torch.ones(6)
        self.optimizer.step()

    def loaded(self, step: int) -> torch.Tensor:
        found = torch.nn.Parameter(torch.zeros(6))
        optimizer = torch.optim.AdamW([found])
        path = self.folder / f"step-{step:08d}"
        verify_folder(path)
        load_checkpoint(path, {"w": found}, optimizer)
        return torch.cat([found.detach(), optimizer.state[found]["exp_avg"]])

    def divide_while_saving(self) -> None:
        self.saver.save({"step": 2}, behind=True)
        _ = 1 / 0

    def values(self) -> torch.Tensor:
        return torch.cat([self.weight.detach(), self.optimizer.state[self.weight]["exp_avg"]])


def test_training_goes_on_while_a_checkpoint_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small, released, write = Small(tmp_path), threading.Event(), saving.save_file

    def held(*arguments: Any) -> None:
        assert released.wait(60)
        write(*arguments)

    monkeypatch.setattr(saving, "save_file", held)
    before = small.values()
    small.saver.save({"step": 1}, behind=True)
    small.step()
    after = small.values()
    assert not (tmp_path / "step-00000001").exists()
    later = threading.Timer(0.1, released.set)
    later.start()
    # The next save waits for the one before.
    with small.saver:
        small.saver.save({"step": 2}, behind=True)
        assert torch.equal(small.loaded(1), before)
    assert torch.equal(small.loaded(2), after)
    assert not torch.equal(before, after)


def test_what_goes_wrong_behind_is_told_at_the_next_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = Small(tmp_path)
    monkeypatch.setattr(saving, "save_file", refuse)
    small.saver.save({"step": 1}, behind=True)
    with pytest.raises(OutputError, match=r"step-00000001: could not be written: No space"):
        small.saver.wait()
    assert list(tmp_path.iterdir()) == []
    # Another error is the one that is told.
    with pytest.raises(ZeroDivisionError), small.saver:
        small.divide_while_saving()


def refuse(*_: Any) -> None:
    raise OSError(28, "No space left on device")


def train_on_a_full_disk(*words: str) -> None:
    if dist.get_rank() == 1:
        saving.save_pieces = refuse
    train(*words)


@pytest.mark.slow
def test_where_one_sharded_rank_cannot_write_there_is_no_checkpoint(tmp_path: Path) -> None:
    words = (write_config(tmp_path, **PARTS), f"output.folder={tmp_path / 'run'}")
    codes = in_ranks(2, train_on_a_full_disk, tmp_path / "out", *words)
    output = printed(tmp_path / "out")
    assert codes == [1, 1], output
    assert output.count("error: rank 1: ") == 1
    assert "could not be written: No space left on device" in output
    assert list((tmp_path / "run" / "checkpoints").iterdir()) == []
