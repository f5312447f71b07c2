"""Training, top to bottom: prepare, step, log, validate, save."""

from __future__ import annotations

import logging
import signal
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import torch

from smorm import files
from smorm.config import Config, decisive, dump_config
from smorm.errors import CheckpointError, ConfigError, Interrupted, NonFiniteLossError
from smorm.model.store import save_model
from smorm.training.checkpoint import (
    list_checkpoints,
    load_checkpoint,
    newest_checkpoint,
    read_state,
    save_checkpoint,
)
from smorm.training.optim import (
    learning_rate_factor,
    make_optimizer,
    named_trainable,
    set_learning_rate,
)
from smorm.training.setup import Prepared, prepare
from smorm.training.step import Abandoned, StepResult, diagnose_step, make_objective, run_step
from smorm.training.tracking import Progress, Tracker, progress
from smorm.training.validation import validate

log = logging.getLogger(__name__)


@dataclass(slots=True)
class StopFlag:
    """Set by Ctrl-C and SIGTERM; looked at before each micro-batch."""

    raised: bool = False

    def __call__(self) -> bool:
        return self.raised


def train(config: Config, *, resume: bool = False) -> Path:
    """Train as configured; returns the model folder, `<output.folder>/model`.

    The folder also gets `config.yaml` (resolved), `metrics.jsonl`, `data.json` (what was dropped)
    and `checkpoints/`.

    Raises:
        ConfigError: the folder holds a run and `resume` is False.
        CheckpointError: no checkpoint is whole, or it is another run's.
        NonFiniteLossError: a loss term or its gradient became NaN or infinite.
        Interrupted: Ctrl-C or SIGTERM; a checkpoint was written.
        DataError, ModelError, OutputError: see `prepare` and `save_model`.
    """
    folder = config.output.folder
    if config.training.threads is not None:
        torch.set_num_threads(config.training.threads)
    checkpoints = folder / "checkpoints"
    _refuse_another_run(folder, checkpoints, resume)
    prepared = prepare(config)
    objective = make_objective(prepared)
    named = named_trainable(prepared.network, objective.log_variance)
    optimizer = make_optimizer(config, prepared.network, objective.log_variance)
    total = config.training.max_steps or prepared.order.num_steps(config.training.epochs)
    done = _resume(prepared, checkpoints, named, optimizer) if resume else 0
    _write_beginnings(prepared, folder)

    def save(step: int) -> None:
        state = {"step": step, "data": prepared.data_hash, "config": decisive(config.as_dict())}
        save_checkpoint(checkpoints, state, named, optimizer, keep=config.training.keep_checkpoints)

    with (
        _stop_signals() as stop,
        closing(Tracker(folder, tensorboard=config.training.tensorboard)) as tracker,
        progress(total, done, config.training.log_every) as bar,
    ):
        for step in range(done, total):
            started = time.monotonic()
            factor = learning_rate_factor(
                step, total, config.training.warmup, config.training.schedule
            )
            set_learning_rate(optimizer, factor)
            optimizer.zero_grad(set_to_none=True)
            try:
                result = _gradients(prepared, objective, step, named, stop)
            except Abandoned:
                save(step)
                raise Interrupted(f"stopped after step {step}; go on with --resume") from None
            norm = torch.nn.utils.clip_grad_norm_(
                list(named.values()), config.training.max_grad_norm
            )
            if not norm.isfinite():
                raise _overflow(prepared, step, float(norm))
            optimizer.step()
            _tell(result, float(norm), factor, time.monotonic() - started, objective.log_variance)
            _record(prepared, tracker, bar, step + 1, total, result)
            if _due(step + 1, config.training.save_every) and step + 1 < total:
                save(step + 1)
    save(total)
    save_model(folder / "model", prepared.network, prepared.tokenizer, prepared.card)
    return folder / "model"


