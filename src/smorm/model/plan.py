"""What attention kernels derive from a packed batch, made once and shared by all layers.

A plan belongs to one forward pass over a batch on its device; the batch itself stays a plain value
that can be moved and used again.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from smorm.model.cpu.blocks import Block, cut_blocks
from smorm.model.cuda.flex import block_mask
from smorm.model.cuda.varlen import VarlenPlan, varlen_plan
from smorm.model.gathered import GatherPlan, gather_plan
from smorm.trees.forest import Forest, Leaves, find_leaves


@dataclass(eq=False)
class AttentionPlan:
    """A batch as attention sees it. Verification counts the layers by `calls`, the attention calls
    made."""

    batch: Forest | Leaves
    calls: int = 0
    _block_masks: dict[int | None, Any] = field(default_factory=dict)

    # Each backend's plan is made when a layer first needs it: a forward pass on the CPU never makes
    # block masks for FlexAttention.

    @cached_property
    def blocks(self) -> list[Block]:
        """For the CPU kernel."""
        return cut_blocks(self.batch)

    @cached_property
    def gather(self) -> GatherPlan:
        """For plain products, and what `varlen` is made of."""
        return gather_plan(self.batch)

    @cached_property
    def varlen(self) -> VarlenPlan:
        """For variable-length attention on CUDA."""
        return varlen_plan(self.gather)

    def block_mask(self, window: int | None) -> Any:
        """For FlexAttention on CUDA: the `BlockMask`, one per sliding window."""
        assert isinstance(self.batch, Forest)
        if window not in self._block_masks:
            self._block_masks[window] = block_mask(self.batch, window)
        return self._block_masks[window]

    @cached_property
    def leaves(self) -> AttentionPlan:
        """The plan of the last layer, whose queries are the leaf rows alone."""
        assert isinstance(self.batch, Forest)
        return AttentionPlan(find_leaves(self.batch))
