"""Forest attention on the CPU: blocks of queries against runs of keys, merged by log-sum-exp.

torch's flash kernel for the CPU spends most of its time outside of matrix products where sequences
are short, and its bf16 backward is slower than its fp32 one. Here a block is two batched products
in the operands' precision and one softmax in fp32; query heads that share a key head are folded
into its rows, so grouped heads cost no copies.

Shapes: T key rows, Q query rows, G key heads, r query heads of each key head, D head size."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor

from smorm.trees.forest import Forest, Leaves, Range, Rectangle

ROWS = 128
"""Query rows of a causal block: half of a square block's work is masked away."""
WIDE = 512
"""Query rows of a rectangle's block, where nothing is masked."""
FEW = 4
"""Up to so many chains under one stretch of a prompt take its keys beside their own, which saves
merging; more of them meet it in one rectangle, whose products are larger."""
KEEP = 1024
"""Blocks with at most so many keys keep what they computed for the backward pass; others compute it
again, so that memory stays linear in length."""

Operands = tuple[Tensor, ...]
"""A block's probabilities, queries, keys and values."""


@dataclass(frozen=True, slots=True)
class Block:
    """Query rows a..b against the key rows of some ranges, laid end to end. `causal`: the last
    b - a keys are the queries' own rows. `complete`: these queries see no other keys. `merge`: the
    queries' own chain was computed before; this is added to it."""

    a: int
    b: int
    ranges: tuple[Range, ...]
    causal: bool
    complete: bool
    merge: bool

    @property
    def length(self) -> int:
        return sum(past - first for first, past in self.ranges)

    def take(self, rows: Tensor) -> Tensor:
        """The keys' rows of [G, T, D] -> [G, keys, D]."""
        pieces = [rows[:, first:past] for first, past in self.ranges]
        # A single run stays a view: nothing is copied.
        return pieces[0] if len(pieces) == 1 else torch.cat(pieces, 1)

    def add_to(self, total: Tensor, values: Tensor) -> None:
        """Add values [G, keys, D] to the keys' rows of `total`: the transpose of `take`."""
        start = 0
        for first, past in self.ranges:
            total[:, first:past] += values[:, start : start + past - first]
            start += past - first


def cut_blocks(batch: Forest | Leaves) -> list[Block]:
    """Runs of queries against their own chains, then rectangles, cut into blocks: a block that
    merges adds to rows that an earlier one has written."""
    queries = batch.queries
    beside, merged, rectangles = _assign_rectangles(queries, batch.rectangles)
    causal = isinstance(batch, Forest)
    blocks = []
    for run, (a, b) in enumerate(queries):
        first, past = batch.chains[run]
        for i in range(a, b, ROWS):
            j = min(i + ROWS, b)
            if causal:
                past = j  # a causal block sees its chain up to its own last row
            ranges = (*beside[run], (first, past))
            blocks.append(Block(i, j, ranges, causal, complete=not merged[run], merge=False))
    for a, b, first, past in rectangles:
        for i in range(a, b, WIDE):
            j = min(i + WIDE, b)
            blocks.append(Block(i, j, ((first, past),), False, complete=False, merge=True))
    return blocks


def _assign_rectangles(
    queries: list[Range], rectangles: list[Rectangle]
) -> tuple[list[list[Range]], list[bool], list[Rectangle]]:
    """The keys that each run of queries takes beside its own chain; whether it is merged with a
    rectangle; and the rectangles that are computed by themselves."""
    starts = [first for first, _ in queries]
    beside: list[list[Range]] = [[] for _ in queries]
    merged = [False] * len(queries)
    wide = []
    for a, b, first, past in rectangles:
        runs = range(bisect_left(starts, a), bisect_left(starts, b))
        if len(runs) <= FEW:
            # Before the chain's own keys: those come last in a causal block.
            for run in runs:
                beside[run].append((first, past))
        else:
            wide.append((a, b, first, past))
            for run in runs:
                merged[run] = True
    return beside, merged, wide


