"""Where smorm's training step spends its time:

    python -m bench.profile --precision bf16 [--model reference|small] [--steps N]

The step is the product's own (`bench.ours`) on multi-turn pairs, 8 a batch, one thread. Operators'
own time comes from `torch.profiler` and is grouped: the matrix products of linear layers, with
their rate and its share of the measured peak; attention; casts and copies; other elementwise work;
gathering of embeddings and leaves; clipping and optimizer; what no operator accounts for is Python
and planning. The profiler's times are wall times and hold its own cost, so only their shares are
taken: milliseconds are these shares of the CPU seconds that the same steps took without it.
Planning (splitting into micro-batches and packing forests) is timed by itself in a pass of its own.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile, record_function

from bench.flops import peak as fastest
from bench.flops import step_flops
from bench.measure import pin
from bench.ours import MODELS, Ours, begin, config_of
from bench.workloads import pairs_file
from smorm.training.setup import prepare
from smorm.training.step import run_step

MATMUL = ("mm", "addmm", "linear", "matmul", "_linear_pointwise", "mkldnn_linear", "_mkl_linear")
COPIES = ("copy_", "clone", "_to_copy", "contiguous", "to", "cat", "_cat")
GATHER = ("embedding", "embedding_dense_backward", "index_select", "index_add_", "index")
_RANGES = {"clip": "optimizer", "zero_grad": "optimizer", "Optimizer.": "optimizer"}


@dataclass(slots=True)
class Share:
    """Time of one group, microseconds of CPU, and its operators' parts."""

    total: float = 0.0
    calls: int = 0
    operators: Counter[str] = field(default_factory=Counter)


def group_of(event: Any) -> str:
    """The group of one profiled operator, by what encloses it and then by its name.

    Linear layers multiply two matrices; products of batches of matrices are attention's.
    """
    enclosing = event
    while enclosing is not None:
        name = enclosing.name
        for prefix, group in _RANGES.items():
            if name.startswith(prefix):
                return group
        if "Flash" in name or "flash" in name or "ttention" in name or name == "aten::bmm":
            return "attention"
        enclosing = enclosing.cpu_parent
    short = event.name.rpartition("::")[2]
    if short in MATMUL:
        return "matrix products"
    if short in COPIES:
        return "casts and copies"
    if short in GATHER:
        return "gathering"
    if event.name.startswith("step"):
        return "python"
    return "elementwise and other"


def profiled(ours: Ours, steps: int) -> tuple[dict[str, Share], float]:
    """Groups of `steps` steps, and their CPU seconds under the profiler."""
    names = list(ours.named.values())
    with profile(activities=[ProfilerActivity.CPU]) as found:
        started = time.process_time()
        for _ in range(steps):
            with record_function("step"):
                ours.optimizer.zero_grad(set_to_none=True)
                run_step(ours.prepared, ours.method, ours.done)
                with record_function("clip"):
                    limit = ours.prepared.config.training.max_grad_norm
                    torch.nn.utils.clip_grad_norm_(names, limit)
                ours.optimizer.step()
                ours.done += 1
        seconds = time.process_time() - started
    return grouped(found.events()), seconds


def grouped(events: Any) -> dict[str, Share]:
    """Own time of every operator under its group."""
    shares: dict[str, Share] = {}
    for event in events:
        share = shares.setdefault(group_of(event), Share())
        share.total += event.self_cpu_time_total
        share.calls += 1
        share.operators[event.name] += event.self_cpu_time_total
    return shares


def planning_seconds(ours: Ours, steps: int) -> float:
    """CPU seconds of splitting and packing `steps` steps, without any computing."""
    started = time.process_time()
    batches = ours.prepared.batches
    for step in range(steps):
        for _ in batches(step):
            pass
    return time.process_time() - started


def table(ours: Ours, steps: int) -> list[str]:
    """The lines to print."""
    precision = ours.prepared.config.training.precision
    peak = fastest(torch.bfloat16 if precision == "bf16" else torch.float32)
    first = ours.done
    ours.step()  # warms up
    ours.done, started = first, time.process_time()
    tokens = sum(ours.step().tokens for _ in range(steps))
    plain = time.process_time() - started
    ours.done = first
    shares, seconds = profiled(ours, steps)
    rate, found_by = step_flops(ours)
    planning = planning_seconds(ours, steps)
    python = shares.pop("python", Share())
    whole = python.total + sum(share.total for share in shares.values())
    scale = plain * 1e6 / whole
    for share in (python, *shares.values()):
        share.total *= scale
    python.total -= planning * 1e6
    shares |= {"planning": Share(planning * 1e6, steps), "Python, the rest": python}
    lines = [
        f"{precision}, {steps} steps, {tokens / steps:.0f} tokens a step: "
        f"{plain / steps:.3f} CPU-s a step ({seconds / steps:.3f} under the profiler)",
        f"{'group':24s}{'share':>8s}{'CPU-ms a step':>16s}{'calls':>8s}",
    ]
    for name, share in sorted(shares.items(), key=lambda item: -item[1].total):
        part = share.total / (plain * 1e6)
        lines.append(f"{name:24s}{part:8.1%}{share.total / 1e3 / steps:16.1f}{share.calls:8d}")
        for operator, time_ in share.operators.most_common(6):
            if time_ > 0.004 * whole:
                lines.append(
                    f"    {operator:38s}{time_ / whole:6.1%}{time_ * scale / 1e3 / steps:10.1f}"
                )
    matmul = shares.get("matrix products", Share())
    lines += rates(rate * tokens, found_by, matmul.total / 1e6, plain, peak)
    return lines


def rates(
    flops: float, found_by: str, matmul_seconds: float, step_seconds: float, peak: float
) -> list[str]:
    """What the matrix products reach, alone and over the whole step."""
    within = flops / max(matmul_seconds, 1e-9)
    over = flops / step_seconds
    return [
        f"matrix products alone {within / 1e9:.0f} GF/s = {within / peak:.0%} of the measured peak "
        f"({peak / 1e9:.0f} GF/s); over the whole step {over / 1e9:.0f} GF/s = {over / peak:.0%}; "
        f"FLOPs {found_by}",
    ]


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="python -m bench.profile", description=__doc__)
    parser.add_argument("--precision", choices=("bf16", "fp32"), default="bf16")
    parser.add_argument("--model", choices=tuple(MODELS), default="reference")
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--data", type=Path, default=None)
    options = parser.parse_args(arguments)
    pin(1)
    with TemporaryDirectory() as folder:
        pairs = pairs_file(options.data, Path(folder))
        config = config_of(options.model, Path(folder), pairs, precision=options.precision)
        lines = table(begin(prepare(config)), options.steps)
    sys.stdout.write("\n".join(lines) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
