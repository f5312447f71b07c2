"""ArmoRM's second stage: what is subtracted from the rewards, and the gate that mixes them.

Shapes: P pairs, K attributes, D hidden size.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from contextlib import closing

import numpy as np
import torch

from smorm.errors import NonFiniteLossError
from smorm.model.heads import GatedHead, gate_network
from smorm.objectives.bradley_terry import bradley_terry
from smorm.objectives.terms import Metrics
from smorm.training.armo.debias import Debiased, debias
from smorm.training.armo.features import Pairs, Reader, Stage1
from smorm.training.methods.armo import ArmoSection
from smorm.training.optim import (
    clip_gradients,
    learning_rate_factor,
    make_optimizer,
    named_trainable,
    set_learning_rate,
)
from smorm.training.setup import Prepared
from smorm.training.tracking import Tracker, due, progress
from smorm.training.validation import validate

log = logging.getLogger(__name__)


def find_multiples(prepared: Prepared, stage1: Stage1, pairs: Pairs) -> list[Debiased]:
    """Of each attribute the multiple of verbosity that is subtracted; of verbosity's own row all
    of it, as in the public code. Where nothing is debiased the correlations are NaN."""
    if stage1.verbosity is None:
        return [Debiased(0.0, math.nan, math.nan) for _ in stage1.rows]
    limit, found = prepared.config.objective.settings(ArmoSection).correlation, []
    verbosity = pairs.verbosity.double().numpy().ravel()
    for at, (name, row) in enumerate(zip(prepared.card.attributes, stage1.rows, strict=True)):
        reward = pairs.ratings[..., at].double().numpy().ravel()
        own = row is stage1.verbosity
        one = Debiased(1.0, 1.0, 0.0) if own else debias(reward, verbosity, limit)
        found.append(one)
        log.info("%s: correlation with verbosity %.3f, %.3f after subtracting %.3g of it",
                 name, one.before, one.after, one.multiple)  # fmt: skip
        if abs(one.after) > limit:
            log.warning("%s: warning: no multiple brings it to %g or less over these %d responses",
                        name, limit, len(reward))  # fmt: skip
    return found


def make_head(reader: Reader, stage1: Stage1, multiples: Sequence[Debiased]) -> GatedHead:
    """The head with its fitted rows and an untrained gate."""
    config = reader.prepared.config
    chosen, training = config.objective.settings(ArmoSection), config.training
    attributes = torch.from_numpy(np.stack([row.weights for row in stage1.rows])).float()
    verbosity = torch.zeros(attributes.shape[1])
    if stage1.verbosity is not None:
        verbosity = torch.from_numpy(stage1.verbosity.weights).float()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(training.seed)
        gate = gate_network(
            attributes.shape[1], len(attributes), width=chosen.width, layers=chosen.layers,
            dropout=chosen.dropout,
        )  # fmt: skip
    return GatedHead(
        attributes, verbosity, torch.tensor([one.multiple for one in multiples]), gate,
        torch.from_numpy(np.array(reader.header)), chosen.temperature,
    )  # fmt: skip


def train_gate(reader: Reader, head: GatedHead, pairs: Pairs) -> None:
    """Put the head in its place and train its gate by Bradley–Terry on the pairs.

    Order, batch size, rates and schedule are those of `training`; both sides of a pair get one draw
    of the gate's dropout.

    Raises:
        NonFiniteLossError: the loss or its gradient became NaN or infinite.
    """
    prepared, cost = reader.prepared, reader.cost
    training, network = prepared.config.training, prepared.network
    debiased = pairs.ratings - pairs.verbosity[..., None] * head.multiples.cpu()
    network.head = head.train().to(network.device)
    total = training.max_steps or prepared.order.num_steps(training.epochs)
    optimizer = make_optimizer(training, network, {})
    folder, devices = prepared.config.output.folder, [network.device]
    with (
        closing(Tracker(folder, tensorboard=training.tensorboard)) as tracker,
        progress(total, 0, training.log_every) as bar,
        torch.random.fork_rng(devices=devices if network.device.type == "cuda" else []),
    ):
        torch.manual_seed(training.seed)
        for step in range(total):
            factor = learning_rate_factor(step, total, training.warmup, training.schedule)
            set_learning_rate(optimizer, factor)
            values = _update(prepared, head, pairs, debiased, step, optimizer)
            values["learning_rate_factor"] = factor
            cost.steps, cost.passes = cost.steps + 1, cost.passes + 1
            measured = due(step + 1, training.evaluate_every) or step + 1 == total
            if measured:
                values |= validate(network, prepared.card, prepared.dev, prepared.batch_tokens)
            if measured or due(step + 1, training.log_every) or step == 0:
                tracker.log(step + 1, values)
            bar.update(step + 1, values)


def _update(
    prepared: Prepared,
    head: GatedHead,
    pairs: Pairs,
    debiased: torch.Tensor,
    step: int,
    optimizer: torch.optim.Optimizer,
) -> dict[str, float]:
    """One update of the gate; its numbers."""
    named = named_trainable(prepared.network, {})
    optimizer.zero_grad(set_to_none=True)
    loss, metrics = gate_loss(prepared, head, pairs, debiased, step)
    loss.backward()
    norm = clip_gradients(named.values(), prepared.config.training.max_grad_norm)
    value = float(loss.detach())
    if not math.isfinite(value) or not math.isfinite(norm):
        raise NonFiniteLossError(
            f"step {step + 1}: the gate's loss is {value}, its gradient {norm}. "
            "Lower training.learning_rate."
        )
    optimizer.step()
    numbers = {name: float(one) for name, one in metrics.items()}
    return numbers | {"loss": value, "gradient_norm": norm, "scale": float(head.scale.detach())}


def gate_loss(
    prepared: Prepared, head: GatedHead, pairs: Pairs, debiased: torch.Tensor, step: int
) -> tuple[torch.Tensor, Metrics]:
    """The preference loss of a step's pairs."""
    device, objective = prepared.network.device, prepared.config.objective
    chosen = torch.from_numpy(prepared.order.step(step)[0])
    used, place = torch.unique(pairs.which[chosen], return_inverse=True)
    shares = head.gate_weights(pairs.prompts[used].to(device))[place.to(device)]
    scores = head.mix(shares.flatten(0, 1), debiased[chosen].to(device).flatten(0, 1))
    sides = scores.unflatten(0, (-1, 2))
    margin = pairs.margins[chosen].to(device) if objective.use_margin else None
    return bradley_terry(
        sides[:, 0], sides[:, 1], total=len(chosen), margin=margin,
        label_smoothing=objective.label_smoothing,
    )  # fmt: skip
