"""smorm's training step as a share of the machine's matrix multiply.

`gemm_share` = FLOPs of the linear layers' products, forward and backward, for the tokens that were
computed / CPU seconds of the whole step / FLOPs a CPU second of this machine's matrix multiply at
its best shape, same precision, same run. Everything that a step does is in its seconds (planning,
attention, norms, clipping, optimizer, Python); attention's own products are counted separately and
the share is given with and without them. Rows that last-layer pruning skips are not counted."""

from __future__ import annotations

import itertools
import math
import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from bench.batching import random_batches, sequences_of
from bench.forked_arm import ForkedArm, Report
from bench.measure import Arm, Ratio, interleave
from bench.results import arm_facts
from bench.smorm_run import Plan, SmormRun, start_smorm, stepped_arm
from smorm.model.network import RewardNetwork
from smorm.training.setup import Prepared
from smorm.trees.forest import Forest, grow

DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}
_PRODUCTS = ("mm", "addmm", "linear", "_linear_pointwise")  # attention uses `bmm`
# Shapes (rows, inner, outer) of transformer layers of 512 to 1024 wide: the peak is measured where
# models compute. Larger products than this take seconds and are no faster.
_ROWS = (512, 1024, 2048)
_WIDTHS = ((512, 512), (512, 1408), (1408, 512), (512, 2816), (1024, 2816), (2816, 1024))
_LARGEST = 2048 * 512 * 1408
_ONEDNN_SHAPES = ((1024, 512, 1408), (2048, 512, 1408), (2048, 1408, 512), (2048, 1024, 2816))

Product = Callable[[torch.Tensor, torch.Tensor], Any]


def peak(dtype: torch.dtype, *, repeats: int = 5, seconds: float = 0.03) -> float:
    """FLOPs a CPU second of the fastest matrix multiply that torch brings along.

    For every shape (K and N from 512 to 2816, M from 512 to 2048) the median of ``repeats`` timings
    of at least ``seconds`` each; the largest of these medians is the peak. CPU seconds count every
    thread, so the figure is per core used."""
    linear = torch.nn.functional.linear
    speeds = []
    for rows, (inner, outer) in itertools.product(_ROWS, _WIDTHS):
        if rows * inner * outer <= _LARGEST:
            speeds.append(_speed(linear, (rows, inner, outer), dtype, repeats, seconds))
    # torch's own choice in fp32 (MKL) is not always the fastest one. A share is of the fastest,
    # whichever a program uses.
    onednn = _onednn_product()
    if dtype == torch.float32 and onednn is not None and torch.backends.mkldnn.is_available():
        for shape in _ONEDNN_SHAPES:
            speed = _speed(_onednn_linear, shape, dtype, repeats, seconds)
            speeds.append(speed)
    return max(speeds)


def _onednn_product() -> Any:
    return getattr(torch.ops.mkldnn, "_linear_pointwise", None)


def _onednn_linear(x: torch.Tensor, weight: torch.Tensor) -> Any:
    return torch.ops.mkldnn._linear_pointwise(x, weight, None, "none", [], "")


def _speed(
    product: Product, shape: tuple[int, int, int], dtype: torch.dtype, repeats: int, seconds: float
) -> float:
    rows, inner, outer = shape
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(rows, inner, generator=draw).to(dtype)
    weight = torch.randn(outer, inner, generator=draw).to(dtype)
    with torch.inference_mode():
        # The first call packs the weight and is no measure of the next ones.
        warmup = _seconds(product, x, weight, 1)
        once = max(_seconds(product, x, weight, 1), warmup * 0.1, 1e-6)
        calls = max(1, int(seconds / once))
        times = [_seconds(product, x, weight, calls) / calls for _ in range(repeats)]
    return 2.0 * math.prod(shape) / statistics.median(times)


def _seconds(product: Product, x: torch.Tensor, weight: torch.Tensor, calls: int) -> float:
    start = time.process_time()
    for _ in range(calls):
        product(x, weight)
    return time.process_time() - start


def count_flops(work: Callable[[], Any]) -> float:
    """FLOPs of the linear layers' products that `work` really runs, forward and backward."""
    mapping: dict[Any, Any] = {}
    if _onednn_product() is not None:
        # torch's counter does not know the oneDNN operator
        mapping[_onednn_product()] = _linear_flops
    counter = FlopCounterMode(display=False, custom_mapping=mapping)
    with counter:
        work()
    flops = 0.0
    for operator, count in counter.get_flop_counts().get("Global", {}).items():
        if str(operator).rpartition(".")[2] in _PRODUCTS:
            flops += count
    return flops


