"""The network: a decoder without its language head, and one linear head.

One forward pass takes a batch of sequences and gives all rows of the head at each sequence's last
real token. The batch comes in one of three layouts: `forest` (shared tokens once), `packed` (side
by side, nothing shared) and `padded` (one row a sequence, the reference).

Shapes: S sequences, D hidden size, K attributes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import nn

from smorm.model import attention, prune
from smorm.model.head import ScoreHead
from smorm.trees import budget
from smorm.trees.forest import Forest, Tokens, grow
from smorm.trees.leaves import leaves_of
from smorm.trees.padded import Padded, pad

Layout = Literal["forest", "packed", "padded"]
Batch = Forest | Padded


class RewardNetwork(nn.Module):
    """Backbone and head; `forward` gives scores [S, 1 + K] in fp32, in the sequences' order."""

    def __init__(self, backbone: Any, rows: int, *, pad_id: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = ScoreHead(backbone.config.get_text_config().hidden_size, rows)
        self.pad_id = pad_id
        self.layout: Layout = "padded"
        self.shorten = False
        switch_off_dropout(backbone)

    @property
    def device(self) -> torch.device:
        """Where the head is, and so where batches go."""
        return self.head.weight.device

    def use_layout(self, layout: Layout, *, shorten: bool = True) -> None:
        """Choose how sequences are laid out. `smorm.model.verify` decides what may be used.

        Args:
            shorten: take the shorter ways through the layers (`smorm.model.prune`).

        The choice is kept in the backbone's config and not in a context, because gradient
        checkpointing calls attention again after a context would have ended.
        """
        attention.register()
        implementation = "eager" if layout == "padded" else attention.NAME
        self.backbone.set_attn_implementation(implementation)
        self.layout = layout
        self.shorten = shorten
        layers = self.backbone.config.get_text_config().num_hidden_layers
        # The reference stays as transformers has it, to the last bit.
        shorten = shorten and layout != "padded"
        prune.shorten(self.backbone, layers, fuse=shorten, prune=shorten)

    def checkpoint_activations(self) -> None:
        """Recompute activations in the backward pass: less memory, about a third more work."""
        enable = getattr(self.backbone, "activation_checkpointing_enable", None)
        if enable is None:  # transformers before 5.20
            enable = self.backbone.gradient_checkpointing_enable
        enable({"use_reentrant": False})

    def arrange(self, sequences: Sequence[Tokens]) -> Batch:
        """Lay sequences out for `forward`, in this network's layout."""
        if self.layout == "padded":
            return pad(sequences, self.pad_id)
        return grow(sequences, share=self.layout == "forest")

    def micro_batches(self, units: Sequence[Sequence[Tokens]], max_tokens: int) -> list[list[int]]:
        """Split units into batches of at most `max_tokens` rows in this network's layout."""
        if self.layout == "padded":
            return budget.padded_batches(units, max_tokens)
        cost = budget.forest_cost if self.layout == "forest" else budget.packed_cost
        return budget.micro_batches(units, max_tokens, cost)

    def forward(self, batch: Batch) -> torch.Tensor:
        """Scores [S, 1 + K] at each sequence's last token."""
        batch = batch.to(self.device)
        scores: torch.Tensor = self.head(self.pooled(batch))
        return scores

    def pooled(self, batch: Batch) -> torch.Tensor:
        """Hidden state at each sequence's last token, [S, D]."""
        if isinstance(batch, Forest):
            hidden: torch.Tensor = self.backbone(
                input_ids=batch.input_ids[None],
                position_ids=batch.positions[None],
                use_cache=False,
                forest=batch,
            ).last_hidden_state
            if batch.cache.pop("pruned", False):
                return hidden[0].index_select(0, leaves_of(batch).inverse)
            return hidden[0].index_select(0, batch.leaves)
        hidden = self.backbone(
            input_ids=batch.input_ids, attention_mask=batch.attention_mask, use_cache=False
        ).last_hidden_state
        return hidden[torch.arange(len(batch.last), device=hidden.device), batch.last]


def switch_off_dropout(backbone: nn.Module) -> None:
    """Reward models are trained without dropout; attention dropout is not possible in a forest."""
    for name, module in backbone.named_modules():
        if isinstance(module, nn.Dropout) and "lora_" not in name:
            module.p = 0.0
        if isinstance(getattr(module, "attention_dropout", None), float):
            module.attention_dropout = 0.0
