"""Where smorm's training step spends its time:

    python -m bench.profile --precision bf16 [--model reference|small] [--steps N]

The step is the product's (`bench.smorm_run`) on multi-turn pairs, 8 a batch, one thread. Operators'
self time comes from `torch.profiler` and is grouped: the matrix products of linear layers, with
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

from bench.gemm_share import DTYPES, step_flops
from bench.gemm_share import peak as matmul_peak
from bench.measure import pin
from bench.smorm_run import MODELS, SmormRun, run_config, start_smorm
from bench.texts import hh_pairs, write_preferences
from smorm.training.setup import prepare
from smorm.training.step import run_step

MATMUL = ("mm", "addmm", "linear", "matmul", "_linear_pointwise", "mkldnn_linear", "_mkl_linear")
COPIES = ("copy_", "clone", "_to_copy", "contiguous", "to", "cat", "_cat")
GATHER = ("embedding", "embedding_dense_backward", "index_select", "index_add_", "index")
_GROUPS = {"matrix products": MATMUL, "casts and copies": COPIES, "gathering": GATHER}
_RANGES = ("clip", "zero_grad", "Optimizer.")


@dataclass(slots=True)
class Group:
    """Time of one group in microseconds of CPU, its operators' calls and times."""

    total: float = 0.0
    calls: int = 0
    operators: Counter[str] = field(default_factory=Counter)


def group_of(event: Any) -> str:
    """The group of one profiled operator, by what encloses it and then by its name.

    Linear layers multiply two matrices; products of batches of matrices are attention's."""
    enclosing = event
    # What encloses an operator decides first: the optimizer and attention use all kinds of them.
    while enclosing is not None:
        name = enclosing.name
        if name.startswith(_RANGES):
            return "optimizer"
        if "flash" in name.lower() or "ttention" in name or name == "aten::bmm":
            return "attention"
        enclosing = enclosing.cpu_parent
    short = event.name.rpartition("::")[2]
    for group, names in _GROUPS.items():
        if short in names:
            return group
    if event.name.startswith("step"):
        return "python"
    return "elementwise and other"


def profile_steps(run: SmormRun, steps: int) -> tuple[dict[str, Group], float]:
    """Groups of `steps` steps, and their CPU seconds under the profiler."""
    parameters = list(run.named.values())
    limit = run.prepared.config.training.max_grad_norm
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        started = time.process_time()
        for _ in range(steps):
            with record_function("step"):
                run.optimizer.zero_grad(set_to_none=True)
                run_step(run.prepared, run.method, run.done)
                with record_function("clip"):
                    torch.nn.utils.clip_grad_norm_(parameters, limit)
                run.optimizer.step()
                run.done += 1
        seconds = time.process_time() - started
    groups: dict[str, Group] = {}
    for event in profiler.events() or []:
        group = groups.setdefault(group_of(event), Group())
        # self time: what an operator calls is counted in its own group
        group.total += event.self_cpu_time_total
        group.calls += 1
        group.operators[event.name] += event.self_cpu_time_total
    return groups, seconds


def planning_seconds(run: SmormRun, steps: int) -> float:
    """CPU seconds of splitting and packing `steps` steps, without any computing."""
    started = time.process_time()
    for step in range(steps):
        for _ in run.prepared.batches(step):
            pass
    return time.process_time() - started


def table(run: SmormRun, steps: int) -> list[str]:
    """The lines to print."""
    precision = run.prepared.config.training.precision
    peak = matmul_peak(DTYPES[precision])
    first = run.done
    run.step()  # warms up
    # The same steps without the profiler: it slows small operators more than large ones.
    run.done, started = first, time.process_time()
    tokens = sum(run.step().positions for _ in range(steps))
    seconds = time.process_time() - started
    run.done = first
    groups, profiled_seconds = profile_steps(run, steps)
    rate, source = step_flops(run)
    planning = planning_seconds(run, steps)
    profiled = sum(group.total for group in groups.values())
    scale = seconds * 1e6 / profiled
    # The profiler's shares of the seconds without it: its own cost is taken out.
    for group in groups.values():
        group.total *= scale
    # What no operator accounts for contains the planning, which is measured separately.
    python = groups.pop("python", Group())
    python.total -= planning * 1e6
    groups |= {"planning": Group(planning * 1e6, steps), "Python, the rest": python}
    lines = [
        f"{precision}, {steps} steps, {tokens / steps:.0f} tokens a step: {seconds / steps:.3f} "
        f"CPU-s a step ({profiled_seconds / steps:.3f} under the profiler)",
        f"{'group':24s}{'share':>8s}{'CPU-ms a step':>16s}{'calls':>8s}",
    ]
    for name, group in sorted(groups.items(), key=lambda item: -item[1].total):
        share, milliseconds = group.total / (seconds * 1e6), group.total / 1e3 / steps
        lines.append(f"{name:24s}{share:8.1%}{milliseconds:16.1f}{group.calls:8d}")
        for operator, microseconds in group.operators.most_common(6):
            share = microseconds / profiled
            if share > 0.004:
                milliseconds = microseconds * scale / 1e3 / steps
                lines.append(f"    {operator:38s}{share:6.1%}{milliseconds:10.1f}")
    products = groups.get("matrix products", Group()).total / 1e6
    within, over = rate * tokens / max(products, 1e-9), rate * tokens / seconds
    lines.append(
        f"matrix products alone {within / 1e9:.0f} GF/s = {within / peak:.0%} of the measured peak "
        f"({peak / 1e9:.0f} GF/s); over the whole step {over / 1e9:.0f} GF/s = {over / peak:.0%}; "
        f"FLOPs {source}"
    )
    return lines


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="python -m bench.profile", description=__doc__)
    parser.add_argument("--precision", choices=("bf16", "fp32"), default="bf16")
    parser.add_argument("--model", choices=tuple(MODELS), default="reference")
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--data", type=Path, default=None)
    options = parser.parse_args(arguments)
    pin(1)
    with TemporaryDirectory() as name:
        folder = Path(name)
        pairs = write_preferences(hh_pairs(options.data).records, folder / "pairs.jsonl")
        config = run_config(options.model, folder, pairs, precision=options.precision)
        lines = table(start_smorm(prepare(config)), options.steps)
    print("\n".join(lines))
    return 0


if __name__ == "__main__":
    sys.exit(main())
