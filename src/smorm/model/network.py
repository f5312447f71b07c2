"""The network: a decoder without its language head, and one linear head (or a rival's other one).

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

from smorm.model import attention, last_layer
from smorm.model.heads import GatedHead, NonlinearHead, ScoreHead
from smorm.trees import budget
from smorm.trees.forest import Forest, Tokens, grow
from smorm.trees.leaves import leaves_of
from smorm.trees.padded import Padded, pad

Layout = Literal["forest", "packed", "padded"]
Batch = Forest | Padded


class RewardNetwork(nn.Module):
    """Backbone and head; `forward` gives scores [S, 1 + K] in fp32, in the sequences' order.

    Attributes:
        language: a language head that is trained along (`smorm.model.language`); it has no part in
            any score, and is not saved.
        whole_last_layer: `use_layout` leaves the last layer whole, so that `states` can be read.
    """

    def __init__(self, backbone: Any, rows: int, *, pad_id: int) -> None:
        super().__init__()
        self.backbone = backbone
        width = backbone.config.get_text_config().hidden_size
        self.head: ScoreHead | NonlinearHead = ScoreHead(width, rows)
        self.pad_id = pad_id
        self.layout: Layout = "padded"
        self.shorten = False
        self.whole_last_layer = False
        self.language: nn.Module | None = None
        switch_off_dropout(backbone)

    @property
    def device(self) -> torch.device:
        """Where the head is, and so where batches go."""
        return next(self.head.parameters()).device

    def use_layout(self, layout: Layout, *, shorten: bool = True) -> None:
        """Choose how sequences are laid out. `smorm.model.verify` decides what may be used.

        Args:
            shorten: take the shorter ways through the layers (`smorm.model.last_layer`).

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
        last = shorten and not self.whole_last_layer
        last_layer.shorten(self.backbone, layers, fuse=shorten, prune=last)

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
        """Scores [S, 1 + K] at each sequence's last token.

        Raises:
            ModelError: the head reads prompts' ends too, which `smorm.model.inference` finds.
        """
        if isinstance(self.head, GatedHead):
            raise self.head.refusal()
        batch = batch.to(self.device)
        scores: torch.Tensor = self.head(self.pooled(batch))
        return scores

    def states(self, batch: Batch) -> torch.Tensor:
        """Hidden state of every row of a batch on the network's device, [T, D]; padded rows one
        sequence behind another. `leaf_rows` says which of them are pooled.

        Raises:
            RuntimeError: the last layer was run for the leaves alone.
        """
        hidden = self._last_states(batch)
        if isinstance(batch, Forest) and batch.cache.pop("pruned", False):
            raise RuntimeError("every row's state was asked for, and whole_last_layer is not set")
        return hidden.flatten(0, 1)

    def pooled(self, batch: Batch) -> torch.Tensor:
        """Hidden state at each sequence's last token, [S, D]."""
        hidden = self._last_states(batch)
        if isinstance(batch, Forest):
            if batch.cache.pop("pruned", False):
                return hidden[0].index_select(0, leaves_of(batch).inverse)
            return hidden[0].index_select(0, batch.leaves)
        return hidden[torch.arange(len(batch.last), device=hidden.device), batch.last]

    def _last_states(self, batch: Batch) -> torch.Tensor:
        """The backbone's output: [1, T or U, D] of a forest, [S, L, D] of padded rows."""
        inputs: dict[str, Any]
        if isinstance(batch, Forest):
            inputs = {
                "input_ids": batch.input_ids[None],
                "position_ids": batch.positions[None],
                "forest": batch,
            }
        else:
            inputs = {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask}
        hidden: torch.Tensor = self.backbone(use_cache=False, **inputs).last_hidden_state
        return hidden


def leaf_rows(batch: Batch) -> torch.Tensor:
    """Which rows of `RewardNetwork.states` are the sequences' last tokens, [S]."""
    if isinstance(batch, Forest):
        return batch.leaves
    first = torch.arange(len(batch.last), device=batch.last.device) * batch.input_ids.shape[1]
    return first + batch.last


def switch_off_dropout(backbone: nn.Module) -> None:
    """Reward models are trained without dropout; attention dropout is not possible in a forest."""
    for name, module in backbone.named_modules():
        if isinstance(module, nn.Dropout) and "lora_" not in name:
            module.p = 0.0
        if isinstance(getattr(module, "attention_dropout", None), float):
            module.attention_dropout = 0.0
