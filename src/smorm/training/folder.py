"""The run's folder: its beginnings, checkpoints, where a stopped run goes on, and its cost.

A checkpoint is a sealed folder (see `smorm.files.atomic_folder`), complete or invisible: trainable
weights and the optimizer's moments as safetensors, and a small JSON state. Data order and dropout
are functions of (seed, step). Cost is counted in computed tokens: time depends on the machine."""

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from smorm import files
from smorm.config import Config, decisive, dump_config
from smorm.errors import CheckpointError, ConfigError, DataError
from smorm.model.backbone import is_lora
from smorm.model.pieces import Pieces
from smorm.model.run_folder import CHECKPOINTS, checkpoint_of, how_far, list_checkpoints
from smorm.model.store import save_tokenizer_and_card
from smorm.printing import get_logger
from smorm.training import numerics, optim
from smorm.training.best import Best
from smorm.training.distributed.ranks import current
from smorm.training.distributed.tensors import read_into
from smorm.training.saving import Named
from smorm.training.setup import Prepared
from smorm.training.step import StepResult

log = get_logger(__name__)
LENGTH = ("training.epochs", "training.max_steps")
"""Keys that a resumed run may have larger."""
BEGINNING = "beginning"
"""The run's tokenizer and model card, as they are before the first step."""


def refuse_another_run(folder: Path) -> None:
    """A folder that holds a run is a ConfigError."""
    problem = f"output.folder: {folder} holds a run already"
    if list_checkpoints(folder / CHECKPOINTS):
        problem += f", which came to {how_far(folder)}"
        raise ConfigError(f"{problem}: add --resume to go on with it, or name another folder")
    if (folder / "model").exists():
        raise ConfigError(f"{problem}: name another folder")


def write_beginnings(prepared: Prepared) -> None:
    """Write the resolved configuration and what was counted, and log it."""
    folder = prepared.config.output.folder
    pairs, margins = prepared.train.pairs, None
    if prepared.config.objective.use_margin and pairs:
        margins = sum(pair.margin > 0 for pair in pairs)
    # A run that asks for margins and has none would silently be Single without them.
    if margins == 0:
        raise ConfigError(
            f"objective.use_margin: none of the {len(pairs)} pairs has a margin above 0, so that "
            "it would change nothing: give records a `margin`, or leave it out"
        )
    files.refuse_unwritable_folder(folder / "model", _size_of_run(prepared))
    files.write_text(folder / "config.yaml", dump_config(prepared.config))
    # With them a checkpoint becomes a model without the data of the run.
    with files.atomic_folder(folder / BEGINNING) as scratch:
        save_tokenizer_and_card(scratch, prepared.tokenizer, prepared.card)
    report = {
        "pairs": len(pairs),
        "rated": len(prepared.train.rated),
        "attributes": [scale.name for scale in prepared.card.scales],
        "steps": prepared.num_steps,
        "counted": prepared.census.as_dict(),
        "fingerprint": {"config": prepared.config.hash, "data": prepared.data_hash},
        "numerics": numerics.describe(),
    }
    files.write_json(folder / "data.json", report)
    layout = prepared.network.layout
    log.info("%d pairs, %d rated responses, %s layout", len(pairs), report["rated"], layout)
    if margins is not None:
        log.info("use_margin: %d of %d pairs have a margin above 0", margins, len(pairs))
    for line in prepared.census.lines():
        log.info("data: %s", line)


def _size_of_run(prepared: Prepared) -> int:
    """Bytes of a model and of one checkpoint: the least that a run writes."""
    network = prepared.network
    model = sum(weight.nbytes for weight in network.parameters())
    trained = sum(weight.nbytes for weight in network.parameters() if weight.requires_grad)
    # Adapters are written without the model that they are on; beside weights stand two moments.
    return (trained if is_lora(network.backbone) else model) + 3 * trained


def stored_tensors(folder: Path, name: str) -> Pieces:
    """`weights` or `optimizer` of a checkpoint, however many ranks wrote it."""
    if (folder / name).is_dir():
        return Pieces(sorted((folder / name).glob("*.safetensors")))
    return Pieces([folder / f"{name}.safetensors"])


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
        advice = "Start anew in another folder."
        raise CheckpointError(f"no checkpoint in {folder} is whole: {problems[0]}. {advice}")
    return None


def newest_numerics(folder: Path) -> numerics.Recorded | None:
    """The newest checkpoint whose state can be read, and what decided its last bits: empty where it
    does not say (those of older versions). No sum is checked."""
    for path in reversed(list_checkpoints(folder)):
        with contextlib.suppress(DataError, AttributeError):
            return path, files.read_json(path / "state.json").get("numerics", {})
    return None


def load_checkpoint(path: Path, named: Named, optimizer: torch.optim.Optimizer) -> None:
    """Put weights and moments back, bit for bit; CheckpointError for another model's."""
    try:
        weights, moments = (stored_tensors(path, kind) for kind in ("weights", "optimizer"))
        # Compared before anything is copied: a model that is half loaded must not train on.
        if weights.shapes.keys() != named.keys():
            raise CheckpointError(f"{path}: holds other parameters than this model has")
        for name, parameter in named.items():
            if weights.shapes[name] != tuple(parameter.shape):
                raise CheckpointError(f"{path}: {name} has another shape than in this model")
        for name, parameter in named.items():
            read_into(parameter.data, weights, name)
        if not isinstance(optimizer, torch.optim.AdamW):
            optim.restore_8bit(optimizer, named, moments)
            return
        for key in moments.shapes:
            name, _, moment = key.rpartition("/")
            optimizer.state[named[name]][moment] = _read_moment(
                moments, key, named[name], fused=bool(optimizer.defaults.get("fused"))
            )
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path}: cannot be read: {error}") from error


