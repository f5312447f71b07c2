"""A decoder layer of the Llama family as one function, forward and backward written out.

    h = x + Wo attention(rotary(Wq n), rotary(Wk n), Wv n)     n = norm1(x)
    y = h + Wd (silu(Wg m) * Wu m)                             m = norm2(h)

Against the same layer as some sixty autograd nodes, every activation is converted to the computing
precision once, elementwise passes work in place, attention reads and writes the layout that its
products need, and fp32 products go to the faster library (`smorm.model.cpu.matmul`). The order of
roundings is that of transformers' modules: residual stream and norms in fp32, products in the
computing precision.

Shapes: T rows, U rows that go on (T without `rows`), M hidden size, H query and G key heads of size
D, F feed-forward size."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import silu

from smorm.model.cpu.attention import Block, SavedBlocks, attend, attend_backward
from smorm.model.cpu.matmul import linear, product, transposed_product

CHUNK = 1024
"""Rows of a feed-forward pass when nothing is kept for a backward pass."""
AddGradient = Callable[[str, Tensor, Tensor], None]
"""Of a parameter by its name, as the product of an outer and an inner factor."""


@dataclass(frozen=True, slots=True)
class LayerCall:
    """How a layer is run, beside its tensors: heads and head size, the norms' epsilons, the scores'
    scale, the attention's blocks of the rows that go on, those rows [U] (None for all), and the
    precision of the matrix products."""

    heads: int
    groups: int
    size: int
    epsilons: tuple[float, float]
    scale: float
    plan: list[Block]
    rows: Tensor | None
    dtype: torch.dtype


@dataclass(frozen=True, slots=True)
class LayerWeights:
    """Parameters of a layer, in the order that `layer` takes them; q, k, v may have no biases."""

    norm1: Tensor
    query: Tensor
    key: Tensor
    value: Tensor
    query_bias: Tensor | None
    key_bias: Tensor | None
    value_bias: Tensor | None
    output: Tensor
    norm2: Tensor
    gate: Tensor
    up: Tensor
    down: Tensor


def normalise(x: Tensor, weight: Tensor, epsilon: float) -> tuple[Tensor, Tensor]:
    """RMS norm of fp32 x [T, M] -> the normalised x, and 1 / rms [T, 1]."""
    # A norm and its square are one pass; squaring x first would write a tensor of its size.
    inverse = torch.linalg.vector_norm(x, dim=-1, keepdim=True).square_()
    inverse.div_(x.shape[-1]).add_(epsilon).rsqrt_()
    return (x * inverse).mul_(weight), inverse


def normalise_backward(
    grad: Tensor, x: Tensor, inverse: Tensor, weight: Tensor
) -> tuple[Tensor, Tensor]:
    """Gradients of x [T, M] and of the norm's weight [M], fp32."""
    # torch has a fused backward kernel of layer norm but none of RMS norm. With mean 0 it gives the
    # same but for one term, which subtracts the mean of the gradient: that is added again.
    size = [x.shape[-1]]
    zero = torch.zeros_like(inverse)
    grad_x, grad_weight, _ = torch.ops.aten.native_layer_norm_backward(
        grad, x, size, zero, inverse, weight, None, [True, True, False]
    )
    return grad_x.addcmul_(inverse, (grad @ weight)[:, None], value=1 / x.shape[-1]), grad_weight


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary embedding of fp32 x [G, T, r, D] by cos and sin [T, 1, D], whose halves are equal. By
    -sin it is the transpose: the gradient of x."""
    half = x.shape[-1] // 2
    # In place on the halves: transformers' `rotate_half` copies x twice.
    y = x * cos
    y[..., :half].addcmul_(x[..., half:], sin[..., :half], value=-1)
    y[..., half:].addcmul_(x[..., :half], sin[..., half:])
    return y


def _split(rows: Tensor, call: LayerCall) -> Tensor:
    """[T, heads * D] -> a view [G, T, r, D]."""
    return rows.view(rows.shape[0], call.groups, -1, call.size).transpose(0, 1)


def _joined(x: Tensor, dtype: torch.dtype) -> Tensor:
    """[G, T, r, D] -> [T, heads * D]."""
    groups, rows, heads, size = x.shape
    joined = torch.empty(rows, groups * heads * size, dtype=dtype, device=x.device)
    # One pass over memory: transposed and converted together.
    joined.view(rows, groups, heads, size).copy_(x.transpose(0, 1))
    return joined


def _rotated(rows: Tensor, call: LayerCall, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotated heads, [T, heads * D] -> fp32 [G, T * r, D]."""
    return rotate(_split(rows, call).float(), cos, sin).flatten(1, 2)