@dataclass(slots=True)
class SavedBlocks:
    """What the backward pass needs: the output, where blocks are merged; per block its operands
    (None: take and compute them again) and, where rows are merged, which fraction of each row's
    probability is the block's, [G, rows * r, 1]."""

    out: Tensor | None
    operands: list[Operands | None]
    fractions: list[Tensor | None]

    def tensors(self) -> list[Tensor | None]:
        """Flat, for `save_for_backward`: the output, the fractions, each block's operands."""
        # Kept on the context instead, the output would make a reference cycle with its own node:
        # the tensors would stay in memory until the garbage collector runs.
        flat: list[Tensor | None] = [self.out, *self.fractions]
        for operands in self.operands:
            flat += operands or [None] * 4
        return flat

    @classmethod
    def from_tensors(cls, tensors: Sequence[Tensor | None]) -> SavedBlocks:
        """The reverse of `tensors`."""
        out, *rest = tensors
        count = len(rest) // 5
        operands: list[Any] = [None] * count
        for block in range(count):
            weights, q, k, v = rest[count + 4 * block : count + 4 * block + 4]
            if weights is not None:
                operands[block] = (weights, q, k, v)
        return cls(out, operands, rest[:count])


def attend(
    query: Tensor, key: Tensor, value: Tensor, plan: list[Block], *, save: bool = False
) -> tuple[Tensor, SavedBlocks | None]:
    """Attention of scaled queries [G, Q * r, D] over key and value [G, T, D], all of one dtype:
    [G, Q * r, D], in fp32 where blocks are merged; and with `save` what `attend_backward` takes."""
    heads = _heads(query, plan)
    merged = not all(block.complete for block in plan)
    # Merging scales and adds: in half precision each merge would round the output again.
    out = query.new_empty(query.shape, dtype=torch.float32 if merged else query.dtype)
    # The log-sum-exp of each row over the blocks so far.
    total = query.new_empty(query.shape[:2], dtype=torch.float32)
    operands: list[Operands | None] = []
    normalisers: list[Tensor | None] = []
    for block in plan:
        rows = slice(block.a * heads, block.b * heads)
        q, k, v = _contiguous(query[:, rows], block.take(key), block.take(value))
        weights, normaliser = _weights(q, k, block, heads)
        block_out = torch.bmm(weights, v)
        if block.merge:
            assert normaliser is not None
            _merge(out[:, rows], total[:, rows], block_out, normaliser)
        else:
            out[:, rows] = block_out
            if normaliser is not None:
                total[:, rows] = normaliser
        if save:
            operands.append((weights, q, k, v) if block.length <= KEEP else None)
            normalisers.append(normaliser)
    if not save:
        return out, None
    # Only now, because a row's total is complete when all of its blocks are merged.
    fractions: list[Tensor | None] = [None] * len(plan)
    for index, (normaliser, block) in enumerate(zip(normalisers, plan, strict=True)):
        if normaliser is not None:
            rows = slice(block.a * heads, block.b * heads)
            fractions[index] = (normaliser - total[:, rows]).exp_()[..., None]
    return out, SavedBlocks(out if merged else None, operands, fractions)


def _contiguous(*operands: Tensor) -> tuple[Tensor, ...]:
    # Half-precision products copy operands that are not contiguous, each time: here they are copied
    # once for forward and backward.
    if operands[0].dtype == torch.float32:
        return operands
    return tuple(operand.contiguous() for operand in operands)


def _heads(query: Tensor, plan: list[Block]) -> int:
    return query.shape[1] // max(block.b for block in plan)


@cache
def _causal_bias(heads: int, dtype: torch.dtype) -> Tensor:
    """-inf above the diagonal, to be added to a causal block's scores, [ROWS * r, ROWS]."""
    upper = torch.full((ROWS, ROWS), -torch.inf).triu(1)
    return upper.repeat_interleave(heads, dim=0).to(dtype)


def _weights(query: Tensor, key: Tensor, block: Block, heads: int) -> tuple[Tensor, Tensor | None]:
    """Softmax of a block [G, rows * r, keys]; log-sum-exp of its rows in fp32 if not complete."""
    scores = torch.bmm(query, key.transpose(1, 2))
    if block.causal:
        rows = block.b - block.a
        diagonal = scores[:, :, scores.shape[2] - rows :]
        diagonal.add_(_causal_bias(heads, key.dtype)[: rows * heads, :rows])
    if block.complete:
        return torch.softmax(scores, -1), None
    scores = scores.float()
    weights = torch.softmax(scores, -1)
    # The largest probability is exp(largest score - log-sum-exp): no second pass over all scores.
    normaliser = scores.amax(-1) - weights.amax(-1).log_()
    return weights.to(key.dtype), normaliser


