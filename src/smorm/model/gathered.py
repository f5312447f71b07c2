"""Forest attention over gathered keys: every chain against its ancestors and itself, end to end.

`plain_products` runs on any device, with windows, soft-capping and sinks; `varlen` is torch's
variable-length flash attention (CUDA, half precision), which aligns causality and windows to the
end of a run's keys, where the chain stands.

Shapes: T packed tokens, K gathered keys, C runs of queries, H query heads, G key heads, D head
size."""

import functools
import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from smorm.trees.forest import Forest, Leaves

STEP = 128
"""Bounds of the longest runs are rounded up to this, the kernel's own tile: it costs nothing there,
and code that is compiled around the kernel meets few values."""


@dataclass(frozen=True, slots=True)
class GatherPlan:
    """The keys of every run of queries laid end to end: `index` [K] is their rows, the lengths are
    of each run [C]. A run's keys begin at the root, so key i has position i."""

    index: Tensor
    query_lengths: list[int]
    key_lengths: list[int]


def gather_plan(batch: Forest | Leaves) -> GatherPlan:
    rows, key_lengths = [], []
    for ranges in batch.keys:
        rows += [np.arange(first, past) for first, past in ranges]
        key_lengths.append(sum(past - first for first, past in ranges))
    index = torch.from_numpy(np.concatenate(rows)).to(batch.device)
    query_lengths = [past - first for first, past in batch.queries]
    return GatherPlan(index, query_lengths, key_lengths)


def plain_products(
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
        # The queries are the last rows of an ordinary sequence.
        key_position = torch.arange(k.shape[2], device=q.device)
        query_position = key_position[k.shape[2] - q.shape[2] :, None]
        allowed = key_position <= query_position
        if window is not None:
            allowed &= query_position - key_position < window
        scores = scores.masked_fill(~allowed, -math.inf)
        if sinks is not None:
            # A sink takes probability and gives no value: its column is cut off after the softmax.
            sink = sinks.float().view(1, -1, 1, 1).expand(1, -1, q.shape[2], 1)
            scores = torch.cat([scores, sink], dim=-1)
        weights = scores.softmax(-1)[..., : k.shape[2]].to(v.dtype)
        outputs.append(weights @ v)
    return torch.cat(outputs, dim=2).transpose(1, 2)


class GatherRows(torch.autograd.Function):
    """`rows[index]` whose gradient is summed in fp32."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, index: Tensor) -> Tensor:
        ctx.save_for_backward(index)
        ctx.shape = rows.shape
        return rows.index_select(0, index)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (index,) = ctx.saved_tensors
        # A shared prompt's keys are gathered once per answer. The usual gradient would add up the
        # answers' terms in half precision, one after another; here they are rounded once.
        total = torch.zeros(ctx.shape, dtype=torch.float32, device=grads[0].device)
        return total.index_add_(0, index, grads[0].float()).to(grads[0].dtype), None


@dataclass(frozen=True, slots=True)
class VarlenPlan:
    """The kernel's arguments beside query, key and value: key rows [K], cumulative lengths in int32
    [C + 1], and bounds of the longest runs."""

    index: Tensor
    cu_query: Tensor
    cu_key: Tensor
    max_query: int
    max_key: int


def varlen_plan(gather: GatherPlan) -> VarlenPlan:
    lengths = np.array([gather.query_lengths, gather.key_lengths])
    cumulative = np.zeros((2, lengths.shape[1] + 1), dtype=np.int32)
    cumulative[:, 1:] = lengths.cumsum(1)
    cu_query, cu_key = torch.from_numpy(cumulative).to(gather.index.device, non_blocking=True)
    max_query, max_key = (-(-lengths.max(1) // STEP) * STEP).tolist()
    return VarlenPlan(gather.index, cu_query, cu_key, max_query, max_key)


def varlen(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    plan: VarlenPlan,
    scale: float,
    window: int | None,
    kernel: Callable[..., Any] | None = None,
) -> Tensor:
    """query [1, H, T, D], key and value [1, G, T, D] -> [1, T, H, D]; `kernel` is called in place
    of `torch.nn.attention.varlen.varlen_attn`."""
    run = kernel or _kernel()
    options: dict[str, Any] = {"scale": scale, "window_size": (-1, 0)}
    if window is not None:  # the kernel's windows count the keys before the query
        options["window_size"] = (window - 1, 0)
    # Releases of torch that have no `enable_gqa` take fewer key heads as they are.
    if query.shape[1] != key.shape[1] and "enable_gqa" in _parameters(run):
        options["enable_gqa"] = True
    out: Tensor = run(
        query[0].transpose(0, 1),
        GatherRows.apply(key[0].transpose(0, 1), plan.index),
        GatherRows.apply(value[0].transpose(0, 1), plan.index),
        plan.cu_query,
        plan.cu_key,
        plan.max_query,
        plan.max_key,
        **options,
    )
    return out[None]


@functools.cache
def _parameters(kernel: Callable[..., Any]) -> frozenset[str]:
    return frozenset(inspect.signature(kernel).parameters)


def _kernel() -> Callable[..., Any]:
    from torch.nn.attention.varlen import varlen_attn

    return varlen_attn


def unfit(query: Tensor) -> str | None:
    """Why this kernel cannot take the call, or None. query [1, H, T, D] on CUDA."""
    head = query.shape[-1]
    if head % 8 or head > 256:
        return f"it takes head sizes up to 256 that are multiples of 8, not {head}"
    if torch.cuda.get_device_capability(query.device) < (8, 0):
        return "it needs compute capability 8.0"
    try:
        return missing(_parameters(_kernel()))
    except ImportError:
        return missing(None)


def missing(parameters: frozenset[str] | None) -> str | None:
    """Why a release's `varlen_attn` with these parameters (None: no such function) will not do."""
    if parameters is None:
        return f"torch {torch.__version__} has no torch.nn.attention.varlen"
    lacking = sorted({"scale", "window_size"} - parameters)
    if lacking:
        return f"torch's varlen_attn has no {', '.join(lacking)}"
    return None
