"""Forest attention through torch's variable-length flash attention (CUDA, half precision).

Every chain is a run of queries; its keys are its ancestors and itself, gathered end to end. The
kernel aligns causality and windows to the end of a run's keys, where the chain stands, and a
chain's keys stand in depth order, so windows count positions.

Shapes: T packed tokens, K gathered key rows, H query heads, G key heads, D head size, C chains.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from smorm.trees.forest import Forest
from smorm.trees.leaves import Leaves

STEP = 128
"""Longest runs are rounded up to this, the kernel's own tile: it costs nothing there, and code
that is compiled around the kernel meets few values."""


class GatherRows(torch.autograd.Function):
    """`rows[index]` whose gradient is summed in fp32.

    A shared prompt's keys are gathered once per answer. The usual gradient would add those shares
    up in half precision, one after another; here they are rounded once, at the end.
    """

    @staticmethod
    def forward(ctx: Any, rows: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(index)
        ctx.shape = rows.shape
        return rows.index_select(0, index)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor, None]:
        (index,) = ctx.saved_tensors
        total = torch.zeros(ctx.shape, dtype=torch.float32, device=grads[0].device)
        return total.index_add_(0, index, grads[0].float()).to(grads[0].dtype), None


def varlen_arguments(
    forest: Forest | Leaves,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, int, int]:
    """Key rows [K], cumulative query and key lengths [C + 1] (int32), and bounds of the longest
    query and key run. Made once per forest."""
    if "varlen" not in forest.cache:
        index, query_lengths, key_lengths = forest.gather_plan()
        lengths = np.array([query_lengths, key_lengths])
        cumulative = np.zeros((2, lengths.shape[1] + 1), dtype=np.int32)
        cumulative[:, 1:] = lengths.cumsum(1)
        moved = torch.from_numpy(cumulative).to(index.device, non_blocking=True)
        longest = [-(-int(most) // STEP) * STEP for most in lengths.max(1)]
        forest.cache["varlen"] = (index, moved[0], moved[1], *longest)
    arguments: tuple[torch.Tensor, torch.Tensor, torch.Tensor, int, int] = forest.cache["varlen"]
    return arguments


def varlen(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    forest: Forest | Leaves,
    scale: float,
    window: int | None,
    kernel: Callable[..., Any] | None = None,
) -> torch.Tensor:
    """query [1, H, T, D], key and value [1, G, T, D] -> [1, T, H, D].

    Args:
        kernel: what is called in place of `torch.nn.attention.varlen.varlen_attn`.
    """
    run = kernel if kernel is not None else _kernel()
    index, cu_query, cu_key, max_query, max_key = varlen_arguments(forest)
    # Releases of torch that have no `enable_gqa` take fewer key heads as they are.
    shared = query.shape[1] != key.shape[1] and "enable_gqa" in _parameters(run)
    out: torch.Tensor = run(
        query[0].transpose(0, 1),
        GatherRows.apply(key[0].transpose(0, 1), index),
        GatherRows.apply(value[0].transpose(0, 1), index),
        cu_query,
        cu_key,
        max_query,
        max_key,
        scale=scale,
        window_size=(-1 if window is None else window - 1, 0),
        **({"enable_gqa": True} if shared else {}),
    )
    return out[None]


@functools.cache
def _parameters(kernel: Callable[..., Any]) -> frozenset[str]:
    return frozenset(inspect.signature(kernel).parameters)


def _kernel() -> Callable[..., Any]:
    from torch.nn.attention.varlen import varlen_attn

    return varlen_attn


def unfit(query: torch.Tensor) -> str | None:
    """Why this kernel cannot take the call, or None. query [1, H, T, D] on CUDA."""
    head = query.shape[-1]
    if head % 8 or head > 256:
        return f"it takes head sizes up to 256 that are multiples of 8, not {head}"
    if torch.cuda.get_device_capability(query.device) < (8, 0):
        return "it needs compute capability 8.0"
    return missing(_parameters_or_none())


def missing(parameters: frozenset[str] | None) -> str | None:
    """Why a release's `varlen_attn` with these parameters (None: there is none) is not enough."""
    if parameters is None:
        return f"torch {torch.__version__} has no torch.nn.attention.varlen"
    lacking = sorted({"scale", "window_size"} - parameters)
    return f"torch's varlen_attn has no {', '.join(lacking)}" if lacking else None


def _parameters_or_none() -> frozenset[str] | None:
    try:
        return _parameters(_kernel())
    except ImportError:
        return None