def _linear_flops(x: Any, weight: Any, *_: Any, out_shape: Any = None, **__: Any) -> int:
    return int(2 * math.prod(x[:-1]) * weight[0] * weight[1])


def linear_weights(network: RewardNetwork) -> int:
    """Weights of the backbone's linear layers: a row's forward pass takes twice as many FLOPs."""
    weights = 0
    for module in network.backbone.modules():
        if isinstance(module, torch.nn.Linear):
            weights += module.weight.numel()
    return weights


def step_flops(run: SmormRun) -> tuple[float, str]:
    """FLOPs per computed token of the run's next step, and how they were determined.

    The step is taken and the run set back to before it (its weights have moved). The counter sees
    torch's own operators; where a kernel hides its products from it, the count is too low to be
    true and the least possible one is taken instead: all layers but the last."""
    positions: list[int] = []
    flops = count_flops(lambda: positions.append(run.step().positions))
    run.done -= 1
    return plausible_flops(run.prepared.network, flops / positions[0])


def plausible_flops(network: RewardNetwork, counted: float) -> tuple[float, str]:
    """The rate that was counted if it can be true, else the least possible one."""
    layers = network.backbone.config.get_text_config().num_hidden_layers
    most = 6.0 * linear_weights(network)
    # last-layer pruning may skip nearly every row of one layer
    least = most * (layers - 1) / layers
    if least <= counted <= 1.01 * most:
        return counted, "counted"
    return least, f"formula: all layers but the last (the counter saw {counted / most:.0%})"


def attention_flops(network: RewardNetwork, forests: Sequence[Forest]) -> float:
    """FLOPs of attention's own products, 2 forward and 4 backward, as if no layer were pruned."""
    config = network.backbone.config.get_text_config()
    head_dim = getattr(config, "head_dim", None)
    width = config.num_attention_heads * (
        head_dim or config.hidden_size // config.num_attention_heads
    )
    # Pairs of positions: a chain attends to itself causally, a rectangle to all of its ancestors.
    attended = 0.0
    for forest in forests:
        for first, last in forest.chains:
            attended += (last - first) * (last - first + 1) / 2
        for top, bottom, first, last in forest.rectangles:
            attended += (bottom - top) * (last - first)
    return attended * 2.0 * 6 * int(width) * int(config.num_hidden_layers)


def gemm_shares(
    runs: dict[str, Prepared], plan: Plan, peaks: dict[str, float]
) -> tuple[dict[str, Ratio], dict[str, Any]]:
    """Shares of the peak that training steps reach, by round, and what they consist of.

    Args:
        runs: a new run for each precision, on the same data.
        peaks: FLOPs a CPU second measured before; those measured after the rounds replace them
            where they are higher."""
    batches = random_batches(runs["bf16"])[: plan.steps]
    detail: dict[str, Any] = {}
    with ExitStack() as stack:
        arms = []
        for precision, prepared in runs.items():
            # Counted here and timed in a child: the counter slows every operator.
            run = start_smorm(prepared, batches)
            rate, source = step_flops(run)
            detail[precision] = {"flops_a_token": rate, "found_by": source}
            build = _builder(stepped_arm(precision, run, batches, plan))
            arms.append(stack.enter_context(ForkedArm(precision, build)))
        timings = interleave([arm.arm() for arm in arms], plan.rounds, warmup=plan.warmup)
        for arm in arms:
            arm.finish()
    shares = {}
    for precision, dtype in DTYPES.items():
        timing = timings[precision]
        # A neighbour may have slowed the first measurement: too low a peak flatters the share.
        measured = peak(dtype, repeats=plan.peak_repeats)
        top = peaks[precision] = max(peaks[precision], measured)
        rate = detail[precision]["flops_a_token"]
        work = rate * np.array(timing.tokens) / top
        share = Ratio.of_rounds(
            work / timing.cpu, work / timing.wall, float(work.sum() / sum(timing.cpu))
        )
        shares[f"gemm_share_{precision}"] = share
        forests = [grow(sequences_of(runs[precision], batch)) for batch in batches]
        attention = attention_flops(runs[precision].network, forests)
        attention /= sum(forest.num_tokens for forest in forests)
        detail[precision] |= arm_facts(timing)
        detail[precision]["peak"] = top
        detail[precision]["share_with_attention"] = share.median * (1 + attention / rate)
    return shares, detail


def _builder(arm: Arm) -> Callable[[], tuple[Arm, Report]]:
    return lambda: (arm, dict)
