"""Matrix products on the CPU, by the faster of torch's own libraries.

Layers that run as transformers has them (other families than the fused ones, or with adapters) get
the same products through `use_fast_linears`: the modules stay what they are, an instance's
`forward` is set and taken away. Shapes: M rows, N outputs, K inputs."""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


@functools.cache
def onednn_wins() -> bool:
    """Whether fp32 products go to oneDNN: AVX-512 on a processor that is not Intel's."""
    # In fp32 torch multiplies with MKL, which uses no more than AVX2 on processors that Intel did
    # not make. oneDNN, which torch ships as well, uses AVX-512 there: twice as fast, in the same
    # precision (only the order of summation differs). In bf16 torch uses oneDNN by itself.
    # Decided by the processor and not by a stopwatch, so that two runs never differ.
    if not torch.backends.mkldnn.is_available() or not torch.backends.mkl.is_available():
        return False
    if "AVX512" not in torch.backends.cpu.get_cpu_capability():
        return False
    try:
        description = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return False
    return "GenuineIntel" not in description and hasattr(torch.ops.mkldnn, "_linear_pointwise")


def _use_onednn(x: Tensor) -> bool:
    return x.dtype == torch.float32 and x.device.type == "cpu" and onednn_wins()


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x [..., K] times weight [N, K] transposed, plus bias [N] -> [..., N]."""
    if _use_onednn(x):
        y: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
        return y
    return nn.functional.linear(x, weight, bias)


def product(a: Tensor, weight: Tensor) -> Tensor:
    """a [M, N] times weight [N, K] -> [M, K]: the gradient of a linear layer's input."""
    if _use_onednn(a):
        return linear(a, weight.t())
    return a @ weight


def transposed_product(a: Tensor, x: Tensor) -> Tensor:
    """a [M, N] transposed times x [M, K] -> [N, K]: the gradient of a linear layer's weight."""
    if _use_onednn(a):
        return linear(a.t(), x.t())
    return a.t() @ x


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        # The input is kept for the weight's gradient alone: a frozen layer keeps nothing.
        needs_weight = ctx.needs_input_grad[1]
        ctx.save_for_backward(x if needs_weight else None, weight)
        return linear(x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        needs_x, needs_weight, needs_bias = ctx.needs_input_grad
        flat = grad.reshape(-1, grad.shape[-1])
        grad_x = grad_weight = grad_bias = None
        if needs_x:
            grad_x = product(flat, weight).reshape(*grad.shape[:-1], -1)
        if needs_weight:
            grad_weight = transposed_product(flat, x.reshape(-1, x.shape[-1]))
        if needs_bias:
            grad_bias = flat.sum(0)
        return grad_x, grad_weight, grad_bias


class InstanceForward:
    """Calls `function(module, ...)`; a copy of the module runs the copy's weights."""

    def __init__(self, function: Callable[..., Any], module: nn.Module) -> None:
        self.function = function
        # A bound method in the module's own dictionary would be a reference cycle: the weights of a
        # model that is no longer used would stay in memory until the garbage collector runs.
        self._module = weakref.ref(module)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.function(self._module(), *args, **kwargs)

    def __deepcopy__(self, memo: dict[int, Any]) -> InstanceForward:
        module: Any = self._module()
        # The memo has the module's copy where the module is what is being copied.
        return InstanceForward(self.function, memo.get(id(module), module))


def set_forward(module: nn.Module, function: Callable[..., Any]) -> None:
    """Let this instance run `function(module, ...)`."""
    module.__dict__["forward"] = InstanceForward(function, module)


def forward_of(module: nn.Module) -> Callable[..., Any] | None:
    """What `set_forward` set, or somebody else's forward; None where the class's own runs."""
    forward: Callable[..., Any] | None = module.__dict__.get("forward")
    return forward.function if isinstance(forward, InstanceForward) else forward


def _fast_forward(self: Any, x: Tensor) -> Tensor:
    """`nn.Linear.forward`: x [..., K] -> [..., N]."""
    if self.weight.dtype != torch.float32 or torch.is_autocast_enabled("cpu") or not _use_onednn(x):
        return nn.Linear.forward(self, x)
    if not torch.is_grad_enabled():
        return linear(x, self.weight, self.bias)
    y: Tensor = _Linear.apply(x, self.weight, self.bias)
    return y


def use_fast_linears(backbone: nn.Module) -> None:
    """Let the plain linear modules of a backbone use the faster library where there is one."""
    for module in backbone.modules():
        # The exact type: a subclass (quantised, or an adapter) may compute something else.
        if type(module) is nn.Linear and forward_of(module) is None:
            set_forward(module, _fast_forward)


def use_plain_linears(backbone: nn.Module) -> None:
    """Undo `use_fast_linears`; a forward that somebody else has set stays."""
    for module in backbone.modules():
        if forward_of(module) is _fast_forward:
            del module.__dict__["forward"]
