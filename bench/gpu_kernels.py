"""Every attention kernel of a forest against a dense mask, and how often one is compiled."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch._dynamo.utils import counters

from bench.gpu_measurements import Measured, Setting, attempt
from smorm.model import gathered
from smorm.model.attention import AttentionPlan
from smorm.model.cpu.attention import cpu_blocks
from smorm.model.flex import bucket, flex
from smorm.trees.forest import Forest, grow

QUERY_HEADS, KEY_HEADS, HEAD_SIZE = 8, 2, 64
WINDOW, SOFTCAP = 96, 20.0
SIZES = 24
"""Forests of as many sizes, of which few may be compiled (8 of them where all is small)."""


@dataclass(frozen=True, slots=True)
class Kernel:
    """One way to compute forest attention, and what it is asked for beside the rule."""

    attend: Callable[[Tensor, Tensor, Tensor, AttentionPlan, float], Tensor]
    window: int | None = None
    softcap: float | None = None
    has_sinks: bool = False
    takes_fp32: bool = True
    has_backward: bool = True


def kernels(setting: Setting, sinks: Tensor) -> dict[str, Kernel]:
    """All kernels that can run on the device; of small settings one that is compiled."""
    cuda = setting.cuda
    found: dict[str, Kernel] = {}
    for name, window, softcap in (
        ("", None, None), ("window", WINDOW, None), ("soft cap", None, SOFTCAP),
        ("window, soft cap", WINDOW, SOFTCAP),
    ):  # fmt: skip
        options = f" ({name})" if name else ""
        found[f"plain products{options}"] = Kernel(
            partial(_plain, window=window, softcap=softcap), window, softcap
        )
        # FlexAttention that is compiled for a CPU has no backward pass.
        if not setting.tiny or (window and softcap):
            found[f"flex{options}"] = Kernel(
                partial(_flex, window=window, softcap=softcap), window, softcap, has_backward=cuda
            )
        if cuda and softcap is None:
            found[f"varlen{options}"] = Kernel(
                partial(_varlen, window=window), window, takes_fp32=False
            )
    found["plain products (sinks)"] = Kernel(partial(_plain, sinks=sinks), has_sinks=True)
    if not cuda:
        found["cpu blocks"] = Kernel(_cpu)
    return found


def _plain(
    query: Tensor, key: Tensor, value: Tensor, plan: AttentionPlan, scale: float,
    window: int | None = None, softcap: float | None = None, sinks: Tensor | None = None,
) -> Tensor:  # fmt: skip
    return gathered.plain_products(query, key, value, plan.gather, scale, window, softcap, sinks)


def _flex(
    query: Tensor, key: Tensor, value: Tensor, plan: AttentionPlan, scale: float,
    window: int | None, softcap: float | None,
) -> Tensor:  # fmt: skip
    return flex(query, key, value, plan.block_mask(window), scale, softcap)


def _varlen(
    query: Tensor, key: Tensor, value: Tensor, plan: AttentionPlan, scale: float,
    window: int | None,
) -> Tensor:  # fmt: skip
    if reason := gathered.unfit(query):
        raise RuntimeError(reason)
    return gathered.varlen(query, key, value, plan.varlen, scale, window)


def _cpu(query: Tensor, key: Tensor, value: Tensor, plan: AttentionPlan, scale: float) -> Tensor:
    return cpu_blocks(query, key, value, plan.blocks, scale)


def attention_kernels(setting: Setting) -> Measured:
    """Of each kernel in fp32 and bf16: the largest difference of outputs and gradients from a dense
    mask in fp64, in units of the largest entry."""
    sinks = torch.linspace(-1.0, 1.0, QUERY_HEADS, device=setting.device)
    measured: Measured = {}
    for name, kernel in kernels(setting, sinks).items():
        for dtype in (torch.float32, torch.bfloat16):
            if dtype is torch.float32 and not kernel.takes_fp32:
                continue
            label = f"{name}, {str(dtype).removeprefix('torch.')}"
            measured[label] = attempt(
                partial(_difference, setting, kernel, dtype, sinks if kernel.has_sinks else None)
            )
    return measured


def _difference(
    setting: Setting, kernel: Kernel, dtype: torch.dtype, sinks: Tensor | None
) -> Measured:
    torch.backends.cuda.matmul.allow_tf32 = False
    forest = random_forest(600 if setting.tiny else 3000, 0)
    rng = torch.Generator().manual_seed(0)
    shapes = [(1, heads, forest.num_tokens, HEAD_SIZE) for heads in (QUERY_HEADS, KEY_HEADS)]
    # Rounded once, so that both sides begin with the same numbers.
    tensors = [
        torch.randn(shape, generator=rng).to(setting.device, dtype)
        for shape in (shapes[0], shapes[1], shapes[1])
    ]
    plan = AttentionPlan(forest.to(setting.device))
    scale = 1.0 / math.sqrt(HEAD_SIZE)
    query, key, value = (tensor.double().requires_grad_() for tensor in tensors)
    expected = dense_attention(
        query, key, value, forest, scale, kernel.window, kernel.softcap, sinks
    )
    exact = (query, key, value)
    query, key, value = tensors
    if not kernel.has_backward:
        with torch.no_grad():
            return {"output": _gap(kernel.attend(query, key, value, plan, scale), expected)}
    weights = torch.randn(expected.shape, generator=rng).to(setting.device)
    (expected * weights).sum().backward()
    for tensor in tensors:
        tensor.requires_grad_()
    out = kernel.attend(query, key, value, plan, scale)
    (out * weights.to(out.dtype)).sum().backward()
    gaps = [_gap(tensor.grad, truth.grad) for tensor, truth in zip(tensors, exact, strict=True)]
    return {"output": _gap(out, expected), "gradients": max(gaps)}


def _gap(found: Tensor | None, expected: Tensor | None) -> float:
    assert found is not None
    assert expected is not None
    found, expected = found.detach().double(), expected.detach()
    return float((found - expected).abs().max() / expected.abs().max())


def dense_attention(
    query: Tensor, key: Tensor, value: Tensor, forest: Forest, scale: float,
    window: int | None, softcap: float | None, sinks: Tensor | None,
) -> Tensor:  # fmt: skip
    """query [1, H, T, D], key and value [1, G, T, D] -> [1, T, H, D], with all T x T scores."""
    repeat = query.shape[1] // key.shape[1]
    key, value = (tensor.repeat_interleave(repeat, 1) for tensor in (key, value))
    scores = query @ key.transpose(2, 3) * scale
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    rows = torch.arange(forest.num_tokens, device=query.device)
    end, positions = forest.end.to(query.device), forest.positions.to(query.device)
    allowed = (rows[None, :] <= rows[:, None]) & (rows[:, None] < end[None, :])
    if window is not None:
        allowed &= positions[:, None] - positions[None, :] < window
    scores = scores.masked_fill(~allowed, -math.inf)
    if sinks is None:
        return (scores.softmax(-1) @ value).transpose(1, 2)
    # A sink takes its share of the softmax and gives nothing.
    sink = sinks.to(scores.dtype)[None, :, None, None].expand(-1, -1, len(rows), 1)
    shares = torch.cat([scores, sink], -1).softmax(-1)[..., :-1]
    return (shares @ value).transpose(1, 2)


def random_forest(rows: int, seed: int) -> Forest:
    """Prompts of very different length with one to four answers each: about `rows` rows."""
    rng = np.random.default_rng(seed)

    def draw(longest: int) -> Any:
        return rng.integers(0, 9000, int(rng.integers(9, longest))).astype(np.int32)

    sequences: list[Any] = []
    while sum(map(len, sequences)) < rows:
        prompt = draw(int(rng.choice([30, 200, 600])))
        sequences += [np.concatenate([prompt, draw(150)]) for _ in range(int(rng.integers(1, 5)))]
    return grow(sequences)


def recompilations(setting: Setting) -> Measured:
    """How many graphs `SIZES` forests of different sizes compile, beside how many they may."""
    torch._dynamo.reset()
    counters.clear()
    largest, sizes = (900, 8) if setting.tiny else (8000, SIZES)
    forests = [random_forest(rows, rows) for rows in np.linspace(100, largest, sizes, dtype=int)]
    with torch.no_grad():
        for forest in forests:
            shapes = [(1, heads, forest.num_tokens, HEAD_SIZE) for heads in (4, 2, 2)]
            query, key, value = (torch.randn(s, device=setting.device) for s in shapes)
            mask = AttentionPlan(forest.to(setting.device)).block_mask(None)
            flex(query, key, value, mask, 0.125, None)
    return {
        "forests": len(forests),
        "row_counts": len({forest.num_tokens for forest in forests}),
        "padded_sizes": len({bucket(forest.num_tokens) for forest in forests}),
        "graphs": counters["stats"]["unique_graphs"],
    }
