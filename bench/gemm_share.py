"""smorm's training step as a share of the machine's matrix multiply; `bench.flops` defines it."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any

import torch

from bench import batching, results
from bench.apart import Apart, Facts
from bench.flops import attention_flops, peak, step_flops
from bench.measure import Arm, Ratio, interleave
from bench.ours import Batch
from bench.sides import Plan, our_side
from smorm.training.setup import Prepared
from smorm.trees.forest import grow

DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}


def gemm_shares(
    runs: dict[str, Prepared], plan: Plan, peaks: dict[str, float]
) -> tuple[dict[str, Ratio], dict[str, Any]]:
    """Shares of the peak that training steps reach, by round, and what they mean.

    Args:
        runs: a new run for each precision, on the same data.
        peaks: FLOPs a CPU second measured before; those measured after the rounds replace them
            where they are higher.
    """
    batches = batching.random_batches(runs["bf16"])[: plan.steps]
    rates, detail = {}, {}
    with ExitStack() as stack:
        arms = []
        for precision, prepared in runs.items():
            side, own = our_side(prepared, batches)
            rates[precision], how = step_flops(own)
            detail[precision] = {"flops_a_token": rates[precision], "found_by": how}
            arm = side.arm(plan)
            arms.append(stack.enter_context(Apart(precision, _built(arm))))
        timings = interleave([one.arm() for one in arms], plan.rounds, warmup=plan.warmup)
        for one in arms:
            one.finish()
    shares = {}
    for precision, dtype in DTYPES.items():
        timing, top = timings[precision], max(peaks[precision], peak(dtype))
        peaks[precision] = top
        flops = [rates[precision] * tokens for tokens in timing.tokens]
        shares[f"gemm_share_{precision}"] = _share(flops, timing.cpu, timing.wall, top)
        attention = _attention(runs[precision], batches)
        detail[precision] |= results.arm_facts(timing) | {
            "peak": top,
            "share_with_attention": shares[f"gemm_share_{precision}"].median
            * (1 + attention / rates[precision]),
        }
    return shares, detail


def _built(arm: Arm) -> Callable[[], tuple[Arm, Facts]]:
    return lambda: (arm, dict)


def _attention(prepared: Prepared, batches: Sequence[Batch]) -> float:
    """FLOPs of attention's products for each computed token."""
    forests = [grow([s for i in pairs for s in _sides(prepared, int(i))]) for pairs, _ in batches]
    tokens = sum(forest.num_tokens for forest in forests)
    return attention_flops(prepared.network, forests) / tokens


def _sides(prepared: Prepared, pair: int) -> tuple[Any, Any]:
    one = prepared.train.pairs[pair]
    return one.chosen, one.rejected


def _share(
    flops: Sequence[float], cpu: Sequence[float], wall: Sequence[float], top: float
) -> Ratio:
    shares = [work / seconds / top for work, seconds in zip(flops, cpu, strict=True)]
    walls = [work / seconds / top for work, seconds in zip(flops, wall, strict=True)]
    return Ratio(
        statistics.median(shares), min(shares), max(shares), len(shares),
        sum(flops) / sum(cpu) / top, statistics.median(walls),
    )  # fmt: skip
