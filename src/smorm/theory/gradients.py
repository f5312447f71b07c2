"""Gradient conflict: do the two losses pull the shared trunk in one direction?

The gradients of Bradley–Terry and of the regression on the backbone's weights, at the weights as
they are, over several batches with prompts of their own. A cosine near −1 says that what helps one
loss hurts the other; the norms' ratio says which of them moves the trunk.

Shapes: B batches, K attributes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch

from smorm.errors import DataError
from smorm.evaluation.metrics import Clusters, Floats, Metric, cluster_codes, mean_metric
from smorm.model.network import RewardNetwork
from smorm.objectives.bradley_terry import bradley_terry
from smorm.objectives.regression import regression
from smorm.trees.forest import Tokens

Unit = Sequence[Tokens]
Gradients = dict[str, torch.Tensor]
BATCHES, BATCH_SIZE = 8, 16
_LAYER = re.compile(r"\.(\d+)\.")


@dataclass(frozen=True, slots=True)
class TermData:
    """Pairs and rated responses as tokens, with a label of each one's prompt.

    `targets` [R, K] are ratings on the training scale, NaN where not rated.
    """

    pairs: Sequence[Unit]
    pair_prompts: Clusters
    rated: Sequence[Unit]
    rated_prompts: Clusters
    targets: Floats


def conflict(
    network: RewardNetwork,
    data: TermData,
    max_batch_tokens: int,
    *,
    batches: int = BATCHES,
    batch_size: int = BATCH_SIZE,
    seed: int = 0,
) -> dict[str, Metric]:
    """Cosine and norm ratio of the two gradients, over batches that share no prompt.

    Args:
        batches: at most so many; each has its own prompts, so fewer where there are few.
        batch_size: pairs, and rated responses, in a batch.

    Metrics, n being batches: `cosine`, `norm_ratio` (preference over regression; the regression
    term averages over ratings, weight 1), and both for each layer, `layer/NAME/...`. Intervals
    resample batches. Nothing in the network is changed.

    Raises:
        DataError: too few prompts for two batches.
    """
    compared = list(_batches(data.pair_prompts, len(data.pairs), batches, batch_size, seed))
    alone = list(_batches(data.rated_prompts, len(data.rated), batches, batch_size, seed))
    count = min(len(compared), len(alone))
    if count < 2:
        raise DataError("gradients: too few prompts for two batches of their own")
    rows: list[dict[str, tuple[float, float, float]]] = []
    with _all_trainable(network):
        for pairs, rated in zip(compared[:count], alone[:count], strict=True):
            left = _preference(network, data, pairs, max_batch_tokens)
            right = _regression(network, data, rated, max_batch_tokens)
            rows.append(_products(left, right))
    return _summary(rows)


def _batches(
    prompts: Clusters, count: int, batches: int, size: int, seed: int
) -> Iterator[list[int]]:
    """Batches with prompts of their own, in a random order. A prompt gives at most one batch's
    worth; the last batch may be small, but not below half."""
    if count == 0:
        return
    codes, groups = cluster_codes(prompts, count)
    members: list[list[int]] = [[] for _ in range(groups)]
    for item, code in enumerate(codes.tolist()):
        members[code].append(item)
    taken: list[int] = []
    made = 0
    # With few prompts a batch takes fewer items, so that there are several batches.
    size = max(1, min(size, count // batches))
    for group in np.random.default_rng(seed).permutation(groups).tolist():
        taken += members[group][:size]
        if len(taken) >= size:
            yield taken
            taken, made = [], made + 1
            if made == batches:
                return
    if 2 * len(taken) >= size:
        yield taken


@contextmanager
def _all_trainable(network: RewardNetwork) -> Iterator[None]:
    """Every weight gets a gradient; afterwards all is as it was."""
    before = [(p, p.requires_grad, p.grad) for p in network.parameters()]
    training = network.training
    network.eval()
    for parameter, _, _ in before:
        parameter.requires_grad_(True)
        parameter.grad = None
    try:
        yield
    finally:
        for parameter, required, gradient in before:
            parameter.requires_grad_(required)
            parameter.grad = gradient
        network.train(training)


def _preference(
    network: RewardNetwork, data: TermData, chosen: Sequence[int], max_batch_tokens: int
) -> Gradients:
    units = [data.pairs[at] for at in chosen]
    for batch in network.micro_batches(units, max_batch_tokens):
        scores = network(network.arrange([tokens for at in batch for tokens in units[at]]))[:, 0]
        loss, _ = bradley_terry(scores[0::2], scores[1::2], total=len(units))
        loss.backward()
    return _taken(network)


def _regression(
    network: RewardNetwork, data: TermData, chosen: Sequence[int], max_batch_tokens: int
) -> Gradients:
    units = [data.rated[at] for at in chosen]
    targets = torch.from_numpy(data.targets[list(chosen)]).float().to(network.device)
    observed = ~targets.isnan()
    for batch in network.micro_batches(units, max_batch_tokens):
        scores = network(network.arrange([units[at][0] for at in batch]))
        loss, _ = regression(
            scores[:, 1:],
            targets[batch],
            observed[batch],
            total_rated=len(units),
            total_ratings=float(observed.sum()),
            reduction="mean",
        )
        loss.backward()
    return _taken(network)


def _taken(network: RewardNetwork) -> Gradients:
    """The trunk's gradients, which are then cleared."""
    found = {
        name: parameter.grad
        for name, parameter in network.backbone.named_parameters()
        if parameter.grad is not None
    }
    for parameter in network.parameters():
        parameter.grad = None
    return found


def layer_of(name: str) -> str:
    """The layer that a parameter belongs to: its number, or `embedding and norm`."""
    found = _LAYER.search(name)
    return found.group(1) if found else "embedding and norm"


def _products(left: Gradients, right: Gradients) -> dict[str, tuple[float, float, float]]:
    """(dot, left squared, right squared) of each layer, and of all under "" ."""
    sums: dict[str, list[float]] = {"": [0.0, 0.0, 0.0]}
    for name in left:
        if name not in right:
            continue
        a, b = left[name].double(), right[name].double()
        parts = (float((a * b).sum()), float(a.square().sum()), float(b.square().sum()))
        for place in ("", layer_of(name)):
            kept = sums.setdefault(place, [0.0, 0.0, 0.0])
            for at, part in enumerate(parts):
                kept[at] += part
    return {place: (kept[0], kept[1], kept[2]) for place, kept in sums.items()}


def _summary(rows: Sequence[dict[str, tuple[float, float, float]]]) -> dict[str, Metric]:
    found: dict[str, Metric] = {}
    # All first, then the layers by number, then what is in none of them.
    order = sorted(rows[0], key=lambda name: (bool(name) and not name.isdigit(), len(name), name))
    for place in order:
        table = np.array([row[place] for row in rows])
        dot, left, right = table.T
        if (left * right == 0).any():
            continue  # a layer that one of the losses does not reach
        prefix = f"layer/{place}/" if place else ""
        numbers = np.arange(len(rows))
        found[f"{prefix}cosine"] = mean_metric(dot / np.sqrt(left * right), numbers)
        found[f"{prefix}norm_ratio"] = mean_metric(np.sqrt(left / right), numbers)
    return found
