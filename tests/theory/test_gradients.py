"""Gradient conflict: against plain autograd, planted agreement and conflict, nothing changed."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from smorm import RewardModel
from smorm.data.reading import Source
from smorm.errors import DataError
from smorm.theory.features import Reading, featured
from smorm.theory.gradients import TermData, _products, conflict
from tests.tiny import trained, world


@pytest.fixture(scope="module")
def model() -> RewardModel:
    return RewardModel.load(trained())


def data_of(model, targets=None, sides=slice(0, 1)):
    """Pairs, and one side of each as the rated responses."""
    found = featured(model, Source(world()["eval-pairs-ID"]), "preference", Reading())
    rated = [unit[sides] for unit in found.units]
    if targets is None:
        targets = np.random.default_rng(0).standard_normal((len(rated), len(model.attributes)))
    return TermData(found.units, found.prompts, rated, found.prompts, targets)


def test_it_is_what_plain_autograd_gives(model):
    data = data_of(model)
    two = [0, 1]
    small = TermData(
        [data.pairs[at] for at in two], ["a", "b"], [data.rated[at] for at in two], ["a", "b"],
        data.targets[two],
    )  # fmt: skip
    found = conflict(model.network, small, 8192, batches=2)
    network = model.network
    cosines = []
    for at in two:
        left = network(network.arrange(list(small.pairs[at])))[:, 0]
        loss = -torch.nn.functional.logsigmoid(left[0] - left[1])
        weights = list(network.backbone.parameters())
        a = torch.cat([g.reshape(-1) for g in torch.autograd.grad(loss, weights)])
        right = network(network.arrange(list(small.rated[at])))[:, 1:]
        target = torch.from_numpy(small.targets[at]).float()
        loss = (right - target).square().mean()
        b = torch.cat([g.reshape(-1) for g in torch.autograd.grad(loss, weights)])
        cosines.append(float(torch.nn.functional.cosine_similarity(a, b, dim=0)))
    assert found["cosine"].value == pytest.approx(np.mean(cosines), abs=1e-4)
    assert found["cosine"].n == 2


def test_ratings_against_preference_conflict_and_ratings_with_it_agree(model):
    network = model.network
    kept = network.head.weight.data.clone()
    try:
        # every attribute row is the preference row: the ratings say where it should go
        network.head.weight.data[1:] = network.head.weight.data[0]
        ones = np.ones((60, len(model.attributes)))
        against = conflict(network, data_of(model, -100 * ones), 8192)
        along = conflict(network, data_of(model, 100 * ones), 8192)
    finally:
        network.head.weight.data = kept
    assert against["cosine"].high < 0 < along["cosine"].low
    assert against["cosine"].value == pytest.approx(-along["cosine"].value, abs=0.05)


def test_nothing_in_the_network_is_changed(model):
    network = model.network
    frozen = next(network.backbone.parameters())
    frozen.requires_grad_(False)
    before = {name: p.detach().clone() for name, p in network.named_parameters()}
    found = conflict(network, data_of(model), 8192)
    assert all(torch.equal(before[name], p) for name, p in network.named_parameters())
    assert all(p.grad is None for p in network.parameters())
    assert not frozen.requires_grad
    frozen.requires_grad_(True)
    assert {"cosine", "norm_ratio", "layer/0/cosine", "layer/2/norm_ratio"} <= set(found)
    assert "layer/embedding and norm/cosine" in found
    assert found["cosine"].n == 8
    assert found["norm_ratio"].value > 0


def test_too_few_prompts_are_told(model):
    data = data_of(model)
    one = TermData(data.pairs[:3], ["a"] * 3, data.rated[:3], ["a"] * 3, data.targets[:3])
    with pytest.raises(DataError, match="too few prompts"):
        conflict(model.network, one, 8192)


class Name(str):
    """A parameter's name whose hash, and so its place in a set, depends on the run."""

    seed = 0

    def __hash__(self) -> int:
        return hash((self.seed, str(self)))


def test_the_products_do_not_depend_on_the_hashes_of_names():
    generator = torch.Generator().manual_seed(0)
    tensors = {f"layers.0.w{index}": torch.randn(50, generator=generator) for index in range(40)}
    sums = []
    for seed in range(8):
        Name.seed = seed
        gradients = {Name(name): tensor for name, tensor in tensors.items()}
        sums.append(_products(gradients, dict(reversed(gradients.items())))[""])
    assert all(np.array_equal(total, sums[0]) for total in sums)
