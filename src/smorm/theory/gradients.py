"""Gradient conflict: do the two losses pull the shared trunk in one direction?

The gradients of Bradley–Terry and of the regression on the backbone's weights, at the current
weights, over several batches with separate prompts. A cosine near −1 says that what helps one loss
hurts the other; the norms' ratio says which of them moves the trunk."""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch

from smorm.arrays import Clusters, Floats, Tokens
from smorm.errors import DataError
from smorm.evaluation.metrics import Metric, cluster_codes, mean_metric
from smorm.model.network import RewardNetwork
from smorm.objectives.joint import JointWeights, regression
from smorm.objectives.preference import bradley_terry
from smorm.objectives.terms import Totals

Unit = Sequence[Tokens]
Gradients = dict[str, torch.Tensor]
Products = dict[str, Floats]  # of each layer (dot product, squared norm, squared norm) [3]
BATCHES, BATCH_SIZE = 8, 16
_LAYER = re.compile(r"\.(\d+)\.")
_NO_LAYER = "embedding and norm"


@dataclass(frozen=True, slots=True)
class TermData:
    """Pairs and rated responses as tokens, with a label of each one's prompt."""

    pairs: Sequence[Unit]
    pair_prompts: Clusters
    rated: Sequence[Unit]
    rated_prompts: Clusters
    targets: Floats  # ratings on the training scale [R, K], NaN where not rated


def conflict(
    network: RewardNetwork, data: TermData, max_batch_tokens: int, batches: int = BATCHES
) -> dict[str, Metric]:
    """Cosine and norm ratio of the two gradients, over batches that share no prompt.

    A batch has 16 pairs, and 16 rated responses; with few prompts there are fewer batches.
    Metrics, n being batches: `cosine`, `norm_ratio` (preference over regression; the regression
    term averages over ratings, weight 1), and both for each layer, `layer/NAME/...`. Intervals
    resample batches. Nothing in the network is changed."""
    pair_batches = list(_batches(data.pair_prompts, batches))
    rated_batches = list(_batches(data.rated_prompts, batches))
    count = min(len(pair_batches), len(rated_batches))
    if count < 2:
        raise DataError("gradients: too few prompts for two batches of their own")
    products: list[Products] = []
    # A frozen or LoRA run would have no gradient of the trunk without this.
    with _all_trainable(network):
        for pairs, rated in zip(pair_batches[:count], rated_batches[:count], strict=True):
            preference = _preference(network, data, pairs, max_batch_tokens)
            ratings = _regression(network, data, rated, max_batch_tokens)
            products.append(_products(preference, ratings))
    return _summary(products)


def _batches(prompts: Clusters, batches: int) -> Iterator[list[int]]:
    """Batches of indices with separate prompts, in a random order. A prompt gives at most one
    batch's worth; the last batch may be small, but not below half."""
    codes, groups = cluster_codes(prompts, len(prompts))
    # With few prompts a batch takes fewer items, so that there are several batches.
    size = max(1, min(BATCH_SIZE, len(prompts) // batches))
    batch: list[int] = []
    num_batches = 0
    for group in np.random.default_rng(0).permutation(groups).tolist():
        # Whole prompts: intervals resample batches, which must be independent.
        batch += np.flatnonzero(codes == group)[:size].tolist()
        if len(batch) >= size:
            yield batch
            batch, num_batches = [], num_batches + 1
            if num_batches == batches:
                return
    if 2 * len(batch) >= size:
        yield batch


@contextmanager
def _all_trainable(network: RewardNetwork) -> Iterator[None]:
    """Every weight gets a gradient; afterwards flags, gradients and mode are restored."""
    before = [(p, p.requires_grad, p.grad) for p in network.parameters()]
    # Without dropout: the cosine would measure its noise too.
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
    network: RewardNetwork, data: TermData, indices: Sequence[int], max_batch_tokens: int
) -> Gradients:
    units = [data.pairs[index] for index in indices]
    for micro_batch in network.micro_batches(units, max_batch_tokens):
        sequences: list[Tokens] = []
        for index in micro_batch:
            sequences += units[index]
        scores = network(network.arrange(sequences))[:, 0]
        # By the whole batch's total, so that micro-batches add up to the batch's mean.
        loss, _ = bradley_terry(scores[0::2], scores[1::2], total=len(units))
        loss.backward()
    return _take_gradients(network)


def _regression(
    network: RewardNetwork, data: TermData, indices: Sequence[int], max_batch_tokens: int
) -> Gradients:
    units = [data.rated[index] for index in indices]
    # Missing ratings are masked, as in training.
    targets = torch.from_numpy(data.targets[list(indices)]).float().to(network.device)
    totals = Totals(0, len(units), (~targets.isnan()).sum(0))
    for micro_batch in network.micro_batches(units, max_batch_tokens):
        scores = network(network.arrange([units[index][0] for index in micro_batch]))
        loss, _ = regression(scores[:, 1:], targets[micro_batch], totals, JointWeights())
        loss.backward()
    return _take_gradients(network)


def _take_gradients(network: RewardNetwork) -> Gradients:
    """The trunk's gradients; all gradients are cleared."""
    gradients = {}
    for name, parameter in network.backbone.named_parameters():
        if parameter.grad is not None:
            gradients[name] = parameter.grad
    network.zero_grad(set_to_none=True)
    return gradients


def _products(preference: Gradients, ratings: Gradients) -> Products:
    sums: Products = {"": np.zeros(3)}
    # In float64, tensor by tensor: the whole gradients need not be copied into one vector.
    for name in preference:
        if name not in ratings:
            continue
        a, b = preference[name].double(), ratings[name].double()
        terms = np.array([float((a * b).sum()), float(a.square().sum()), float(b.square().sum())])
        number = _LAYER.search(name)
        for layer in ("", number[1] if number else _NO_LAYER):
            sums[layer] = sums.get(layer, 0.0) + terms
    return sums


def _summary(products: Sequence[Products]) -> dict[str, Metric]:
    metrics: dict[str, Metric] = {}
    numbers = np.arange(len(products))
    # The whole trunk first, then the layers by number, then what is in none of them.
    for layer in sorted(products[0], key=lambda name: (name == _NO_LAYER, len(name), name)):
        dot, preference, ratings = np.array([sums[layer] for sums in products]).T
        if (preference * ratings == 0).any():
            continue  # a layer that one of the losses does not reach
        prefix = f"layer/{layer}/" if layer else ""
        cosine = dot / np.sqrt(preference * ratings)
        metrics[f"{prefix}cosine"] = mean_metric(cosine, numbers)
        metrics[f"{prefix}norm_ratio"] = mean_metric(np.sqrt(preference / ratings), numbers)
    return metrics
