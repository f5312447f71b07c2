"""smorm's runs in the training benchmarks: the product's own path, one step at a time.

Nothing here is a copy made for speed: data, network, objective, step, clipping and optimizer are
`smorm.training`'s, in the order of `smorm.training.loop.train`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch

from bench.measure import Arm, RoundOutcome
from smorm.arrays import Ints
from smorm.config import Config, parse_config
from smorm.training.methods import Method, make_method
from smorm.training.optim import clip_gradients, make_optimizer, named_trainable
from smorm.training.setup import Prepared
from smorm.training.step import run_step

# Indices of a step's pairs and of its rated responses.
Batch = tuple[Ints, Ints]

LEARNING_RATE = 1e-5
MAX_TOKENS = 1024  # TRL's default `max_length`, and the official code's for Unified-Feedback
_FIELDS = ("hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads",
           "intermediate_size")  # fmt: skip
MODELS: dict[str, dict[str, int]] = {
    "reference": dict(zip(_FIELDS, (512, 8, 8, 4, 1408), strict=True)),
    "serving": dict(zip(_FIELDS, (256, 8, 4, 2, 704), strict=True)),
    "small": dict(zip(_FIELDS, (256, 4, 4, 2, 704), strict=True)),
    "tiny": dict(zip(_FIELDS, (32, 2, 2, 1, 64), strict=True)),
}
VOCABULARY = {"reference": 16_000, "serving": 16_000, "small": 16_000, "tiny": 1_000}


@dataclass(frozen=True, slots=True)
class Plan:
    """How much is measured."""

    folder: Path
    rounds: int = 6
    warmup: int = 3
    steps_a_round: int = 2
    equality_steps: int = 2
    peak_repeats: int = 5

    @property
    def steps(self) -> int:
        """Optimizer steps of a timed run, warm-up included."""
        return (self.rounds + self.warmup) * self.steps_a_round


class Step(NamedTuple):
    """An optimizer step: its loss, and the token positions that it computed, padding included."""

    loss: float
    positions: int


class Run(Protocol):
    """Training that is taken step by step: smorm's, TRL's, or the padded one."""

    def step(self) -> Step:
        """Take the next optimizer step."""


def run_config(
    model: str,
    folder: Path,
    pairs: Path,
    rated: Path | None = None,
    *,
    precision: str = "bf16",
    batch_size: int = 8,
    tokenizer: Path | None = None,
) -> Config:
    """A run on these files from random weights; what is not named here is smorm's default.

    Without `tokenizer` (a folder) one is trained on the run's texts."""
    values: dict[str, Any] = {
        "model": {
            "backbone": {"architecture": "llama", **MODELS[model]},
            "tokenizer": {"train": "bpe", "vocab_size": VOCABULARY[model]},
        },
        # TRL drops what is over its limit; the runs must train on the same pairs
        "data": {"preference": str(pairs), "max_tokens": MAX_TOKENS, "overlong": "drop"},
        "objective": {"kind": "preference", "weighting": "official"},
        "training": {
            "seed": 0,
            "batch_size": batch_size,
            "learning_rate": LEARNING_RATE,
            # a few steps of another schedule would be steps of its warm-up
            "schedule": "constant",
            "warmup": 0.0,
            "precision": precision,
            "device": "cpu",
        },
        "output": {"folder": str(folder)},
    }
    if tokenizer:
        values["model"]["tokenizer"] = str(tokenizer)
    if rated:
        values["data"]["rated"] = str(rated)
        values["objective"]["kind"] = "joint"
    return parse_config(values)


@dataclass(frozen=True, slots=True)
class FixedOrder:
    """Takes the place of `DataOrder`, with batches that were chosen beforehand."""

    batches: Sequence[Batch]

    def step(self, index: int) -> Batch:
        """Indices of the pairs and of the rated responses of step `index` (from 0)."""
        return self.batches[index]


@dataclass(slots=True)
class SmormRun:
    """smorm's training after `done` steps: weights and optimizer."""

    prepared: Prepared
    method: Method
    named: dict[str, torch.nn.Parameter]
    optimizer: torch.optim.Optimizer
    done: int = 0

    def step(self) -> Step:
        """The next optimizer step, as `smorm.training.loop.train` takes it."""
        self.optimizer.zero_grad(set_to_none=True)
        result = run_step(self.prepared, self.method, self.done)
        clip_gradients(self.named.values(), self.prepared.config.training.max_grad_norm)
        self.optimizer.step()
        self.done += 1
        return Step(result.values["loss"], result.tokens)


def start_smorm(prepared: Prepared, batches: Sequence[Batch] | None = None) -> SmormRun:
    """Start from `prepared`'s weights, which are trained in place.

    Args:
        batches: take the place of `prepared`'s order of the data."""
    if batches is not None:
        order: Any = FixedOrder(batches)
        prepared = replace(prepared, order=order)
    method = make_method(prepared)
    named = named_trainable(prepared.network, method.parameters)
    optimizer = make_optimizer(
        prepared.config.training,
        prepared.network,
        method.parameters,
        method.parameter_learning_rate,
    )
    return SmormRun(prepared, method, named, optimizer)


def stepped_arm(name: str, run: Run, batches: Sequence[Batch], plan: Plan) -> Arm:
    """Rounds of a run's next steps; a round's values are the losses of its steps."""
    # Whatever a round's number is, warm-up included, a run takes its batches one after the other.
    remaining = iter(batches)

    def steps(_: int) -> RoundOutcome:
        losses, positions, pairs = [], 0, 0
        for _step in range(plan.steps_a_round):
            pairs += len(next(remaining)[0])
            step = run.step()
            losses.append(step.loss)
            positions += step.positions
        return RoundOutcome(losses, positions, pairs)

    return Arm(name, steps)
