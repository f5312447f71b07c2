"""Attention that computes nothing and keeps what a fused CUDA kernel keeps: for counting bytes.

Shapes: T packed tokens, H query heads, G key heads, D head size."""

from typing import Any

import torch
from torch import Tensor

from smorm.model.gathered import GatherPlan, GatherRows


class _Kernel(torch.autograd.Function):
    """Keeps queries, keys, values, output, and a log-sum-exp in fp32 for each query and head."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        out = torch.empty_like(query)
        log_sum = query.new_empty(query.shape[:2], dtype=torch.float32)
        ctx.save_for_backward(query, key, value, out, log_sum)
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        query, key, value, _, _ = ctx.saved_tensors
        return torch.empty_like(query), torch.empty_like(key), torch.empty_like(value)


def counted(query: Tensor, key: Tensor, value: Tensor, plan: GatherPlan) -> Tensor:
    """query [1, H, T, D], key and value [1, G, T, D] -> [1, T, H, D], empty. In half precision keys
    are gathered for every run of queries, as `smorm.model.gathered.varlen` does."""
    query, key, value = (tensor[0].transpose(0, 1) for tensor in (query, key, value))
    if value.dtype in (torch.bfloat16, torch.float16):
        key = GatherRows.apply(key, plan.index)
        value = GatherRows.apply(value, plan.index)
    out: Tensor = _Kernel.apply(query, key, value)
    return out[None]
