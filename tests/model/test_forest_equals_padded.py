"""Scores and parameter gradients of the forest and the padded reference agree within 1e-5."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from smorm.model.backbone import add_lora
from smorm.model.network import REFERENCE, Layout, RewardNetwork
from smorm.model.verify import verify
from tests.model.architectures import ARCHITECTURES, OUTSIDERS, tiny

TOLERANCE = 1e-5


def sequences_of(shape: str) -> list[np.ndarray]:
    """Pairs, rated singles, and prompts with 6 and with 16 responses (some begin alike)."""
    rng = np.random.default_rng(7)

    def draw(length: int) -> np.ndarray:
        return rng.integers(3, 97, length).astype(np.int32)

    if shape == "pairs":
        prompts = [draw(n) for n in (20, 15, 9)]
        return [np.concatenate([p, draw(n)]) for p in prompts for n in (6, 11)]
    if shape == "singles":
        return [draw(n) for n in (14, 30, 5, 22)]
    count = {"tree of 6": 6, "tree of 16": 16}[shape]
    prompt, opening = draw(18), draw(9)
    starts = [prompt, np.concatenate([prompt, opening])]
    return [np.concatenate([starts[i % 2], draw(3 + i)]) for i in range(count)]


def scores_and_gradients(
    network: RewardNetwork,
    layout: Layout,
    sequences: list[np.ndarray],
    padded_attention: str = REFERENCE,
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    network.use_layout(layout, padded_attention=padded_attention)
    network.zero_grad()
    scores = network(network.arrange(sequences))
    # A pairwise and a squared term, so that every row of the head takes part.
    pairwise = torch.nn.functional.softplus(scores[1::2, 0] - scores[: len(scores) // 2 * 2 : 2, 0])
    (pairwise.mean() + scores[:, 1:].square().mean()).backward()
    gradients = {n: p.grad.clone() for n, p in network.named_parameters() if p.grad is not None}
    return scores.detach(), gradients


def assert_agree(network: RewardNetwork, layout: Layout, sequences: list[np.ndarray]) -> None:
    expected, expected_gradients = scores_and_gradients(network, "padded", sequences)
    scores, gradients = scores_and_gradients(network, layout, sequences)
    assert expected.std() > 0.05, "the scores must differ for the comparison to mean anything"
    torch.testing.assert_close(scores, expected, atol=TOLERANCE, rtol=0)
    assert gradients.keys() == expected_gradients.keys()
    for name, gradient in gradients.items():
        # Rounding scales with the entries: relative to the largest where that is above 1.
        largest = max(1.0, float(expected_gradients[name].abs().max()))
        gap = float((gradient - expected_gradients[name]).abs().max()) / largest
        assert gap < TOLERANCE, f"{name}: {gap}"


@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
@pytest.mark.parametrize("checkpointing", [False, True], ids=["plain", "checkpointing"])
@pytest.mark.parametrize("name", list(ARCHITECTURES))
def test_scores_and_gradients_agree(name: str, checkpointing: bool, lora: bool) -> None:
    network = RewardNetwork(adapted(tiny(name)) if lora else tiny(name), rows=4, pad_id=0).train()
    if checkpointing:
        network.checkpoint_activations()
    for shape in ("pairs", "singles", "tree of 6", "tree of 16"):
        assert_agree(network, "forest", sequences_of(shape))
    trained = {key for key, p in network.named_parameters() if p.grad is not None}
    assert any("lora_A" in key for key in trained) == lora


def adapted(backbone: Any) -> Any:
    """With adapters that do something already."""
    wrapped = add_lora(backbone, rank=4, alpha=8, dropout=0.0, targets="all-linear")
    for key, parameter in wrapped.named_parameters():
        if "lora_B" in key:
            torch.nn.init.normal_(parameter, std=0.1)
    return wrapped


@pytest.mark.parametrize("name", list(ARCHITECTURES))
def test_packing_without_sharing_agrees_too(name: str) -> None:
    network = RewardNetwork(tiny(name), rows=4, pad_id=0).train()
    assert_agree(network, "packed", sequences_of("tree of 6"))


@pytest.mark.parametrize("name", list(ARCHITECTURES))
def test_verification_accepts_what_can_share(name: str) -> None:
    verdict = verify(RewardNetwork(tiny(name), rows=4, pad_id=0))
    assert verdict.layout == "forest", verdict.refused


@pytest.mark.parametrize("name", list(OUTSIDERS))
def test_verification_refuses_what_cannot_share(name: str) -> None:
    verdict = verify(RewardNetwork(tiny(name), rows=4, pad_id=0))
    assert verdict.layout == "padded"
    assert len(verdict.refused) == 2
