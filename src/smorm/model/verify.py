"""Whether an architecture may be fed a forest: tried, not assumed.

A decoder with its own attention (Bloom) would run and give wrong scores without a warning, and one
with recurrent or convolutional layers (Mamba, LFM2) cannot share tokens at all. So a few short
sequences go through each layout and are compared with padded batches under eager attention."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from smorm.arrays import Tokens
from smorm.errors import ModelError, first_line, third_party
from smorm.model.attention import AttentionPlan
from smorm.model.border import quiet
from smorm.model.network import REFERENCE, Layout, RewardNetwork
from smorm.printing import get_logger
from smorm.trees.forest import Forest

log = get_logger(__name__)

TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 5e-2, torch.float16: 1e-2}
"""Largest difference of a hidden state, relative to the largest entry of the reference."""

LAYOUTS: tuple[Layout, ...] = ("forest", "packed", "padded")
"""The fastest first."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """The fastest `layout` that agrees with the reference, why each faster one does not, whether
    the faster ways through layers agree too, and the attention of padded batches."""

    layout: Layout
    refused: tuple[str, ...] = ()
    fast_layers: bool = False
    padded_attention: str = REFERENCE


def probe_sequences(vocabulary: int, seed: int = 0) -> list[Tokens]:
    """A tree with nested forks, a sequence that shares nothing, and an equal pair."""
    rng = np.random.default_rng(seed)

    def draw(length: int) -> Tokens:
        return rng.integers(0, vocabulary, length).astype(np.int32)

    # Longer than MIN_SHARE, so that it is shared.
    stem = draw(17)
    branch = np.concatenate([stem, draw(11)])
    family = [np.concatenate([branch, draw(n)]) for n in (5, 9)]
    family += [np.concatenate([stem, draw(n)]) for n in (3, 14)]
    return [*family, draw(21), family[0].copy()]


def verify(network: RewardNetwork, packing: Sequence[Layout] = LAYOUTS[:2]) -> Verdict:
    """The first layout that agrees, of those and padded; the network's own is left as it was."""
    with network.restore_layout(), torch.no_grad():
        network.eval()
        trial = _Trial(network)
        refused: list[str] = []
        for layout in packing:
            # Without the faster ways too, which an architecture may not bear although it can share.
            for fast_layers in (True, False):
                reason = trial.refuses_layout(layout, fast_layers=fast_layers)
                if reason is None:
                    return Verdict(layout, tuple(refused), fast_layers)
                if fast_layers:
                    log.info("layers run whole in the %s layout: run faster, %s", layout, reason)
            refused.append(f"{layout}: {reason}")
        return Verdict("padded", tuple(refused), padded_attention=trial.padded_attention())


def choose_layout(network: RewardNetwork, requested: Layout | None = None) -> Verdict:
    """Set the network's layout: the requested one if it is right (else `ModelError`), by default
    the fastest that is, with a warning where that shares nothing."""
    # Where padded batches are asked for, only their attention is chosen.
    verdict = verify(network, () if requested == "padded" else LAYOUTS[:2])
    layout = requested or verdict.layout
    model_type = network.backbone.config.model_type
    if LAYOUTS.index(layout) < LAYOUTS.index(verdict.layout):
        raise ModelError(
            f"layout {layout} is not right for {model_type}: {'; '.join(verdict.refused)}. "
            f"Leave it out, or ask for {verdict.layout}."
        )
    if requested is None and verdict.refused:
        choice = f"{layout} layout"
        if layout == "padded":
            choice += f" with {verdict.padded_attention} attention"
        reasons = "; ".join(verdict.refused)
        log.warning("%s cannot share tokens (%s): using the %s", model_type, reasons, choice)
    fast, padded_attention = verdict.fast_layers, verdict.padded_attention
    network.use_layout(layout, fast_layers=fast, padded_attention=padded_attention)
    return verdict


class _Trial:
    def __init__(self, network: RewardNetwork) -> None:
        self.network = network
        vocabulary = network.backbone.get_input_embeddings().weight.shape[0]
        self.sequences = probe_sequences(vocabulary)
        self.dtype = next(network.backbone.parameters()).dtype
        network.use_layout("padded")
        # All of it transformers' own: what its configuration asks for is found out here.
        config = network.backbone.config
        with third_party(config.name_or_path or config.model_type, "cannot be run"):
            self.reference = self._padded_states()

    def refuses_layout(self, layout: Layout, *, fast_layers: bool) -> str | None:
        network = self.network
        network.use_layout(layout, fast_layers=fast_layers)
        batch = network.arrange(self.sequences).to(network.device)
        assert isinstance(batch, Forest)
        plan = AttentionPlan(batch)
        try:
            states = network.pooled_forest(plan)
        except (RuntimeError, TypeError, ValueError) as error:
            return f"it fails: {first_line(error)}"
        layers = network.backbone.config.get_text_config().num_hidden_layers
        # A layer that attends by itself might agree on short texts by accident.
        if plan.calls != layers:
            return f"{plan.calls} of {layers} layers attend through transformers' interface"
        return self._differs(states)

    def padded_attention(self) -> str:
        """The fastest attention implementation for padded batches that agrees."""
        from transformers.utils import is_flash_attn_2_available

        # The reference itself comes last: eager attention writes out all scores, [S, H, L, L].
        candidates = ["sdpa"]
        half = self.dtype in (torch.float16, torch.bfloat16)
        if self.network.device.type == "cuda" and half and is_flash_attn_2_available():
            candidates.insert(0, "flash_attention_2")
        for implementation in candidates:
            reason = self._refuses_attention(implementation)
            if reason is None:
                return implementation
            log.info("padded batches are not computed by %s: %s", implementation, reason)
        return REFERENCE

    def _refuses_attention(self, implementation: str) -> str | None:
        try:
            with quiet():  # transformers warns where it keeps the old implementation
                self.network.use_layout("padded", padded_attention=implementation)
            if self.network.backbone.config._attn_implementation != implementation:
                return "its attention cannot be exchanged"
            return self._differs(self._padded_states())
        except (RuntimeError, TypeError, ValueError, ImportError) as error:
            return f"it fails: {first_line(error)}"

    def _padded_states(self) -> Tensor:
        batch = self.network.arrange(self.sequences).to(self.network.device)
        return self.network.pooled(batch).float()

    def _differs(self, states: Tensor) -> str | None:
        # Relative to the largest entry: rounding grows with the entries, and that of a small one
        # is an error of the sum that it came from.
        scale = self.reference.abs().max().clamp_min(1e-6)
        gap = float((states.float() - self.reference).abs().max() / scale)
        # Written so that NaN differs too.
        if not gap <= TOLERANCE.get(self.dtype, 1e-4):
            return f"its hidden states differ from the padded reference by {gap:.1e}"
        return None
