"""The forest in transformers' attention interface.

`AttentionInterface.register` makes `smorm_forest` an attention implementation that any decoder can
be switched to. No mask function is registered under that name, so transformers builds no mask; the
batch itself travels as the model keyword argument `forest`, which reaches every attention call,
gradient checkpointing's recomputation and wrapped models alike.

Four kernels compute the same rule (see `smorm.trees.forest`):

- `cpu_flash`: chains (causal) and rectangles (no mask) through torch's CPU flash kernel, merged by
  their log-sum-exp; its backward is the kernel's own, fed the merged output.
- `gathered`: every chain against its gathered ancestors, plain matrix products; handles sliding
  windows, soft-capping and attention sinks on any device.
- `varlen`: the same gather through `torch.nn.attention.varlen` (CUDA, half precision).
- `flex`: FlexAttention with the rule as its block mask (CUDA; soft-capping as its score function).

Shapes: T packed tokens, H query heads, G key heads, D head size.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn

from smorm.trees.forest import Forest

NAME = "smorm_forest"

_flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
_flash_backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward


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
    forest: Forest | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """transformers' attention call: query [1, H, T, D], key and value [1, G, T, D] -> [1, T, H, D].

    Raises:
        RuntimeError: the call did not bring the forest, or asks for attention dropout.
    """
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
    if backend == "cpu_flash":
        out = _cpu_flash(query, key, value, forest, scale)
    elif backend == "varlen":
        out = _varlen(query, key, value, forest, scale, window)
    elif backend == "flex":
        out = _flex(query, key, value, forest, scale, window, softcap)
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
    return "cpu_flash" if plain else "gathered"


def _cpu_flash(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, forest: Forest, scale: float
) -> torch.Tensor:
    # In bf16 the CPU kernel's backward is slower than in fp32, and less exact.
    query, key, value = query.float(), key.float(), value.float()
    out: torch.Tensor = _CpuFlash.apply(query, key, value, forest, scale)
    return out.transpose(1, 2)


class _CpuFlash(torch.autograd.Function):
    """Chains and rectangles. The softmax over the union of a row's segments is the segments'
    softmaxes weighted by exp(lse_segment - lse_union) (the identity of ring attention)."""

    @staticmethod
    def forward(
        ctx: Any,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        forest: Forest,
        scale: float,
    ) -> torch.Tensor:
        out = torch.empty_like(query)
        lse = query.new_empty(query.shape[:3])
        for a, b in forest.chains:
            out[:, :, a:b], lse[:, :, a:b] = _flash(
                query[:, :, a:b], key[:, :, a:b], value[:, :, a:b], 0.0, True, scale=scale
            )
        for a, b, c, d in forest.rectangles:
            part, part_lse = _flash(
                query[:, :, a:b], key[:, :, c:d], value[:, :, c:d], 0.0, False, scale=scale
            )
            union = torch.logaddexp(lse[:, :, a:b], part_lse)
            out[:, :, a:b].mul_((lse[:, :, a:b] - union).exp_()[..., None])
            out[:, :, a:b].addcmul_(part, (part_lse - union).exp_()[..., None])
            lse[:, :, a:b] = union
        ctx.save_for_backward(query, key, value, out, lse)
        ctx.forest, ctx.scale = forest, scale
        return out

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        query, key, value, out, lse = ctx.saved_tensors
        grad = grads[0].contiguous()
        grad_query = torch.empty_like(query)
        grad_key, grad_value = torch.zeros_like(key), torch.zeros_like(value)
        segments = [(a, b, a, b, True) for a, b in ctx.forest.chains]
        segments += [(*rectangle, False) for rectangle in ctx.forest.rectangles]
        for a, b, c, d, causal in segments:
            part_query, part_key, part_value = _flash_backward(
                grad[:, :, a:b],
                query[:, :, a:b],
                key[:, :, c:d],
                value[:, :, c:d],
                out[:, :, a:b],
                lse[:, :, a:b],
                0.0,
                causal,
                scale=ctx.scale,
            )
            if causal:
                grad_query[:, :, a:b] = part_query
            else:
                grad_query[:, :, a:b] += part_query
            grad_key[:, :, c:d] += part_key
            grad_value[:, :, c:d] += part_value
        return grad_query, grad_key, grad_value, None, None


def gathered(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    forest: Forest,
    scale: float,
    window: int | None = None,
    softcap: float | None = None,
    sinks: torch.Tensor | None = None,
) -> torch.Tensor:
    """Each chain against its own ancestors; softmax in fp32 -> [1, T, H, D].

    A chain's keys stand in depth order, so key i has position i and the mask is the ordinary
    causal (and window) mask of a sequence, cut to the chain's rows.
    """
    index, query_lengths, key_lengths = forest.gather_plan()
    groups = query.shape[1] // key.shape[1]
    keys = key.index_select(2, index).repeat_interleave(groups, dim=1).split(key_lengths, dim=2)
    values = value.index_select(2, index).repeat_interleave(groups, dim=1).split(key_lengths, dim=2)
    parts = []
    for q, k, v in zip(query.split(query_lengths, dim=2), keys, values, strict=True):
        scores = (q @ k.transpose(2, 3)).float() * scale
        if softcap is not None:
            scores = softcap * torch.tanh(scores / softcap)
        scores = scores.masked_fill(
            ~_chain_mask(q.shape[2], k.shape[2], window, q.device), -math.inf
        )
        if sinks is not None:
            sink = sinks.float().view(1, -1, 1, 1).expand(1, -1, q.shape[2], 1)
            scores = torch.cat([scores, sink], dim=-1)
        weights = scores.softmax(-1)[..., : k.shape[2]].to(v.dtype)
        parts.append(weights @ v)
    return torch.cat(parts, dim=2).transpose(1, 2)


def _chain_mask(rows: int, keys: int, window: int | None, device: torch.device) -> torch.Tensor:
    query_position = torch.arange(keys - rows, keys, device=device)[:, None]
    key_position = torch.arange(keys, device=device)[None, :]
    allowed = key_position <= query_position
    if window is not None:
        allowed &= query_position - key_position < window
    return allowed


def varlen_arguments(forest: Forest) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, int, int]:
    """Key rows, cumulative query and key lengths (int32), longest query and key run."""
    index, query_lengths, key_lengths = forest.gather_plan()
    if "cumulative" not in forest.cache:
        lengths = torch.tensor([query_lengths, key_lengths], dtype=torch.int32)
        cumulative = nn.functional.pad(lengths.cumsum(1, dtype=torch.int32), (1, 0))
        forest.cache["cumulative"] = cumulative.to(index.device)
    cu_query, cu_key = forest.cache["cumulative"]
    return index, cu_query, cu_key, max(query_lengths), max(key_lengths)


def _varlen(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    forest: Forest,
    scale: float,
    window: int | None,
) -> torch.Tensor:
    from torch.nn.attention.varlen import varlen_attn

    index, cu_query, cu_key, max_query, max_key = varlen_arguments(forest)
    left = -1 if window is None else window - 1
    out = varlen_attn(
        query[0].transpose(0, 1),
        key[0].transpose(0, 1).index_select(0, index),
        value[0].transpose(0, 1).index_select(0, index),
        cu_query,
        cu_key,
        max_query,
        max_key,
        scale=scale,
        window_size=(left, 0),
        enable_gqa=query.shape[1] != key.shape[1],
    )
    assert isinstance(out, torch.Tensor)  # without return_aux
    return out[None]


def flex_mask(forest: Forest, window: int | None) -> Any:
    """The forest's rule as FlexAttention's mask function of (batch, head, query row, key row)."""
    end, positions = forest.end, forest.positions

    def rule(b: Any, h: Any, q: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
        allowed = (k <= q) & (q < end[k])
        if window is not None:
            allowed = allowed & (positions[q] - positions[k] < window)
        return allowed

    return rule


def _flex(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    forest: Forest,
    scale: float,
    window: int | None,
    softcap: float | None,
) -> torch.Tensor:
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    rows = forest.num_tokens
    if ("blocks", window) not in forest.cache:
        forest.cache["blocks", window] = create_block_mask(
            flex_mask(forest, window), None, None, rows, rows, device=query.device
        )

    def cap(score: torch.Tensor, b: Any, h: Any, q: Any, k: Any) -> torch.Tensor:
        return softcap * torch.tanh(score / softcap) if softcap is not None else score

    # Uncompiled, flex materialises its scores: on CUDA that would defeat its purpose.
    run = _compiled_flex() if query.device.type == "cuda" else flex_attention
    out: torch.Tensor = run(
        query,
        key,
        value,
        score_mod=cap if softcap is not None else None,
        block_mask=forest.cache["blocks", window],
        scale=scale,
        enable_gqa=query.shape[1] != key.shape[1],
    )
    return out.transpose(1, 2)


_compiled: list[Any] = []


def _compiled_flex() -> Any:
    from torch.nn.attention.flex_attention import flex_attention

    if not _compiled:
        _compiled.append(torch.compile(flex_attention, dynamic=True))
    return _compiled[0]
