"""Forest attention in plain matrix products: any device, windows, soft-capping, sinks.

Shapes: T packed tokens, K gathered keys, C runs of queries, H query heads, G key heads, D head
size.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from smorm.trees.forest import Forest, Leaves


@dataclass(frozen=True, slots=True)
class GatherPlan:
    """The keys of every run of queries laid end to end: `index` [K] is their rows, the lengths are
    of each run [C]. A run's keys are its ancestors, root first, and itself: key i has position
    i."""

    index: Tensor
    query_lengths: list[int]
    key_lengths: list[int]


def gather_plan(batch: Forest | Leaves) -> GatherPlan:
    """The plan of a batch, on its device."""
    rows = []
    key_lengths = []
    for ranges in batch.keys:
        rows += [np.arange(first, past) for first, past in ranges]
        key_lengths.append(sum(past - first for first, past in ranges))
    index = torch.from_numpy(np.concatenate(rows)).to(batch.device)
    query_lengths = [past - first for first, past in batch.queries]
    return GatherPlan(index, query_lengths, key_lengths)


def gathered(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    plan: GatherPlan,
    scale: float,
    window: int | None = None,
    softcap: float | None = None,
    sinks: Tensor | None = None,
) -> Tensor:
    """query [1, H, T, D], key and value [1, G, T, D] -> [1, T, H, D]; softmax in fp32."""
    groups = query.shape[1] // key.shape[1]
    # Key heads are repeated, which the other kernels avoid: this one is for what they cannot take.
    key = key.index_select(2, plan.index).repeat_interleave(groups, dim=1)
    value = value.index_select(2, plan.index).repeat_interleave(groups, dim=1)
    outputs = []
    queries = query.split(plan.query_lengths, dim=2)
    keys, values = key.split(plan.key_lengths, dim=2), value.split(plan.key_lengths, dim=2)
    for q, k, v in zip(queries, keys, values, strict=True):
        scores = (q @ k.transpose(2, 3)).float() * scale
        if softcap is not None:
            scores = softcap * torch.tanh(scores / softcap)
        allowed = _causal_mask(q.shape[2], k.shape[2], window, q.device)
        scores = scores.masked_fill(~allowed, -math.inf)
        if sinks is not None:
            # A sink takes probability and gives no value: its column is cut off after the softmax.
            sink = sinks.float().view(1, -1, 1, 1).expand(1, -1, q.shape[2], 1)
            scores = torch.cat([scores, sink], dim=-1)
        weights = scores.softmax(-1)[..., : k.shape[2]].to(v.dtype)
        outputs.append(weights @ v)
    return torch.cat(outputs, dim=2).transpose(1, 2)


def _causal_mask(rows: int, keys: int, window: int | None, device: torch.device) -> Tensor:
    """[rows, keys]: the queries are the last rows of an ordinary sequence of `keys` tokens."""
    query_position = torch.arange(keys - rows, keys, device=device)[:, None]
    key_position = torch.arange(keys, device=device)[None, :]
    allowed = key_position <= query_position
    if window is not None:
        allowed &= query_position - key_position < window
    return allowed
