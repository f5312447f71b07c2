"""The network: a decoder without its language head, and a head on its last hidden states.

One forward pass gives all rows of the head at each sequence's last real token. A batch has one of
three layouts: `forest` (shared tokens once), `packed` (side by side, nothing shared) and `padded`.

Shapes: S sequences, L padded length, T rows of a forest, U of its leaves, D hidden size, K
attributes."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, nn

from smorm.arrays import Tokens
from smorm.model import attention, last_layer
from smorm.model.attention import AttentionPlan
from smorm.model.heads import GatedHead, NonlinearHead, ScoreHead
from smorm.trees import budget
from smorm.trees.forest import Forest, Leaves, Padded, grow, pad

Layout = Literal["forest", "packed", "padded"]
Batch = Forest | Padded
REFERENCE = "eager"
"""The attention of padded batches that everything else is verified against."""


class RewardNetwork(nn.Module):
    """Backbone and head; `forward` gives scores [S, 1 + K] in fp32, in the sequences' order.

    `language` is a language head that is trained along (`smorm.model.language`); it takes no part
    in any score, and is not saved. With `whole_last_layer` `use_layout` keeps all rows there, for
    `states`. `sharded`: this process has a part of the backbone's weights."""

    def __init__(self, backbone: Any, rows: int, *, pad_id: int) -> None:
        super().__init__()
        self.backbone = backbone
        width = backbone.config.get_text_config().hidden_size
        self.head: ScoreHead | NonlinearHead = ScoreHead(width, rows)
        self.pad_id = pad_id
        self.layout: Layout = "padded"
        self.fast_layers = False
        self.padded_attention = REFERENCE
        self.whole_last_layer = False
        self.sharded = False
        self.language: nn.Module | None = None
        switch_off_dropout(backbone)

    @property
    def device(self) -> torch.device:
        """The head's device; batches are moved to it."""
        return next(self.head.parameters()).device

    def use_layout(
        self, layout: Layout, *, fast_layers: bool = True, padded_attention: str = REFERENCE
    ) -> None:
        """Choose how sequences are laid out; `smorm.model.verify` decides what may be used."""
        attention.register()
        padded = layout == "padded"
        # In the config and not in a context: gradient checkpointing calls attention again after a
        # context would have ended.
        implementation = padded_attention if padded else attention.NAME
        self.backbone.set_attn_implementation(implementation)
        self.layout = layout
        self.fast_layers = fast_layers
        self.padded_attention = padded_attention
        layers = self.backbone.config.get_text_config().num_hidden_layers
        # Padded batches are computed as transformers does, to the last bit.
        fast = fast_layers and not padded
        prune = fast and not self.whole_last_layer
        last_layer.set_layer_forwards(self.backbone, layers, fuse=fast, prune=prune)

    @contextmanager
    def restore_layout(self) -> Iterator[None]:
        """Come back to the present layout and mode, whatever is tried inside."""
        layout, training = self.layout, self.training
        fast_layers, padded_attention = self.fast_layers, self.padded_attention
        try:
            yield
        finally:
            self.train(training)
            self.use_layout(layout, fast_layers=fast_layers, padded_attention=padded_attention)

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
        return budget.micro_batches(units, max_tokens, share=self.layout == "forest")

    def count_rows(self, units: Sequence[Sequence[Tokens]]) -> int:
        """Rows that one forward pass over these units computes in this network's layout."""
        if self.layout == "padded":
            sequences = [tokens for unit in units for tokens in unit]
            return len(sequences) * max(map(len, sequences), default=0)
        return budget.count_rows(units, share=self.layout == "forest")

    def forward(self, batch: Batch) -> Tensor:
        """Scores [S, 1 + K] at each sequence's last token; a `GatedHead` is refused."""
        if isinstance(self.head, GatedHead):
            raise self.head.refusal()
        scores: Tensor = self.head(self.pooled(batch))
        return scores

    def states(self, batch: Batch) -> Tensor:
        """Hidden state of every row of a batch on the network's device, [T, D]; padded rows one
        sequence behind another, `leaf_rows` are pooled. `whole_last_layer` must be set."""
        if isinstance(batch, Padded):
            return self._padded_states(batch).flatten(0, 1)
        states = self._forest_states(AttentionPlan(batch))
        if len(states) != batch.num_tokens:
            raise RuntimeError("the states of all rows are needed: set whole_last_layer first")
        return states

    def pooled(self, batch: Batch) -> Tensor:
        """Hidden state at each sequence's last token, [S, D]."""
        # Nothing to do where the caller has moved the batch ahead of time.
        batch = batch.to(self.device)
        if isinstance(batch, Padded):
            states = self._padded_states(batch)
            return states[torch.arange(len(batch.last), device=states.device), batch.last]
        return self.pooled_forest(AttentionPlan(batch))

    def pooled_forest(self, plan: AttentionPlan) -> Tensor:
        """As `pooled`, with the plan of a forest on the device."""
        batch = plan.batch
        assert isinstance(batch, Forest)
        states = self._forest_states(plan)
        # With as many leaves as rows both indices are the same.
        if len(states) == batch.num_tokens:
            return states.index_select(0, batch.leaves)
        leaves = plan.leaves.batch
        assert isinstance(leaves, Leaves)
        return states.index_select(0, leaves.inverse)

    def _forest_states(self, plan: AttentionPlan) -> Tensor:
        """Of all rows [T, D], or of the leaves [U, D] where the last layer computes no others."""
        assert isinstance(plan.batch, Forest)
        hidden: Tensor = self.backbone(
            input_ids=plan.batch.input_ids[None],
            position_ids=plan.batch.positions[None],
            plan=plan,
            use_cache=False,
        ).last_hidden_state
        return hidden[0]

    def _padded_states(self, batch: Padded) -> Tensor:
        """[S, L, D]."""
        hidden: Tensor = self.backbone(
            input_ids=batch.input_ids, attention_mask=batch.attention_mask, use_cache=False
        ).last_hidden_state
        return hidden


def leaf_rows(batch: Batch) -> Tensor:
    """Which rows of `RewardNetwork.states` are the sequences' last tokens, [S]."""
    if isinstance(batch, Forest):
        return batch.leaves
    first = torch.arange(len(batch.last), device=batch.last.device) * batch.input_ids.shape[1]
    return first + batch.last


def switch_off_dropout(backbone: nn.Module) -> None:
    """Reward models are trained without dropout; attention dropout is not possible in a forest."""
    for name, module in backbone.named_modules():
        # Adapters keep theirs: it is the user's setting.
        if isinstance(module, nn.Dropout) and "lora_" not in name:
            module.p = 0.0
        if isinstance(getattr(module, "attention_dropout", None), float):
            module.attention_dropout = 0.0