def _read_moment(
    moments: Pieces, key: str, parameter: torch.nn.Parameter, *, fused: bool
) -> torch.Tensor:
    if key.endswith("/step"):
        # AdamW keeps its step count on the CPU unless it is fused, the moments beside the weights.
        step = moments.read(key).clone()
        return step.to(parameter.device) if fused else step
    value = torch.zeros_like(parameter.data)
    read_into(value, moments, key)
    return value


def load_best(
    config: Config, best: Best, done: int, named: Named, optimizer: torch.optim.Optimizer
) -> None:
    """Put the best step's weights in place of the last one's, say so, and write `best.json`."""
    path = checkpoint_of(config.output.folder / CHECKPOINTS, best.step)
    files.verify_folder(path)
    load_checkpoint(path, named, optimizer)
    log.info("the model is that of step %d of %d, the best by %s", best.step, done, best.held_out)
    if current().is_first:
        report = {"held_out": best.held_out, "steps": done, **best.state}
        files.write_json(config.output.folder / "best.json", report)


@dataclass(slots=True)
class Cost:
    """Counted over the steps of a run, those before a resumption included: forward passes with a
    gradient, tokens that they computed, and tokens computed without one, for step terms."""

    steps: int = 0
    passes: int = 0
    tokens: int = 0
    first_pass_tokens: int = 0

    def add(self, result: StepResult) -> None:
        """Count one more step."""
        self.steps += 1
        self.passes += result.micro_batches
        self.tokens += result.tokens
        self.first_pass_tokens += result.first_pass_tokens


def resume_run(
    prepared: Prepared, folder: Path, named: Named, optimizer: torch.optim.Optimizer
) -> tuple[int, Cost, dict[str, Any]]:
    """Load the newest undamaged checkpoint, if any; returns the steps done, their cost, and the
    state of what is best."""
    path = newest_checkpoint(folder)
    if path is None:
        log.info("no checkpoint in %s: starting from the beginning", folder)
        return 0, Cost(), {}
    state = files.read_json(path / "state.json")
    now, before = decisive(prepared.config.as_dict()), state["config"]
    # Keys that decide nothing (threads, log_every) may differ between a run and its resumption.
    changed = sorted(key for key in {*now, *before} if now.get(key) != before.get(key))
    if others := [key for key in changed if key not in LENGTH]:
        raise CheckpointError(f"{path}: was written with another {', '.join(others)}")
    if changed:
        _refuse_shorter(prepared, path, before)
    if state["data"] != prepared.data_hash:
        raise CheckpointError(f"{path}: was written with other data (or another tokenizer)")
    load_checkpoint(path, named, optimizer)
    log.info("resumed after step %d from %s", state["step"], path)
    # Checkpoints of old versions have no cost.
    return int(state["step"]), Cost(**state.get("cost", {})), state.get("best", {})


def _refuse_shorter(prepared: Prepared, path: Path, before: Mapping[str, Any]) -> None:
    """A run may become longer: data order and batches are functions of the step alone."""
    epochs, steps = (before[key] for key in LENGTH)
    earlier, total = steps or prepared.order.num_steps(epochs), prepared.num_steps
    if total < earlier:
        advice = "it can be lengthened, not shortened; --step N of other verbs takes a checkpoint"
        raise CheckpointError(f"{path}: the run was to have {earlier} steps, now {total}: {advice}")
    log.info("lengthened from %d to %d steps: from here on the learning rate (%s) is that of a run "
             "of this length", earlier, total, prepared.config.training.schedule)  # fmt: skip


def write_cost(
    prepared: Prepared,
    cost: Cost,
    reference_tokens: int = 0,
    head_start: Mapping[str, Any] | None = None,
) -> None:
    """Write `cost.json`. `parameters`: of the model that scores; of those that were trained; and of
    a language head that is there for training only (none where it is the embedding).
    `passes_per_score`: forward passes for the score of one response. `head_start`: what fitting
    the head's first rows cost (`smorm.training.head_start`), if they were fitted."""
    config, network = prepared.config, prepared.network
    # A language head is no part of the model that scores: it is dropped after training.
    scoring = [*network.backbone.parameters(), *network.head.parameters()]
    model = sum(parameter.numel() for parameter in scoring)
    counts = {"model": model, "trained": 0, "language_head": -model}
    # `parameters` lists a shared tensor once: a tied language head is the embedding.
    for parameter in network.parameters():
        counts["trained"] += parameter.numel() * parameter.requires_grad
        counts["language_head"] += parameter.numel()
    tokens = {"trained": cost.tokens, "first_pass": cost.first_pass_tokens}
    report: dict[str, Any] = {
        "kind": config.objective.kind,
        "parameters": counts,
        "passes_per_score": 1,
        "steps": cost.steps,
        "passes": cost.passes,
        "tokens": {**tokens, "reference": reference_tokens},
    }
    if head_start:
        report["tokens"]["head_start"] = head_start["tokens"]
        report["head_start"] = dict(head_start)
    files.write_json(config.output.folder / "cost.json", report)
