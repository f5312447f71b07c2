"""Forest attention in plain matrix products: any device, windows, soft-capping, sinks.

Shapes: T packed tokens, H query heads, G key heads, D head size.
"""

from __future__ import annotations

import math

import torch

from smorm.trees.forest import Forest
from smorm.trees.leaves import Leaves


def gathered(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    forest: Forest | Leaves,
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
