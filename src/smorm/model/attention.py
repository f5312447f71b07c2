"""Forest attention in transformers' attention interface, and which kernel computes a call.

`AttentionInterface.register` makes `smorm_forest` an attention implementation that any decoder can
be switched to. The batch travels as the model keyword argument `plan`, which reaches every
attention call, gradient checkpointing's recomputation and wrapped models alike.

Four kernels compute the same rule (see `smorm.trees.forest`):

- `cpu_blocks`: chains (causal) and rectangles (no mask) as batched products, merged.
- `varlen`: every chain against its gathered ancestors through `torch.nn.attention.varlen` (CUDA,
  half precision).
- `flex`: FlexAttention with the rule as its block mask (CUDA; soft-capping as its score function).
- `gathered`: as `varlen`, in plain matrix products; handles sliding windows, soft-capping and
  attention sinks on any device, and is slow.

Shapes: T packed tokens, H query heads, G key heads, D head size."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import torch
from torch import Tensor, nn

from smorm.errors import first_line
from smorm.model import gathered
from smorm.model.counted import counted
from smorm.model.cpu.attention import Block, cpu_blocks, cut_blocks
from smorm.model.flex import block_mask, flex
from smorm.printing import get_logger
from smorm.trees.forest import Forest, Leaves, find_leaves

log = get_logger(__name__)

NAME = "smorm_forest"
Backend = Literal["cpu_blocks", "varlen", "flex", "gathered"]


@dataclass(eq=False)
class AttentionPlan:
    """What kernels derive from a packed batch on its device, made once for one forward pass over
    all layers. `calls` are the attention calls made: verification counts the layers by them.
    `counted`: no kernel runs; what one would keep is allocated, for counting bytes."""

    batch: Forest | Leaves
    calls: int = 0
    counted: bool = False
    _block_masks: dict[int | None, Any] = field(default_factory=dict)

    # Each backend's plan is made when a layer first needs it: a forward pass on the CPU never makes
    # block masks for FlexAttention.

    @cached_property
    def blocks(self) -> list[Block]:
        return cut_blocks(self.batch)

    @cached_property
    def gather(self) -> gathered.GatherPlan:
        return gathered.gather_plan(self.batch)

    @cached_property
    def varlen(self) -> gathered.VarlenPlan:
        return gathered.varlen_plan(self.gather)

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
        return AttentionPlan(find_leaves(self.batch), counted=self.counted)


@dataclass(frozen=True, slots=True)
class Capture:
    """Passed instead of a plan: end the layer at its attention call, by `Captured`."""

    plan: AttentionPlan


class Captured(Exception):  # noqa: N818  (a state, not an error)
    """Keys and values [1, G, T, D] of a layer that was run up to its attention call."""

    def __init__(self, key: Tensor, value: Tensor) -> None:
        super().__init__("captured")
        self.key, self.value = key, value


@dataclass(frozen=True, slots=True)
class LeafQueries:
    """Passed instead of a plan: the queries are the leaves, keys and values were captured."""

    plan: AttentionPlan
    key: Tensor
    value: Tensor


def register() -> None:
    """Make `smorm_forest` known to transformers. Calling it again changes nothing."""
    from transformers import AttentionInterface

    # No mask function is registered under the name, so transformers builds no mask.
    AttentionInterface.register(NAME, forest_attention)


def forest_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None = None,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    plan: AttentionPlan | LeafQueries | Capture | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """transformers' attention call: query [1, H, T, D], key and value [1, G, T, D] -> [1, T, H, D].
    `RuntimeError` where the plan did not reach it, or it asks for attention dropout."""
    if isinstance(plan, Capture):
        plan.plan.calls += 1
        raise Captured(key, value)
    if isinstance(plan, LeafQueries):
        key, value, plan = plan.key, plan.value, plan.plan
    if plan is None or query.shape[2] != plan.batch.num_tokens:
        raise RuntimeError("the forest did not reach this attention call: use another layout")
    if dropout:
        raise RuntimeError("attention dropout is not possible in a forest: set it to 0")
    plan.calls += 1
    on_cuda = plan.counted or query.device.type == "cuda"
    if on_cuda and query.dtype != value.dtype:
        # Under autocast the rotary embedding leaves queries and keys in fp32.
        query, key = query.to(value.dtype), key.to(value.dtype)
    scale = scaling
    if scale is None:
        scale = 1.0 / math.sqrt(query.shape[-1])
    # A window that is longer than every sequence masks nothing, and every kernel can take that.
    window = sliding_window
    if window and plan.batch.max_position < window:
        window = None
    out = compute(query, key, value, plan, scale, window or None, softcap, s_aux)
    return out.to(query.dtype), None


def compute(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    plan: AttentionPlan,
    scale: float,
    window: int | None = None,
    softcap: float | None = None,
    sinks: Tensor | None = None,
) -> Tensor:
    """query [1, H, T, D], key and value [1, G, T, D] -> [1, T, H, D], by the fastest kernel. A CUDA
    kernel that is missing, or cannot be compiled, is replaced by the next one with a warning."""
    if plan.counted:
        return counted(query, key, value, plan.gather)
    backend = choose_backend(query, window, softcap, sinks)
    if backend == "cpu_blocks":
        return cpu_blocks(query, key, value, plan.blocks, scale)
    if backend == "varlen":
        reason = gathered.unfit(query)
        if reason is None:
            return gathered.varlen(query, key, value, plan.varlen, scale, window)
        refuse("varlen", reason, "FlexAttention")
        backend = "flex"
    # The leaves are some dozens of rows, once a forward pass: not worth a block mask.
    if backend == "flex" and isinstance(plan.batch, Forest) and "flex" not in _refused:
        try:
            return flex(query, key, value, plan.block_mask(window), scale, softcap)
        except torch.OutOfMemoryError:  # no kernel needs less than the one that was tried
            raise
        except (RuntimeError, ImportError, NotImplementedError) as error:  # dynamo's are the first
            refuse("flex", first_line(error, 200), "plain products, slowly")
    return gathered.plain_products(query, key, value, plan.gather, scale, window, softcap, sinks)


def choose_backend(
    query: Tensor, window: int | None, softcap: float | None, sinks: Tensor | None
) -> Backend:
    """The fastest kernel for a call; a window counts only where it is shorter than the text."""
    if sinks is not None:
        return "gathered"
    if query.device.type == "cuda":
        # Flash attention takes no fp32 and has no soft-capping.
        half = query.dtype in (torch.float16, torch.bfloat16)
        return "varlen" if half and softcap is None else "flex"
    if query.device.type == "cpu" and window is None and softcap is None:
        return "cpu_blocks"
    return "gathered"


_refused: dict[str, str] = {}
"""Kernels that failed in this process, and why: they are not tried again."""


def refuse(kernel: str, reason: str, replacement: str) -> None:
    """Warn once per kernel and reason that another one is used."""
    if _refused.get(kernel) != reason:
        text = "attention kernel %s is passed over (%s): using %s"
        log.warning(text, kernel, reason, replacement)
        _refused[kernel] = reason
