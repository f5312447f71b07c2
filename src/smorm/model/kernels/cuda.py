"""Forest attention on CUDA: variable-length flash attention, and FlexAttention.

Shapes: T packed tokens, H query heads, G key heads, D head size.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from smorm.trees.forest import Forest


def varlen_arguments(forest: Forest) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, int, int]:
    """Key rows, cumulative query and key lengths (int32), longest query and key run."""
    index, query_lengths, key_lengths = forest.gather_plan()
    if "cumulative" not in forest.cache:
        lengths = torch.tensor([query_lengths, key_lengths], dtype=torch.int32)
        cumulative = nn.functional.pad(lengths.cumsum(1, dtype=torch.int32), (1, 0))
        forest.cache["cumulative"] = cumulative.to(index.device)
    cu_query, cu_key = forest.cache["cumulative"]
    return index, cu_query, cu_key, max(query_lengths), max(key_lengths)


def varlen(
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


def flex(
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
