"""What the figures were taken on: the processor, the versions, and its matrix-multiply peak."""

from __future__ import annotations

import math
import os
import platform
import statistics
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

_PACKAGES = ("torch", "transformers", "trl", "smorm")
_FLAGS = ("avx2", "avx512f", "avx512_bf16", "amx_bf16", "avx512_vnni")
# The shapes of transformer layers of 512 to 1024 wide: what is measured is what is used.
_WIDTHS = ((512, 512), (512, 1408), (1408, 512), (512, 2816), (1024, 2816), (2816, 1024))
_ROWS = (512, 1024, 2048)
_LARGEST = 2048 * 512 * 1408  # larger ones take seconds and are no faster


def describe() -> dict[str, Any]:
    """Processor, versions and load at the start; no host names and no paths."""
    model, flags = _processor()
    return {
        "cpu": model,
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None,
        "flags": [flag for flag in _FLAGS if flag in flags],
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in _PACKAGES},
        "threads": torch.get_num_threads(),
        "omp_wait_policy": os.environ.get("OMP_WAIT_POLICY"),
        "load_at_start": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
    }


def matmul_peak(dtype: torch.dtype, *, repeats: int = 5, seconds: float = 0.03) -> float:
    """FLOP per CPU second of ``F.linear`` at its best shape, with torch's present threads.

    For every shape (K and N from 512 to 2816, M from 512 to 2048) the median of ``repeats``
    timings of at least ``seconds`` each; the largest of these medians is the peak. CPU seconds
    count every thread, so the figure is per core used.
    """
    shapes = [(rows, *width) for rows in _ROWS for width in _WIDTHS]
    shapes = [shape for shape in shapes if math.prod(shape) <= _LARGEST]
    return max(_speed(shape, dtype, repeats, seconds) for shape in shapes)


def _speed(shape: tuple[int, int, int], dtype: torch.dtype, repeats: int, seconds: float) -> float:
    rows, inner, outer = shape
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(rows, inner, generator=draw).to(dtype)
    weight = torch.randn(outer, inner, generator=draw).to(dtype)
    flops = 2.0 * rows * inner * outer
    with torch.inference_mode():
        once = _seconds(x, weight, 1)
        calls = max(1, int(seconds / max(_seconds(x, weight, 1), once * 0.1, 1e-6)))
        times = [_seconds(x, weight, calls) / calls for _ in range(repeats)]
    return flops / statistics.median(times)


def _seconds(x: torch.Tensor, weight: torch.Tensor, calls: int) -> float:
    start = time.process_time()
    for _ in range(calls):
        torch.nn.functional.linear(x, weight)
    return time.process_time() - start


def _processor() -> tuple[str, set[str]]:
    """The processor's name and flags, from /proc/cpuinfo where there is one."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine(), set()
    fields: dict[str, str] = {}
    for line in lines:
        key, _, value = line.partition(":")
        fields.setdefault(key.strip(), value.strip())
    return fields.get("model name", platform.machine()), set(fields.get("flags", "").split())


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