def _merge(out: Tensor, total: Tensor, block_out: Tensor, normaliser: Tensor) -> None:
    # The softmax over a union is the softmaxes over its sets, weighted by exp(lse - lse_union).
    union = torch.logaddexp(total, normaliser)
    out.mul_((total - union).exp_()[..., None])
    out.addcmul_(block_out, (normaliser - union).exp_()[..., None])
    total.copy_(union)


def attend_backward(
    grad: Tensor, query: Tensor, key: Tensor, value: Tensor, plan: list[Block], saved: SavedBlocks
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of query, key and value (fp32, shaped like them) from `grad` [G, Q * r, D], which
    is best in fp32 where blocks are merged."""
    # With P a row's probabilities over all of its keys: dV = P' dO, dS = P * (dO V' - sum(dO * O)).
    # A block's P is its own softmax times the block's fraction of the row, so the fraction scales
    # dO and the sum instead of P.
    heads = _heads(query, plan)
    # In fp32: a key's gradient is a sum over all blocks that see it.
    grad_query = torch.empty_like(query, dtype=torch.float32)
    grad_key = torch.zeros_like(key, dtype=torch.float32)
    grad_value = torch.zeros_like(value, dtype=torch.float32)
    low = grad.to(value.dtype)
    if saved.out is not None:
        delta = (grad * saved.out).sum(-1, True)
    for block, operands, fraction in zip(plan, saved.operands, saved.fractions, strict=True):
        rows = slice(block.a * heads, block.b * heads)
        if operands is None:
            q, k, v = _contiguous(query[:, rows], block.take(key), block.take(value))
            operands = (_weights(q, k, block, heads)[0], q, k, v)
        weights, q, k, v = operands
        if fraction is None:
            (grad_out,) = _contiguous(low[:, rows])
        else:
            (grad_out,) = _contiguous((grad[:, rows] * fraction).to(value.dtype))
        slope = torch.bmm(grad_out, v.transpose(1, 2))
        if fraction is None:
            slope = torch._softmax_backward_data(slope, weights, -1, weights.dtype)
        else:
            # The softmax's own backward sums over the block's keys; the sum is over the whole row.
            slope.sub_(delta[:, rows] * fraction).mul_(weights)
        if block.merge:
            grad_query[:, rows] += torch.bmm(slope, k)
        else:
            grad_query[:, rows] = torch.bmm(slope, k)
        block.add_to(grad_value, torch.bmm(weights.transpose(1, 2), grad_out))
        block.add_to(grad_key, torch.bmm(slope.transpose(1, 2), q))
    return grad_query, grad_key, grad_value


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, plan: list[Block]) -> Tensor:
        out, saved = attend(query, key, value, plan, save=True)
        assert saved is not None
        ctx.save_for_backward(query, key, value, *saved.tensors())
        ctx.plan = plan
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, *rest = ctx.saved_tensors
        saved = SavedBlocks.from_tensors(rest)
        gradients = attend_backward(grads[0], query, key, value, ctx.plan, saved)
        return *(gradient.to(value.dtype) for gradient in gradients), None


def cpu_blocks(
    query: Tensor, key: Tensor, value: Tensor, plan: list[Block], scale: float
) -> Tensor:
    """query [1, H, Q, D], key and value [1, G, T, D] -> [1, Q, H, D]."""
    dtype = value.dtype
    heads = query.shape[1] // key.shape[1]
    folded = fold(query[0], key.shape[1]) * scale
    arguments = (folded.to(dtype), key[0].to(dtype), value[0], plan)
    if torch.is_grad_enabled() and any(t.requires_grad for t in (query, key, value)):
        out: Tensor = _Attention.apply(*arguments)
    else:
        out, _ = attend(*arguments)
    return unfold(out, heads).unsqueeze(0)


def fold(query: Tensor, groups: int) -> Tensor:
    """[H, Q, D] -> [G, Q * r, D]: a query row's heads of one key head lie side by side."""
    heads, rows, size = query.shape
    split = query.reshape(groups, heads // groups, rows, size).transpose(1, 2)
    return split.reshape(groups, rows * (heads // groups), size)


def unfold(out: Tensor, heads: int) -> Tensor:
    """[G, Q * r, D] -> [Q, H, D]."""
    groups, rows, size = out.shape
    split = out.view(groups, rows // heads, heads, size).transpose(0, 1)
    return split.reshape(rows // heads, groups * heads, size)
