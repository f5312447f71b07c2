"""Training, top to bottom: prepare, step, log, validate, save."""

from __future__ import annotations

import math
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import torch

from smorm.config import Config, decisive
from smorm.errors import Interrupted, NonFiniteLossError
from smorm.model.store import save_model
from smorm.training.armo.run import train_armo
from smorm.training.auto_batch import settle
from smorm.training.batches import Batches
from smorm.training.checkpoint import save_checkpoint
from smorm.training.cost import cost_until, write_cost
from smorm.training.folder import refuse_another_run, resume_run, write_beginnings
from smorm.training.optim import (
    clip_gradients,
    learning_rate_factor,
    make_optimizer,
    named_trainable,
    set_learning_rate,
)
from smorm.training.prefetch import prefetched
from smorm.training.setup import Prepared, prepare
from smorm.training.signals import StopFlag, stop_signals
from smorm.training.step import (
    Abandoned,
    Objective,
    StepResult,
    diagnose_step,
    make_objective,
    run_step,
)
from smorm.training.tracking import Progress, Tracker, due, progress
from smorm.training.validation import validate


def train(config: Config, *, resume: bool = False) -> Path:
    """Train as configured; returns the model folder, `<output.folder>/model`.

    The folder also gets `config.yaml` (resolved), `metrics.jsonl`, `data.json` (what was dropped),
    `cost.json` and `checkpoints/`.

    Raises:
        ConfigError: the folder holds a run and `resume` is False.
        CheckpointError: no checkpoint is whole, or it is another run's.
        NonFiniteLossError: a loss term or its gradient became NaN or infinite.
        Interrupted: Ctrl-C or SIGTERM; a checkpoint was written.
        DataError, ModelError, OutputError: see `prepare` and `save_model`.
    """
    if config.objective.kind == "armo":
        return train_armo(config, resume=resume)
    folder = config.output.folder
    if config.training.threads is not None:
        torch.set_num_threads(config.training.threads)
    checkpoints = folder / "checkpoints"
    refuse_another_run(folder, checkpoints, resume)
    prepared = settle(prepare(config), resume=resume)
    config = prepared.config
    objective = make_objective(prepared)
    named = named_trainable(prepared.network, objective.log_variance)
    optimizer = make_optimizer(config, prepared.network, objective.log_variance)
    total = config.training.max_steps or prepared.order.num_steps(config.training.epochs)
    done = resume_run(prepared, checkpoints, named, optimizer) if resume else 0
    cost = cost_until(checkpoints, done)
    write_beginnings(prepared, folder)

    def save(step: int) -> None:
        state = {"step": step, "data": prepared.data_hash, "config": decisive(config.as_dict())}
        state["cost"] = cost.as_dict()
        save_checkpoint(checkpoints, state, named, optimizer, keep=config.training.keep_checkpoints)

    with (
        stop_signals() as stop,
        closing(Tracker(folder, done, tensorboard=config.training.tensorboard)) as tracker,
        progress(total, done, config.training.log_every) as bar,
        prefetched(prepared, objective.use_margin, range(done, total)) as batches,
    ):
        for step in range(done, total):
            started = time.monotonic()
            factor = learning_rate_factor(
                step, total, config.training.warmup, config.training.schedule
            )
            set_learning_rate(optimizer, factor)
            optimizer.zero_grad(set_to_none=True)
            try:
                result = _gradients(prepared, objective, step, named, batches, stop)
            except Abandoned:
                save(step)
                raise Interrupted(f"stopped after step {step}; go on with --resume") from None
            norm = _clip(prepared, named, step)
            optimizer.step()
            cost.add(result)
            _tell(result, norm, factor, time.monotonic() - started)
            _tell_noise(result, prepared, objective)
            _record(prepared, tracker, bar, step + 1, total, result)
            if due(step + 1, config.training.save_every) and step + 1 < total:
                save(step + 1)
    save(total)
    write_cost(folder, prepared, objective, cost)
    prepared.network.head.finalize()
    save_model(folder / "model", prepared.network, prepared.tokenizer, prepared.card)
    return folder / "model"


def _gradients(
    prepared: Prepared,
    objective: Objective,
    step: int,
    named: dict[str, Any],
    batches: Batches,
    stop: StopFlag,
) -> StepResult:
    every = prepared.config.training.diagnose_every
    if every and prepared.config.objective.kind == "joint" and step % every == 0:
        return diagnose_step(prepared, objective, step, named, batches=batches, stop=stop)
    return run_step(prepared, objective, step, batches=batches, stop=stop)


def _overflow(prepared: Prepared, step: int, norm: float) -> NonFiniteLossError:
    """The losses were finite, their gradient is not."""
    pairs, rated = prepared.order.step(step)
    where = [prepared.train.pairs[i].where for i in pairs]
    where += [prepared.train.rated[i].where for i in rated]
    records = ", ".join(where[:8]) + (" ..." if len(where) > 8 else "")
    return NonFiniteLossError(
        f"step {step + 1}: the gradient of the loss is {norm}. Records of this step: {records}. "
        "Lower training.learning_rate, or look at the records."
    )


def _clip(prepared: Prepared, named: dict[str, torch.nn.Parameter], step: int) -> float:
    """Clip the gradient; returns its norm before.

    Raises:
        NonFiniteLossError: the norm is NaN or infinite.
    """
    norm = clip_gradients(named.values(), prepared.config.training.max_grad_norm)
    if not math.isfinite(norm):
        raise _overflow(prepared, step, norm)
    return norm


def _tell(result: StepResult, norm: float, factor: float, seconds: float) -> None:
    """Add what is known only after the update."""
    result.values["gradient_norm"] = norm
    result.values["learning_rate_factor"] = factor
    result.values["tokens"] = result.tokens
    result.values["tokens_per_second"] = result.tokens / max(seconds, 1e-9)


def _tell_noise(result: StepResult, prepared: Prepared, objective: Objective) -> None:
    """The learned noise of each attribute, as a standard deviation on the training scale."""
    if objective.log_variance is not None:
        noise = torch.exp(objective.log_variance.detach() / 2).tolist()
        for name, value in zip(prepared.card.attributes, noise, strict=True):
            result.values[f"noise/{name}"] = value


def _record(
    prepared: Prepared, tracker: Tracker, bar: Progress, step: int, total: int, result: StepResult
) -> None:
    training = prepared.config.training
    measured = validate(prepared) if due(step, training.evaluate_every) or step == total else {}
    result.values.update(measured)
    told = bool(measured) or "gradient/cosine" in result.values
    if due(step, training.log_every) or step in (1, total) or told:
        tracker.log(step, dict(result.values))
    bar.update(step, result.values)
