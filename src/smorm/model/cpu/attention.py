"""Forest attention on the CPU: blocks of queries against runs of keys, merged by log-sum-exp.

torch's flash kernel for the CPU spends most of its time outside of matrix products where sequences
are short, and its bf16 backward is slower than its fp32 one. Here a block is two batched products
and one softmax; query heads that share a key head are folded into its rows, so grouped heads cost
no copies. Probabilities of blocks with few keys are kept for the backward pass, those of others are
computed again, so that memory stays linear in length.

Products take the operands' precision; every softmax is computed in fp32.

Shapes: T key rows, Q query rows, G key heads, r query heads of each key head, D head size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch

from smorm.model.cpu import blocks as planning
from smorm.model.cpu.blocks import Block, blocks
from smorm.trees.forest import Forest
from smorm.trees.leaves import Leaves

KEEP = 1024
"""Blocks with at most so many keys keep what they computed for the backward pass."""


@dataclass(slots=True)
class Memory:
    """What the backward pass needs: the output where blocks are merged; per block its probabilities
    with its queries, keys and values (None: take and compute them again) and, where rows are
    merged, the block's share of each row [G, rows * r, 1]."""

    out: torch.Tensor | None
    kept: list[tuple[torch.Tensor, ...] | None]
    shares: list[torch.Tensor | None]

    def tensors(self) -> list[torch.Tensor | None]:
        """Everything, for `save_for_backward`: on its own it would make a cycle with the output."""
        found: list[torch.Tensor | None] = [self.out, *self.shares]
        for kept in self.kept:
            found += [None] * 4 if kept is None else kept
        return found

    @classmethod
    def of(cls, tensors: Sequence[torch.Tensor | None]) -> Memory:
        """What `tensors` gave."""
        out, *rest = tensors
        count = len(rest) // 5
        quads = [rest[i : i + 4] for i in range(count, len(rest), 4)]
        kept: Any = [None if quad[0] is None else tuple(quad) for quad in quads]
        return cls(out, kept, rest[:count])


def attend(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    plan: list[Block],
    *,
    remember: bool = False,
) -> tuple[torch.Tensor, Memory | None]:
    """Attention of scaled queries [G, Q * r, D] over key and value [G, T, D], all of one dtype.

    Returns:
        [G, Q * r, D], in fp32 where blocks are merged and in the operands' precision elsewhere; and
        what `attend_backward` takes.
    """
    heads = _heads(query, plan)
    merged = not all(block.alone for block in plan)
    out = query.new_empty(query.shape, dtype=torch.float32 if merged else query.dtype)
    total = query.new_empty(query.shape[:2] if merged else 0, dtype=torch.float32)
    kept: list[tuple[torch.Tensor, ...] | None] = []
    normalisers: list[torch.Tensor | None] = []
    for block in plan:
        rows = slice(block.a * heads, block.b * heads)
        parts = _take(query[:, rows], block.take(key), block.take(value))
        weights, normaliser = _weights(parts[0], parts[1], block, heads)
        part = torch.bmm(weights, parts[2])
        if block.merge:
            assert normaliser is not None
            _merge(out[:, rows], total[:, rows], part, normaliser)
        else:
            out[:, rows] = part
            if normaliser is not None:
                total[:, rows] = normaliser
        if remember:
            kept.append((weights, *parts) if block.length <= KEEP else None)
            normalisers.append(normaliser)
    if not remember:
        return out, None
    shares = [
        None
        if own is None
        else (own - total[:, block.a * heads : block.b * heads]).exp_()[..., None]
        for own, block in zip(normalisers, plan, strict=True)
    ]
    return out, Memory(out if merged else None, kept, shares)


