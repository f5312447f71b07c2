"""The forest in transformers' attention interface.

`AttentionInterface.register` makes `smorm_forest` an attention implementation that any decoder can
be switched to. No mask function is registered under that name, so transformers builds no mask; the
batch itself travels as the model keyword argument `forest`, which reaches every attention call,
gradient checkpointing's recomputation and wrapped models alike.

Four kernels compute the same rule (see `smorm.trees.forest`):

- `cpu_blocks`: chains (causal) and rectangles (no mask) as batched products, merged by their
  their log-sum-exp; its backward is the kernel's own, fed the merged output.
- `gathered`: every chain against its gathered ancestors, plain matrix products; handles sliding
  windows, soft-capping and attention sinks on any device.
- `varlen`: the same gather through `torch.nn.attention.varlen` (CUDA, half precision).
- `flex`: FlexAttention with the rule as its block mask (CUDA; soft-capping as its score function).

Shapes: T packed tokens, H query heads, G key heads, D head size.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from smorm.model.cpu.attention import cpu_blocks
from smorm.model.cuda import dispatch as cuda
from smorm.model.gathered import gathered
from smorm.trees.forest import Forest
from smorm.trees.leaves import Leaves

NAME = "smorm_forest"


@dataclass(frozen=True, slots=True)
class Capture:
    """Given instead of a forest: end the layer at its attention call, by `Captured`."""

    forest: Forest


class Captured(Exception):  # noqa: N818  (a state, not an error)
    """Keys and values [1, G, T, D] of a layer that was to be run up to there."""

    def __init__(self, key: torch.Tensor, value: torch.Tensor) -> None:
        super().__init__("captured")
        self.key, self.value = key, value


def register() -> None:
    """Make `smorm_forest` known to transformers. Calling it again changes nothing."""
    from transformers import AttentionInterface

    AttentionInterface.register(NAME, forest_attention)


def forest_attention(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None = None,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: torch.Tensor | None = None,
    forest: Forest | Leaves | Capture | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """transformers' attention call: query [1, H, T, D], key and value [1, G, T, D] -> [1, T, H, D].

    Raises:
        RuntimeError: the call did not bring the forest, or asks for attention dropout.
    """
    if isinstance(forest, Capture):
        forest.forest.cache["calls"] = forest.forest.cache.get("calls", 0) + 1
        raise Captured(key, value)
    if isinstance(forest, Leaves) and "keys" in forest.cache:
        key, value = forest.cache["keys"]
    if forest is None or query.shape[2] != forest.num_tokens:
        raise RuntimeError("the forest did not reach this attention call: use another layout")
    if dropout:
        raise RuntimeError("attention dropout is not possible in a forest: set it to 0")
    forest.cache["calls"] = forest.cache.get("calls", 0) + 1
    scale = scaling if scaling is not None else 1.0 / math.sqrt(query.shape[-1])
    window = sliding_window if sliding_window and forest.max_position >= sliding_window else None
    if query.device.type == "cuda" and query.dtype != value.dtype:
        # Under autocast the rotary embedding leaves queries and keys in fp32.
        query, key = query.to(value.dtype), key.to(value.dtype)
    backend = choose_backend(query, window, softcap, s_aux)
    if backend == "cpu_blocks":
        out = cpu_blocks(query, key, value, forest, scale)
    elif backend in ("varlen", "flex"):
        out = cuda.attend(backend, query, key, value, forest, scale, window, softcap)
    else:
        out = gathered(query, key, value, forest, scale, window, softcap, s_aux)
    return out.to(query.dtype), None


def choose_backend(
    query: torch.Tensor,
    window: int | None,
    softcap: float | None,
    sinks: torch.Tensor | None,
) -> str:
    """Which kernel computes this call; a window counts only where it is shorter than the text."""
    if sinks is not None:
        return "gathered"
    if query.device.type == "cuda":
        half = query.dtype in (torch.float16, torch.bfloat16)
        return "varlen" if half and softcap is None else "flex"
    plain = query.device.type == "cpu" and window is None and softcap is None
    return "cpu_blocks" if plain else "gathered"
