"""Forest attention on the CPU: torch's flash kernel over chains and rectangles.

Shapes: T packed tokens, H query heads, G key heads, D head size.
"""

from __future__ import annotations

from typing import Any

import torch

from smorm.trees.forest import Forest

_flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
_flash_backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward


def cpu_flash(
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
