"""Linear layers that go to the faster library in fp32 on the CPU (`smorm.model.kernels.matmul`).

For layers that run as transformers has them: of other families, or with adapters. The modules stay
what they are; an instance's `forward` is set and taken away again.

Shapes: N outputs, K inputs.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.autograd.function import once_differentiable

from smorm.model.instance_forward import forward_of, set_forward
from smorm.model.kernels import matmul


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None
    ) -> torch.Tensor:
        # The input is kept for the weight's gradient alone: a frozen layer keeps nothing.
        ctx.save_for_backward(x if ctx.needs_input_grad[1] else None, weight)
        return matmul.linear(x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        wanted = ctx.needs_input_grad
        flat = grad.reshape(-1, grad.shape[-1])
        grad_x = grad_weight = grad_bias = None
        if wanted[0]:
            grad_x = matmul.product(flat, weight).reshape(*grad.shape[:-1], -1)
        if wanted[1]:
            grad_weight = matmul.transposed_product(flat, x.reshape(-1, x.shape[-1]))
        if wanted[2]:
            grad_bias = flat.sum(0)
        return grad_x, grad_weight, grad_bias


def _forward(self: Any, x: torch.Tensor) -> torch.Tensor:
    """nn.Linear's forward: x [..., K] -> [..., N]."""
    single = x.dtype == self.weight.dtype == torch.float32 and x.device.type == "cpu"
    if not single or torch.is_autocast_enabled("cpu") or not matmul.onednn_wins():
        return nn.Linear.forward(self, x)
    if not torch.is_grad_enabled():
        return matmul.linear(x, self.weight, self.bias)
    y: torch.Tensor = _Linear.apply(x, self.weight, self.bias)
    return y


def install(backbone: nn.Module) -> None:
    """Let the plain linear modules of a backbone use the faster library where there is one."""
    for module in backbone.modules():
        if type(module) is nn.Linear and forward_of(module) is None:
            set_forward(module, _forward)


def remove(backbone: nn.Module) -> None:
    """Undo `install`; what others have set stays."""
    for module in backbone.modules():
        if forward_of(module) is _forward:
            del module.__dict__["forward"]
