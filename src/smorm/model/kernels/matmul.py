"""Matrix products on the CPU, by the fastest of torch's own libraries.

In fp32 torch multiplies with MKL, which keeps to AVX2 on processors that Intel did not make.
oneDNN, which torch brings along as well, uses AVX-512 there: twice as fast, in the same precision
(the order of summation differs, nothing else). In bf16 torch uses oneDNN by itself.

Shapes: M rows, N outputs, K inputs.
"""

from __future__ import annotations

import functools
from pathlib import Path

import torch


@functools.cache
def onednn_wins() -> bool:
    """Whether fp32 products go to oneDNN: AVX-512 on a processor that MKL treats as a stranger.

    Decided by the processor and not by a stopwatch, so that two runs never differ.
    """
    if not torch.backends.mkldnn.is_available() or not torch.backends.mkl.is_available():
        return False
    if "AVX512" not in torch.backends.cpu.get_cpu_capability():
        return False
    try:
        described = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return False
    return "GenuineIntel" not in described and hasattr(torch.ops.mkldnn, "_linear_pointwise")


def linear(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """x [..., K] times weight [N, K] transposed, plus bias [N] -> [..., N]."""
    if x.dtype == torch.float32 and x.device.type == "cpu" and onednn_wins():
        product: torch.Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
        return product
    return torch.nn.functional.linear(x, weight, bias)


def product(a: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """a [M, N] times weight [N, K] -> [M, K]: the gradient of a linear layer's input."""
    if a.dtype == torch.float32 and a.device.type == "cpu" and onednn_wins():
        return linear(a, weight.t())
    return a @ weight


def transposed_product(a: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """a [M, N] transposed times x [M, K] -> [N, K]: the gradient of a linear layer's weight."""
    if a.dtype == torch.float32 and a.device.type == "cpu" and onednn_wins():
        return linear(a.t(), x.t())
    return a.t() @ x
