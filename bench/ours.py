"""smorm's side of the training benchmarks: the product's own path, one step at a time.

Nothing here is a copy made for speed: data, network, objective, step, clipping and optimizer are
`smorm.training`'s, in the order of `smorm.training.loop.train`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from smorm.config import Config, parse_config
from smorm.data.mixing import DataOrder
from smorm.training.methods import Method, make_method
from smorm.training.optim import clip_gradients, make_optimizer, named_trainable
from smorm.training.setup import Prepared
from smorm.training.step import StepResult, run_step

Indices = NDArray[np.int64]
Batch = tuple[Indices, Indices]
"""Indices of a step's pairs and of its rated responses."""

LEARNING_RATE = 1e-5
MAX_TOKENS = 1024  # TRL's default `max_length`, and the official code's for Unified-Feedback
MODELS: dict[str, dict[str, int]] = {
    "reference": {
        "hidden_size": 512,
        "num_hidden_layers": 8,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "intermediate_size": 1408,
    },
    "small": {
        "hidden_size": 256,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "intermediate_size": 704,
    },
    "tiny": {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "intermediate_size": 64,
    },
}
VOCABULARY = {"reference": 16_000, "small": 16_000, "tiny": 1_000}


def config_of(
    model: str,
    folder: Path,
    pairs: Path,
    rated: Path | None = None,
    *,
    precision: str = "bf16",
    batch_size: int = 8,
    seed: int = 0,
    tokenizer: Path | None = None,
) -> Config:
    """A run on these files from random weights; what is not named here is smorm's default.

    Without `tokenizer` (a folder) one is trained on the run's texts.
    """
    values: dict[str, Any] = {
        "model": {
            "backbone": {"architecture": "llama", **MODELS[model]},
            "tokenizer": str(tokenizer)
            if tokenizer
            else {"train": "bpe", "vocab_size": VOCABULARY[model]},
        },
        "data": {"preference": str(pairs), "max_tokens": MAX_TOKENS, "overlong": "drop"},
        "objective": {"kind": "joint" if rated else "preference", "weighting": "official"},
        "training": {
            "seed": seed,
            "batch_size": batch_size,
            "learning_rate": LEARNING_RATE,
            "schedule": "constant",
            "warmup": 0.0,
            "precision": precision,
            "device": "cpu",
        },
        "output": {"folder": str(folder)},
    }
    if rated:
        values["data"]["rated"] = str(rated)
    return parse_config(values)


@dataclass(frozen=True, slots=True)
class FixedOrder:
    """Stands where `DataOrder` stands, with batches that were chosen beforehand."""

    batches: tuple[Batch, ...]

    def step(self, index: int) -> Batch:
        """Indices of the pairs and of the rated responses of step `index` (from 0)."""
        return self.batches[index]


@dataclass(slots=True)
class Ours:
    """A run in the middle: weights, optimizer, and the steps that are done."""

    prepared: Prepared
    method: Method
    named: dict[str, torch.nn.Parameter]
    optimizer: torch.optim.Optimizer
    done: int = 0

    def step(self) -> StepResult:
        """The next optimizer step, as `smorm.training.loop.train` takes it."""
        self.optimizer.zero_grad(set_to_none=True)
        result = run_step(self.prepared, self.method, self.done)
        limit = self.prepared.config.training.max_grad_norm
        clip_gradients(self.named.values(), limit)
        self.optimizer.step()
        self.done += 1
        return result


def begin(prepared: Prepared, batches: tuple[Batch, ...] | None = None) -> Ours:
    """Start a run from `prepared`'s weights; `batches` replace its order of the data."""
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
    return Ours(prepared, method, named, optimizer)


def batches_of(order: DataOrder, steps: int) -> tuple[Batch, ...]:
    """The first steps of smorm's own seeded permutation of the data."""
    return tuple(order.step(step) for step in range(steps))