class _Layer(torch.autograd.Function):
    """Arguments: x, cos, sin, the call, then the fields of `LayerWeights`."""

    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> Tensor:
        saved: dict[str, Any] = {}
        x, cos, sin, ctx.call, *weights = arguments
        y = run(x, cos, sin, ctx.call, LayerWeights(*weights), saved)
        saved_blocks: SavedBlocks = saved.pop("blocks")
        # Tensors go through `save_for_backward` so that autograd frees them after the pass.
        ctx.names = list(saved)
        ctx.save_for_backward(*saved.values(), *saved_blocks.tensors())
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        tensors = list(ctx.saved_tensors)
        saved = dict(zip(ctx.names, tensors, strict=False))
        saved["blocks"] = SavedBlocks.from_tensors(tensors[len(ctx.names) :])
        needed = dict(zip(LayerWeights.__slots__, ctx.needs_input_grad[4:], strict=True))
        grad_x, gradients = run_backward(grads[0], saved, ctx.call, needed)
        return (grad_x, None, None, None, *map(gradients.get, LayerWeights.__slots__))


def layer(x: Tensor, cos: Tensor, sin: Tensor, call: LayerCall, weights: LayerWeights) -> Tensor:
    """One layer on fp32 x [T, M] -> [U, M] in fp32; cos and sin [T, D] rotate each row."""
    with torch.autocast(x.device.type, enabled=False):
        if not torch.is_grad_enabled():
            return run(x, cos, sin, call, weights, None)
        fields = (getattr(weights, name) for name in LayerWeights.__slots__)
        y: Tensor = _Layer.apply(x, cos, sin, call, *fields)
        return y


