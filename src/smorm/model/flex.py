"""Forest attention through FlexAttention: block lists from the forest's plan, made on the host.

FlexAttention computes 128 x 128 blocks: those on the list of *full* blocks without a mask, those on
the list of *partial* blocks with the rule as their mask, and no others. The lists follow from the
chains and their ancestors, so nothing of size T x T is ever made. Shapes: T packed tokens, N padded
rows, B blocks of rows, H query heads, G key heads, D head size."""

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from smorm.arrays import Bools
from smorm.trees.forest import Forest

BLOCK = 128
SMALLEST = 4 * BLOCK
SHAPES = 64
"""Compiled variants that are kept: sizes times windows, with and without gradients."""


@dataclass(frozen=True, slots=True)
class BlockLists:
    """Which blocks are computed: `partial` and `full`, [B, B] booleans (query, key), never both."""

    partial: Bools
    full: Bools


def bucket(rows: int) -> int:
    """Rows after padding: 512, then 2^n or 1.5 x 2^n; 12 sizes up to 32,768 rows."""
    # The kernel is compiled for fixed shapes, because block lists with dynamic shapes compile anew,
    # or not at all, in some releases of torch. Few sizes keep the variants few, and a row that is
    # padded here, and not in the model, costs attention alone.
    power = SMALLEST
    while power < rows:
        power *= 2
    between = power // 4 * 3
    if rows <= between and between > 2 * SMALLEST:
        return between
    return power


def block_lists(forest: Forest, window: int | None = None) -> BlockLists:
    """The blocks of the padded mask: exactly those with an allowed cell, split by being full."""
    blocks = bucket(forest.num_tokens) // BLOCK
    # A padded row sees itself, so every block on the diagonal has an allowed cell.
    visible = np.eye(blocks, dtype=np.bool_)
    for query, first, past in _visible_ranges(forest, window):
        visible[query, first // BLOCK : (past - 1) // BLOCK + 1] = True
    # Full blocks lie below the diagonal: every key's subtree ends behind the block's last query and
    # the deepest query is within the window of the highest key.
    end, positions = (array.reshape(blocks, BLOCK) for array in padded_rule(forest))
    past_queries = np.arange(1, blocks + 1) * BLOCK
    full = end.min(1)[None, :] >= past_queries[:, None]
    if window is not None:
        full &= positions.max(1)[:, None] - positions.min(1)[None, :] < window
    full &= np.tri(blocks, k=-1, dtype=np.bool_)
    return BlockLists(visible & ~full, full)


def _visible_ranges(forest: Forest, window: int | None) -> Iterator[tuple[int, int, int]]:
    """(query block, first key row, past last key row) for every stretch that a block sees."""
    for (begin, end), ancestors in zip(forest.chains, forest.ancestors, strict=True):
        depth = sum(past - first for first, past in ancestors)
        for block in range(begin // BLOCK, (end - 1) // BLOCK + 1):
            top, bottom = max(begin, block * BLOCK), min(end, (block + 1) * BLOCK)
            # Of the chain's rows in this block the first sees farthest back. Positions grow by one
            # along a chain and along each stretch of its ancestors.
            farthest = 0
            if window is not None:
                farthest = max(0, depth + top - begin - window + 1)
            position = 0
            for first, past in (*ancestors, (begin, bottom)):
                skipped = max(0, farthest - position)
                position += past - first
                if first + skipped < past:
                    yield block, first + skipped, past


def padded_rule(forest: Forest) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """`end` and `positions` of the padded rows, [N] each. A padded row sees itself alone."""
    rows, size = forest.num_tokens, bucket(forest.num_tokens)
    end = np.arange(1, size + 1, dtype=np.int32)
    positions = np.zeros(size, dtype=np.int32)
    end[:rows], positions[:rows] = forest.end.cpu().numpy(), forest.positions.cpu().numpy()
    return end, positions


def _rule(end: Tensor, positions: Tensor, window: int | None) -> Callable[..., Tensor]:
    def plain(b: Any, h: Any, q: Tensor, k: Tensor) -> Tensor:
        return (k <= q) & (q < end[k])

    if window is None:
        return plain

    # A function of its own: a test of `window` inside would become part of the compiled code.
    def windowed(b: Any, h: Any, q: Tensor, k: Tensor) -> Tensor:
        return (k <= q) & (q < end[k]) & (positions[q] - positions[k] < window)

    return windowed


def block_mask(forest: Forest, window: int | None) -> Any:
    """The forest's `BlockMask` on its device, built on the host."""
    from torch.nn.attention.flex_attention import BlockMask

    device = forest.device
    lists = block_lists(forest, window)
    ordered = (*_ordered(lists.partial), *_ordered(lists.full))
    mask = BlockMask.from_kv_blocks(*ordered, BLOCK_SIZE=BLOCK).to(device)
    # After the move: `to` moves the lists, not the tensors that the rule closes over.
    end, positions = map(torch.from_numpy, padded_rule(forest))
    end, positions = (rows.to(device, non_blocking=True) for rows in (end, positions))
    mask.mask_mod = _rule(end, positions, window)
    return mask


def _ordered(blocks: Bools) -> tuple[Tensor, Tensor]:
    """How many key blocks each query block has [1, 1, B], and which, those first [1, 1, B, B]."""
    count = blocks.sum(1, dtype=np.int32)
    # A stable sort of "not computed": computed blocks come first, in ascending order.
    order = np.argsort(~blocks, axis=1, kind="stable").astype(np.int32)
    return torch.from_numpy(count)[None, None], torch.from_numpy(order)[None, None]


@functools.cache
def _cap(softcap: float) -> Any:
    """Soft-capping as a score function: one object per value, so that it is compiled once."""

    def cap(score: Tensor, b: Any, h: Any, q: Any, k: Any) -> Tensor:
        return softcap * torch.tanh(score / softcap)

    return cap


def _attend(
    query: Tensor, key: Tensor, value: Tensor, score_mod: Any, mask: Any, scale: float
) -> Tensor:
    from torch.nn.attention.flex_attention import flex_attention

    gqa = query.shape[1] != key.shape[1]
    options = {"score_mod": score_mod, "block_mask": mask, "scale": scale, "enable_gqa": gqa}
    out = flex_attention(query, key, value, **options)
    assert isinstance(out, Tensor)  # without return_aux
    return out


@functools.cache
def _compiled() -> Any:
    """`_attend` compiled, with room for all shapes."""
    import torch._dynamo

    # Past its limit dynamo would run the function eagerly, which writes all scores out.
    limit = torch._dynamo.config.recompile_limit
    torch._dynamo.config.recompile_limit = max(limit, SHAPES)
    return torch.compile(_attend, dynamic=False, fullgraph=True)


def flex(
    query: Tensor, key: Tensor, value: Tensor, mask: Any, scale: float, softcap: float | None
) -> Tensor:
    """query [1, H, T, D], key and value [1, G, T, D], a `block_mask` -> [1, T, H, D]."""
    rows = query.shape[2]
    padding = bucket(rows) - rows
    # Contiguous with and without padding: strides are part of what is compiled.
    padded = [nn.functional.pad(x, (0, 0, 0, padding)).contiguous() for x in (query, key, value)]
    score_mod = None if softcap is None else _cap(softcap)
    out: Tensor = _compiled()(*padded, score_mod, mask, scale)
    return out[:, :, :rows].transpose(1, 2)
