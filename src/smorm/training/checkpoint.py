"""Checkpoints: complete or invisible, verified before they are used.

A sealed folder (see `smorm.files.atomic_folder`) holds trainable weights and the optimizer's
moments as safetensors, and a small JSON state. Data order and dropout are functions of (seed,
step).
"""

import contextlib
import logging
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from smorm import files
from smorm.errors import CheckpointError

log = logging.getLogger(__name__)
Named = Mapping[str, torch.nn.Parameter]
_PREFIX = "step-"


def save_checkpoint(
    folder: Path, state: dict[str, Any], named: Named, optimizer: torch.optim.Optimizer, keep: int
) -> Path:
    """Write `folder/step-N` (`state["step"]`) atomically, then remove all but the newest `keep`. A
    verified checkpoint of this step stays: the same run at the same step has the same bits."""
    target = folder / f"{_PREFIX}{state['step']:08d}"
    # Scratch folders of saves that were killed: their names begin with a dot.
    for torn in folder.glob(f".{_PREFIX}*"):
        shutil.rmtree(torn, ignore_errors=True)
    with contextlib.suppress(CheckpointError):
        files.verify_folder(target)
        return target
    # As safetensors, nothing that could run code when it is read.
    with files.atomic_folder(target) as scratch:
        # Only what is trained: a frozen backbone comes from where the run's configuration says.
        weights, moments = {}, {}
        for name, parameter in named.items():
            weights[name] = parameter.detach().contiguous()
            # By the parameter's name: AdamW's order of parameters may change.
            for key, value in optimizer.state[parameter].items():
                moments[f"{name}/{key}"] = value.detach().contiguous()
        save_file(weights, scratch / "weights.safetensors")
        save_file(moments, scratch / "optimizer.safetensors")
        files.write_json(scratch / "state.json", state)
    # Only now: until the new one is complete, the older ones are needed.
    for old in list_checkpoints(folder)[:-keep]:
        shutil.rmtree(old, ignore_errors=True)
    return target


def list_checkpoints(folder: Path) -> list[Path]:
    """Sealed checkpoints, oldest first."""
    return sorted(path for path in folder.glob(f"{_PREFIX}*") if files.is_sealed(path))


def newest_checkpoint(folder: Path) -> Path | None:
    """The newest undamaged checkpoint; None without any, CheckpointError where all are damaged."""
    problems = []
    # Sums are checked from the newest on: an older one is read only if a newer one is damaged.
    for path in reversed(list_checkpoints(folder)):
        try:
            files.verify_folder(path)
            return path
        except CheckpointError as error:
            log.warning("%s. Trying the one before it.", error)
            problems.append(str(error))
    if problems:
        problem = f"no checkpoint in {folder} is whole: {problems[0]}"
        raise CheckpointError(f"{problem}. Start anew in another folder.")
    return None


def read_state(path: Path) -> dict[str, Any]:
    """The JSON state of a checkpoint."""
    state: dict[str, Any] = files.read_json(path / "state.json")
    return state


def load_checkpoint(path: Path, named: Named, optimizer: torch.optim.Optimizer) -> None:
    """Put weights and moments back, bit for bit; CheckpointError for another model's."""
    try:
        weights = load_file(path / "weights.safetensors")
        moments = load_file(path / "optimizer.safetensors")
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path}: cannot be read: {error}") from error
    # Compared before anything is copied: a model that is half loaded must not train on.
    if weights.keys() != named.keys():
        raise CheckpointError(f"{path}: holds other parameters than this model has")
    for name, parameter in named.items():
        if weights[name].shape != parameter.shape:
            raise CheckpointError(f"{path}: {name} has another shape than in this model")
        parameter.data.copy_(weights[name])
    for key, value in moments.items():
        name, _, moment = key.rpartition("/")
        # AdamW keeps its step count on the CPU unless it is fused, the moments beside the weights.
        if moment != "step" or optimizer.defaults.get("fused"):
            value = value.to(named[name].device)
        optimizer.state[named[name]][moment] = value