def _take(*parts: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Operands of a block's products. Half-precision products copy operands that do not lie in one
    piece, each time: here they are copied once for forward and backward."""
    if parts[0].dtype == torch.float32:
        return parts
    return tuple(part.contiguous() for part in parts)


def _heads(query: torch.Tensor, plan: list[Block]) -> int:
    return query.shape[1] // max(block.b for block in plan)


@cache
def _above(heads: int, dtype: torch.dtype) -> torch.Tensor:
    """What a causal block must not see, as -inf to be added, [ROWS * r, ROWS]."""
    upper = torch.full((planning.ROWS, planning.ROWS), -torch.inf).triu(1)
    return upper.repeat_interleave(heads, dim=0).to(dtype)


def _weights(
    query: torch.Tensor, key: torch.Tensor, block: Block, heads: int
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Softmax of a block [G, rows * r, keys]; log-sum-exp of its rows in fp32 where not alone."""
    scores = torch.bmm(query, key.transpose(1, 2))
    if block.causal:
        own = block.b - block.a
        scores[:, :, scores.shape[2] - own :].add_(_above(heads, key.dtype)[: own * heads, :own])
    if block.alone:
        return torch.softmax(scores, -1), None
    scores = scores.float()
    weights = torch.softmax(scores, -1)
    # The largest probability is exp(largest score - log-sum-exp).
    normaliser = scores.amax(-1) - weights.amax(-1).log_()
    return weights.to(key.dtype), normaliser


def _merge(
    out: torch.Tensor, total: torch.Tensor, part: torch.Tensor, normaliser: torch.Tensor
) -> None:
    """The softmax over a union is the parts' softmaxes, weighted by exp(lse_part - lse_union)."""
    union = torch.logaddexp(total, normaliser)
    out.mul_((total - union).exp_()[..., None])
    out.addcmul_(part, (normaliser - union).exp_()[..., None])
    total.copy_(union)


def attend_backward(
    grad: torch.Tensor,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    plan: list[Block],
    memory: Memory,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Gradients of query, key and value (fp32, shaped like them) from `grad` [G, Q * r, D], which
    is best in fp32 where blocks are merged.

    With P a row's probabilities over all of its keys: dV = P' dO, dS = P * (dO V' - sum(dO * O)).
    A block's P is its own softmax times the share w of the block in the row, so w scales dO and the
    sum instead of P.
    """
    heads = _heads(query, plan)
    grad_query = torch.empty_like(query, dtype=torch.float32)
    grad_key, grad_value = (torch.zeros_like(t, dtype=torch.float32) for t in (key, value))
    low = grad.to(value.dtype)
    delta = None if memory.out is None else (grad * memory.out).sum(-1, True)
    for block, kept, share in zip(plan, memory.kept, memory.shares, strict=True):
        rows = slice(block.a * heads, block.b * heads)
        if kept is None:
            parts = _take(query[:, rows], block.take(key), block.take(value))
            kept = (_weights(parts[0], parts[1], block, heads)[0], *parts)
        weights, own_query, own_key, own_value = kept
        own = low[:, rows] if share is None else (grad[:, rows] * share).to(value.dtype)
        (own,) = _take(own)
        slope = torch.bmm(own, own_value.transpose(1, 2))
        if share is None:
            slope = torch._softmax_backward_data(slope, weights, -1, weights.dtype)
        else:
            assert delta is not None
            slope.sub_(delta[:, rows] * share).mul_(weights)
        if block.merge:
            grad_query[:, rows] += torch.bmm(slope, own_key)
        else:
            grad_query[:, rows] = torch.bmm(slope, own_key)
        block.give(grad_value, torch.bmm(weights.transpose(1, 2), own))
        block.give(grad_key, torch.bmm(slope.transpose(1, 2), own_query))
    return grad_query, grad_key, grad_value


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, plan: list[Block]
    ) -> torch.Tensor:
        out, memory = attend(query, key, value, plan, remember=True)
        assert memory is not None
        ctx.save_for_backward(query, key, value, *memory.tensors())
        ctx.plan = plan
        return out

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        query, key, value, *rest = ctx.saved_tensors
        memory = Memory.of(rest)
        found = attend_backward(grads[0], query, key, value, ctx.plan, memory)
        return *(grad.to(value.dtype) for grad in found), None


def cpu_blocks(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    forest: Forest | Leaves,
    scale: float,
) -> torch.Tensor:
    """query [1, H, Q, D], key and value [1, G, T, D] -> [1, Q, H, D]."""
    dtype = value.dtype
    heads = query.shape[1] // key.shape[1]
    folded = fold(query[0], key.shape[1]) * scale
    arguments = (folded.to(dtype), key[0].to(dtype), value[0], blocks(forest))
    learning = torch.is_grad_enabled() and any(t.requires_grad for t in (query, key, value))
    out: torch.Tensor = _Attention.apply(*arguments) if learning else attend(*arguments)[0]
    return unfold(out, heads).unsqueeze(0)


def fold(query: torch.Tensor, groups: int) -> torch.Tensor:
    """[H, Q, D] -> [G, Q * r, D]: a query row's heads of one key head lie side by side."""
    heads, rows, size = query.shape
    split = query.reshape(groups, heads // groups, rows, size).transpose(1, 2)
    return split.reshape(groups, rows * (heads // groups), size)


def unfold(out: torch.Tensor, heads: int) -> torch.Tensor:
    """[G, Q * r, D] -> [Q, H, D]."""
    groups, rows, size = out.shape
    split = out.view(groups, rows // heads, heads, size).transpose(0, 1)
    return split.reshape(rows // heads, groups * heads, size)
