"""The run's folder: what is written at its beginning, where a stopped run goes on, and its cost.

Cost is counted in tokens as they are computed (shared ones once): time depends on the machine.
"""

import logging
from dataclasses import dataclass
from pathlib import Path

import torch

from smorm import files
from smorm.config import Config, decisive, dump_config
from smorm.errors import CheckpointError, ConfigError
from smorm.model.network import RewardNetwork
from smorm.training.checkpoint import (
    Named,
    list_checkpoints,
    load_checkpoint,
    newest_checkpoint,
    read_state,
)
from smorm.training.setup import Prepared
from smorm.training.step import StepResult

log = logging.getLogger(__name__)


def refuse_another_run(folder: Path, checkpoints: Path, resume: bool) -> None:
    """Without `resume`, a folder that holds a run is refused."""
    if resume:
        return
    problem = f"output.folder: {folder} holds a run already"
    if list_checkpoints(checkpoints):
        raise ConfigError(f"{problem}: add --resume to go on with it, or name another folder")
    if (folder / "model").exists():
        raise ConfigError(f"{problem}: name another folder")


def write_beginnings(prepared: Prepared, folder: Path) -> None:
    """Write the resolved configuration and what was counted, and log it."""
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
    counts = (report["pairs"], report["rated"], prepared.network.layout)
    log.info("%d pairs, %d rated responses, %s layout", *counts)
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
    # A run that asks for margins and has none would silently be Single without them.
    if not count:
        raise ConfigError(
            f"objective.use_margin: none of the {len(pairs)} pairs has a margin above 0, so that "
            "it would change nothing: give records a `margin`, or leave it out"
        )
    return count


def resume_run(
    config: Config, data_hash: str, folder: Path, named: Named, optimizer: torch.optim.Optimizer
) -> int:
    """Load the newest undamaged checkpoint; returns the steps done, or 0 when there is none."""
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


def cost_until(checkpoints: Path, done: int) -> Cost:
    """What was counted until the checkpoint of `done` steps; those of old versions have none."""
    for path in list_checkpoints(checkpoints):
        if done and path.name.endswith(f"-{done:08d}"):
            return Cost(**read_state(path).get("cost", {}))
    return Cost()


def write_cost(
    folder: Path, network: RewardNetwork, kind: str, cost: Cost, reference_tokens: int = 0
) -> None:
    """Write `cost.json`.

    `parameters`: of the model that scores; of those that were trained; and of a language head that
    is there for training only (none where it is the embedding). `passes_per_score`: forward passes
    for the score of one response. `reference_tokens`: computed before the first step.
    """
    # A language head is no part of the model that scores: it is dropped after training.
    scoring = [*network.backbone.parameters(), *network.head.parameters()]
    model = sum(parameter.numel() for parameter in scoring)
    counts = {"model": model, "trained": 0, "language_head": -model}
    # `parameters` lists a shared tensor once: a tied language head is the embedding.
    for parameter in network.parameters():
        counts["trained"] += parameter.numel() * parameter.requires_grad
        counts["language_head"] += parameter.numel()
    tokens = {"trained": cost.tokens, "first_pass": cost.first_pass_tokens}
    report = {
        "kind": kind,
        "parameters": counts,
        "passes_per_score": 1,
        "steps": cost.steps,
        "passes": cost.passes,
        "tokens": {**tokens, "reference": reference_tokens},
    }
    files.write_json(folder / "cost.json", report)