def _gradients(
    prepared: Prepared, objective: Any, step: int, named: dict[str, Any], stop: StopFlag
) -> StepResult:
    every = prepared.config.training.diagnose_every
    if every and prepared.config.objective.kind == "joint" and step % every == 0:
        return diagnose_step(prepared, objective, step, named, stop=stop)
    return run_step(prepared, objective, step, stop=stop)


def _overflow(prepared: Prepared, step: int, norm: float) -> NonFiniteLossError:
    """The losses were finite, their gradient is not."""
    pairs, rated = prepared.order.step(step)
    where = [prepared.train.pairs[i].where for i in pairs]
    where += [prepared.train.rated[i].record.where for i in rated]
    records = ", ".join(where[:8]) + (" ..." if len(where) > 8 else "")
    return NonFiniteLossError(
        f"step {step + 1}: the gradient of the loss is {norm}. Records of this step: {records}. "
        "Lower training.learning_rate, or look at the records."
    )


def _tell(
    result: StepResult,
    norm: float,
    factor: float,
    seconds: float,
    log_variance: torch.nn.Parameter | None,
) -> None:
    """Add what is known only after the update."""
    result.values["gradient_norm"] = norm
    result.values["learning_rate_factor"] = factor
    result.values["tokens"] = result.tokens
    result.values["tokens_per_second"] = result.tokens / max(seconds, 1e-9)
    if log_variance is not None:
        for index, value in enumerate(log_variance.detach().tolist()):
            result.values[f"log_variance/{index}"] = value


def _record(
    prepared: Prepared, tracker: Tracker, bar: Progress, step: int, total: int, result: StepResult
) -> None:
    training = prepared.config.training
    if _due(step, training.evaluate_every) or step == total:
        result.values.update(validate(prepared))
    diagnosed = "gradient/cosine" in result.values
    if _due(step, training.log_every) or step in (1, total) or diagnosed:
        tracker.log(step, dict(result.values))
    bar.update(step, result.values)


def _due(step: int, every: int | None) -> bool:
    return bool(every) and step % (every or 1) == 0


def _refuse_another_run(folder: Path, checkpoints: Path, resume: bool) -> None:
    if resume:
        return
    if list_checkpoints(checkpoints) or (folder / "model").exists():
        raise ConfigError(
            f"output.folder: {folder} holds a run already: add --resume to go on with it, "
            "or name another folder"
        )


def _write_beginnings(prepared: Prepared, folder: Path) -> None:
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
    for line in prepared.census.lines():
        log.info("data: %s", line)


def _resume(prepared: Prepared, folder: Path, named: dict[str, Any], optimizer: Any) -> int:
    """Steps done: from the newest whole checkpoint, or 0 when there is none."""
    path = newest_checkpoint(folder)
    if path is None:
        log.info("no checkpoint in %s: starting from the beginning", folder)
        return 0
    state = read_state(path)
    now = decisive(prepared.config.as_dict())
    changed = sorted(k for k in {*now, *state["config"]} if now.get(k) != state["config"].get(k))
    if changed:
        raise CheckpointError(f"{path}: was written with another {', '.join(changed)}")
    if state["data"] != prepared.data_hash:
        raise CheckpointError(f"{path}: was written with other data (or another tokenizer)")
    load_checkpoint(path, named, optimizer)
    log.info("resumed after step %d from %s", state["step"], path)
    return int(state["step"])


@contextmanager
def _stop_signals() -> Iterator[StopFlag]:
    """While training, Ctrl-C and SIGTERM ask for a checkpoint. A second Ctrl-C stops at once."""
    flag = StopFlag()

    def ask(number: int, frame: FrameType | None) -> None:
        if flag.raised and number == signal.SIGINT:
            raise KeyboardInterrupt
        flag.raised = True

    previous: dict[int, Any] = {}
    try:
        for number in (signal.SIGINT, signal.SIGTERM):
            previous[number] = signal.signal(number, ask)
    except ValueError:  # not in the main thread: signals stay with whoever has them
        pass
    try:
        yield flag
    finally:
        for restored, handler in previous.items():
            signal.signal(restored, handler)