def run(
    x: Tensor, cos: Tensor, sin: Tensor, call: LayerCall, weights: LayerWeights, saved: Any
) -> Tensor:
    """The forward pass; fills the dict `saved` (or None) with what `run_backward` takes."""
    rows, dtype = call.rows, call.dtype
    w = _cast(weights, dtype)
    n, inverse1 = normalise(x, w.norm1, call.epsilons[0])
    n = n.to(dtype)
    # Keys and values of all rows, queries of those that go on: the last layer's leaves.
    cos, sin = cos[:, None], sin[:, None]
    # With the scores' scale in the queries' rotation: a pass over the queries less.
    scaled = (_rows(cos, rows) * call.scale, _rows(sin, rows) * call.scale)
    query = linear(_rows(n, rows), w.query, w.query_bias)
    query = _rotated(query, call, *scaled).to(dtype)
    key = _rotated(linear(n, w.key, w.key_bias), call, cos, sin).to(dtype)
    value = _split(linear(n, w.value, w.value_bias), call).flatten(1, 2).contiguous()
    mixed, saved_blocks = attend(query, key, value, call.plan, save=saved is not None)
    mixed = _joined(mixed.unflatten(1, (-1, call.heads // call.groups)), dtype)
    h = _plus(linear(mixed, w.output), _rows(x, rows))
    m, inverse2 = normalise(h, w.norm2, call.epsilons[1])
    m = m.to(dtype)
    if saved is None:
        # In chunks, so that the wide middle of the feed-forward pass stays in the cache.
        chunks = []
        for chunk in m.split(CHUNK):
            active = silu(linear(chunk, w.gate), inplace=True).mul_(linear(chunk, w.up))
            chunks.append(linear(active, w.down))
        return _plus(torch.cat(chunks), h)
    gate, up = linear(m, w.gate), linear(m, w.up)
    active = silu(gate)
    wide = active * up
    saved.update(
        x=x, n=n, inverse1=inverse1, cos=cos, sin=sin, query=query, key=key, value=value,
        mixed=mixed, h=h, m=m, inverse2=inverse2, gate=gate, up=up, active=active, wide=wide,
        **{f"w.{name}": getattr(w, name) for name in LayerWeights.__slots__}, blocks=saved_blocks,
    )  # fmt: skip
    return _plus(linear(wide, w.down), h)


def _plus(y: Tensor, residual: Tensor) -> Tensor:
    if y.dtype == residual.dtype:
        return y.add_(residual)
    return y.add(residual)


def _rows(x: Tensor, rows: Tensor | None) -> Tensor:
    """The rows that go on: all of them where `rows` is None."""
    return x if rows is None else x[rows]


def _cast(weights: LayerWeights, dtype: torch.dtype) -> LayerWeights:
    """Matrices and biases in the precision of the products, norms in fp32."""
    fields: Any = {}
    for name in LayerWeights.__slots__:
        weight = getattr(weights, name)
        precision = torch.float32 if name.startswith("norm") else dtype
        fields[name] = None if weight is None else weight.to(precision)
    return LayerWeights(**fields)


def run_backward(
    grad: Tensor, saved: dict[str, Any], call: LayerCall, needed: dict[str, bool]
) -> tuple[Tensor, dict[str, Tensor]]:
    """Gradients of x [T, M] and of the weights that are `needed`, fp32, from `grad` [U, M]."""
    rows, dtype = call.rows, call.dtype
    gradients: dict[str, Tensor] = {}

    def add(name: str, outer: Tensor, inner: Tensor) -> None:
        if needed[name]:
            gradients[name] = transposed_product(outer, inner).float()

    grad_h, gradients["norm2"] = _feed_forward_backward(grad, saved, dtype, add)
    low = grad_h.to(dtype)
    add("output", low, saved["mixed"])
    grad_mixed = _split(product(low, saved["w.output"]), call).flatten(1, 2)
    if saved["blocks"].out is not None:  # blocks are merged in fp32
        grad_mixed = grad_mixed.float()
    grad_query, grad_key, grad_value = attend_backward(
        grad_mixed, saved["query"], saved["key"], saved["value"], call.plan, saved["blocks"]
    )
    cos, back, n = saved["cos"], -saved["sin"], saved["n"]
    scaled = (_rows(cos, rows) * call.scale, _rows(back, rows) * call.scale)
    grad_query = grad_query.unflatten(1, (-1, call.heads // call.groups))
    query = _joined(rotate(grad_query, *scaled), dtype)
    key = _joined(rotate(grad_key[:, :, None], cos, back), dtype)
    value = _joined(grad_value[:, :, None], dtype)
    add("query", query, _rows(n, rows))
    add("key", key, n)
    add("value", value, n)
    for name, outer in (("query_bias", query), ("key_bias", key), ("value_bias", value)):
        if needed[name]:
            gradients[name] = outer.sum(0, dtype=torch.float32)
    # Three gradients of n add up in fp32, as autograd would add those of three modules.
    grad_n = product(key, saved["w.key"]).float()
    grad_n += product(value, saved["w.value"])
    _add(grad_n, product(query, saved["w.query"]), rows)
    x, inverse = saved["x"], saved["inverse1"]
    grad_x, gradients["norm1"] = normalise_backward(grad_n, x, inverse, saved["w.norm1"])
    _add(grad_x, grad_h, rows)
    return grad_x, gradients


def _add(total: Tensor, values: Tensor, rows: Tensor | None) -> None:
    if rows is None:
        total += values
    else:
        total.index_add_(0, rows, values.float())


def _feed_forward_backward(
    grad: Tensor, saved: dict[str, Any], dtype: torch.dtype, add: AddGradient
) -> tuple[Tensor, Tensor]:
    """Gradients of h [U, M] and of norm2's weight; the matrices' go to `add`."""
    gate, up, active, m = saved["gate"], saved["up"], saved["active"], saved["m"]
    low = grad.to(dtype)
    add("down", low, saved["wide"])
    wide = product(low, saved["w.down"])
    grad_up = wide * active
    grad_gate = torch.ops.aten.silu_backward(wide.mul_(up), gate)
    add("gate", grad_gate, m)
    add("up", grad_up, m)
    grad_m = product(grad_gate, saved["w.gate"]).float()
    grad_m += product(grad_up, saved["w.up"])
    grad_h, norm2 = normalise_backward(grad_m, saved["h"], saved["inverse2"], saved["w.norm2"])
    return grad_h.add_(grad), norm2
