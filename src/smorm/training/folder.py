"""The run's folder: what is written at the beginning, and where a stopped run goes on."""

from __future__ import annotations

import logging
from pathlib import Path

import torch

from smorm import files
from smorm.config import Config, decisive, dump_config
from smorm.errors import CheckpointError, ConfigError
from smorm.training.checkpoint import (
    Named,
    list_checkpoints,
    load_checkpoint,
    newest_checkpoint,
    read_state,
)
from smorm.training.setup import Prepared

log = logging.getLogger(__name__)


def refuse_another_run(folder: Path, checkpoints: Path, resume: bool) -> None:
    """Without `resume`, a folder that holds a run is refused (ConfigError)."""
    if resume:
        return
    problem = f"output.folder: {folder} holds a run already"
    if list_checkpoints(checkpoints):
        raise ConfigError(f"{problem}: add --resume to go on with it, or name another folder")
    if (folder / "model").exists():
        raise ConfigError(f"{problem}: name another folder")


def write_beginnings(prepared: Prepared, folder: Path) -> None:
    """Write the resolved configuration and what was counted, and log it.

    Raises:
        ConfigError: margins are to be used, and no pair has one.
    """
    margins = _margins(prepared)  # refuses the run before anything is written
    files.write_text(folder / "config.yaml", dump_config(prepared.config))
    report = {
        "pairs": len(prepared.train.pairs),
        "rated": len(prepared.train.rated),
        "attributes": [scale.name for scale in prepared.card.scales],
        "counted": prepared.census.as_dict(),
        "fingerprint": {"config": prepared.config.hash, "data": prepared.data_hash},
    }
    files.write_json(folder / "data.json", report)
    log.info(
        "%d pairs, %d rated responses, %s layout",
        len(prepared.train.pairs),
        len(prepared.train.rated),
        prepared.network.layout,
    )
    if margins is not None:
        log.info("use_margin: %d of %d pairs have a margin above 0", margins, report["pairs"])
    for line in prepared.census.lines():
        log.info("data: %s", line)


def _margins(prepared: Prepared) -> int | None:
    """How many pairs have a margin above 0; None where margins are not used."""
    pairs = prepared.train.pairs
    if not prepared.config.objective.use_margin or not pairs:
        return None
    count = sum(pair.margin > 0 for pair in pairs)
    if not count:
        raise ConfigError(
            f"objective.use_margin: none of the {len(pairs)} pairs has a margin above 0, so that "
            "it would change nothing: give records a `margin`, or leave it out"
        )
    return count


def resume_run(
    config: Config, data_hash: str, folder: Path, named: Named, optimizer: torch.optim.Optimizer
) -> int:
    """Load the newest whole checkpoint; returns the steps done, or 0 when there is none.

    Raises:
        CheckpointError: it is of another configuration or of other data.
    """
    path = newest_checkpoint(folder)
    if path is None:
        log.info("no checkpoint in %s: starting from the beginning", folder)
        return 0
    state = read_state(path)
    now, before = decisive(config.as_dict()), state["config"]
    # Keys that decide nothing (threads, log_every) may differ between a run and its resumption.
    changed = sorted(key for key in {*now, *before} if now.get(key) != before.get(key))
    if changed:
        raise CheckpointError(f"{path}: was written with another {', '.join(changed)}")
    if state["data"] != data_hash:
        raise CheckpointError(f"{path}: was written with other data (or another tokenizer)")
    load_checkpoint(path, named, optimizer)
    log.info("resumed after step %d from %s", state["step"], path)
    return int(state["step"])
