"""Whether an architecture may be fed a forest: tried, not assumed.

A decoder whose attention goes through transformers' interface can share; one with its own attention
(Bloom) would run and give wrong scores without a word, and a recurrent one cannot share at all. So
the first time a model is used, a few short sequences go through each layout and are compared with
the padded eager reference, and the calls of the interface are counted.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

import numpy as np
import torch

from smorm.errors import ModelError
from smorm.model.network import Layout, RewardNetwork
from smorm.trees.forest import Forest, Tokens

log = logging.getLogger(__name__)

TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 5e-2, torch.float16: 1e-2}
"""Largest difference of a hidden state, relative to the largest entry of the reference."""


WAYS: tuple[tuple[Layout, bool], ...] = (
    ("forest", True),
    ("forest", False),
    ("packed", True),
    ("packed", False),
)
"""Layouts from the fastest on, with and without the shorter ways through the layers."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """The layout that passed, whether with the shorter ways through its layers (`prune.py`), and
    why each one before it did not."""

    layout: Layout
    refused: tuple[str, ...] = ()
    shorten: bool = False


def probe_sequences(vocabulary: int, seed: int = 0) -> list[Tokens]:
    """A tree with nested forks, a sequence of its own, and an equal pair."""
    rng = np.random.default_rng(seed)

    def draw(length: int) -> Tokens:
        return rng.integers(0, vocabulary, length).astype(np.int32)

    stem = draw(17)
    branch = np.concatenate([stem, draw(11)])
    family = [np.concatenate([branch, draw(n)]) for n in (5, 9)]
    family += [np.concatenate([stem, draw(n)]) for n in (3, 14)]
    return [*family, draw(21), family[0].copy()]


def verify(network: RewardNetwork) -> Verdict:
    """Compare layouts with the padded reference; the first of forest, packed, padded that agrees.

    The network's layout is left as it was.
    """
    sequences = probe_sequences(network.backbone.get_input_embeddings().weight.shape[0])
    dtype = next(network.backbone.parameters()).dtype
    before, training = (network.layout, network.shorten), network.training
    network.eval()
    with torch.no_grad():
        reference = _pooled(network, "padded", sequences)
        verdict = _first_that_agrees(network, sequences, reference, TOLERANCE.get(dtype, 1e-4))
    network.train(training)
    network.use_layout(before[0], shorten=before[1])
    return verdict


def _first_that_agrees(
    network: RewardNetwork, sequences: list[Tokens], reference: torch.Tensor, tolerance: float
) -> Verdict:
    refused: list[str] = []
    for layout, shorten in WAYS:
        reason = _differs(network, layout, shorten, sequences, reference, tolerance)
        if reason is None:
            return Verdict(layout, tuple(refused), shorten)
        if shorten:
            log.info("layers run whole in the %s layout: run shorter, %s", layout, reason)
        else:
            refused.append(f"{layout}: {reason}")
    return Verdict("padded", tuple(refused))


def choose_layout(network: RewardNetwork, asked: Layout | None = None) -> Verdict:
    """Set the network's layout: the one asked for if it is right, else the best that is, told.

    Raises:
        ModelError: the layout asked for by name gives other scores than the reference.
    """
    verdict = Verdict("padded") if asked == "padded" else verify(network)
    order = ("forest", "packed", "padded")
    if asked is not None and order.index(asked) < order.index(verdict.layout):
        raise ModelError(
            f"layout {asked} is not right for {network.backbone.config.model_type}: "
            f"{'; '.join(verdict.refused)}. Leave it out, or ask for {verdict.layout}."
        )
    if asked is None and verdict.refused:
        log.warning(
            "%s cannot share tokens (%s): using the %s layout",
            network.backbone.config.model_type,
            "; ".join(verdict.refused),
            verdict.layout,
        )
    network.use_layout(asked or verdict.layout, shorten=verdict.shorten)
    return verdict


def _pooled(network: RewardNetwork, layout: Layout, sequences: list[Tokens]) -> torch.Tensor:
    network.use_layout(layout)
    return network.pooled(network.arrange(sequences).to(network.device)).float()


def _differs(
    network: RewardNetwork,
    layout: Layout,
    shorten: bool,
    sequences: list[Tokens],
    reference: torch.Tensor,
    tolerance: float,
) -> str | None:
    """Why a layout is refused, or None."""
    network.use_layout(layout, shorten=shorten)
    batch = network.arrange(sequences).to(network.device)
    assert isinstance(batch, Forest)
    layers = network.backbone.config.get_text_config().num_hidden_layers
    try:
        pooled = network.pooled(batch).float()
    except (RuntimeError, TypeError, ValueError) as error:
        return f"it fails: {str(error).splitlines()[0]}"
    calls = batch.cache.get("calls", 0)
    if calls != layers:
        return f"{calls} of {layers} layers attend through transformers' interface"
    gap = float((pooled - reference).abs().max() / reference.abs().max().clamp_min(1e-6))
    if not gap <= tolerance:
        return f"its hidden states differ from the padded reference by {gap:.1e}"
    return None
