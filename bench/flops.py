"""FLOPs of a training step, and the peak that they are a share of.

`gemm_share` = FLOPs of the linear layers' products, forward and backward, for the tokens that were
computed / CPU seconds of the whole step / FLOPs a CPU second of this machine's matrix multiply at
its best shape, same precision, same run. Everything that a step does is in its seconds (planning,
attention, norms, clipping, optimizer, Python); attention's own products are counted apart and the
share is given with and without them. Rows that last-layer pruning skips are not counted.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from bench.machine import matmul_peak
from bench.ours import Ours
from smorm.model.network import RewardNetwork
from smorm.trees.forest import Forest

_PRODUCTS = ("mm", "addmm", "linear", "_linear_pointwise")  # attention uses `bmm`
_SHAPES = ((1024, 512, 1408), (2048, 512, 1408), (2048, 1408, 512), (2048, 1024, 2816))


def peak(dtype: torch.dtype) -> float:
    """FLOPs a CPU second of the fastest matrix multiply that torch brings along, one thread.

    torch's own choice in fp32 (MKL) is not always the fastest one (oneDNN); a share is of the
    fastest, whichever a program uses.
    """
    found = matmul_peak(dtype)
    onednn = getattr(torch.ops.mkldnn, "_linear_pointwise", None)
    if dtype == torch.float32 and onednn is not None and torch.backends.mkldnn.is_available():
        found = max(found, *(_onednn_speed(shape) for shape in _SHAPES))
    return found


def _onednn_speed(shape: tuple[int, int, int], repeats: int = 5) -> float:
    rows, inner, outer = shape
    draw = torch.Generator().manual_seed(0)
    x, weight = (torch.randn(n, inner, generator=draw) for n in (rows, outer))
    seconds = []
    with torch.inference_mode():
        for _ in range(repeats + 1):
            start = time.process_time()
            for _ in range(4):
                torch.ops.mkldnn._linear_pointwise(x, weight, None, "none", [], "")
            seconds.append((time.process_time() - start) / 4)
    return 2.0 * rows * inner * outer / statistics.median(seconds[1:])


def counted(work: Callable[[], Any]) -> float:
    """FLOPs of the linear layers' products that `work` really runs, forward and backward."""
    extra: dict[Any, Any] = {}
    onednn = getattr(torch.ops.mkldnn, "_linear_pointwise", None)
    if onednn is not None:
        extra[onednn] = _linear_flops
    counter = FlopCounterMode(display=False, custom_mapping=extra)
    with counter:
        work()
    counts = counter.get_flop_counts().get("Global", {})
    return float(
        sum(value for op, value in counts.items() if str(op).rpartition(".")[2] in _PRODUCTS)
    )


def _linear_flops(x: Any, weight: Any, *_: Any, out_shape: Any = None, **__: Any) -> int:
    rows = 1
    for size in x[:-1]:
        rows *= size
    return 2 * rows * int(weight[0]) * int(weight[1])


def linear_weights(network: RewardNetwork) -> int:
    """Weights of the backbone's linear layers: a row's forward pass takes twice as many FLOPs."""
    linears = (m for m in network.backbone.modules() if isinstance(m, torch.nn.Linear))
    return sum(m.weight.numel() for m in linears)


def step_flops(run: Ours) -> tuple[float, str]:
    """FLOPs per computed token of the run's next step, and how they were found.

    The step is taken and the run set back to before it (its weights have moved). The counter sees
    torch's own operators; where a kernel hides its products from it, the count is too low to be
    true and the least possible one is taken instead: all layers but the last.
    """
    tokens: list[int] = []
    flops = counted(lambda: tokens.append(run.step().tokens))
    run.done -= 1
    return per_token(run.prepared.network, flops / tokens[0])


def per_token(network: RewardNetwork, seen: float) -> tuple[float, str]:
    """The rate that the counter saw if it can be true, else the least possible one."""
    layers = network.backbone.config.get_text_config().num_hidden_layers
    most = 6.0 * linear_weights(network)
    least = most * (layers - 1) / layers
    if least <= seen <= 1.01 * most:
        return seen, "counted"
    return least, f"formula: all layers but the last (the counter saw {seen / most:.0%})"


def attention_flops(network: RewardNetwork, forests: Sequence[Forest]) -> float:
    """FLOPs of attention's own products, 2 forward and 4 backward, as if no layer were pruned."""
    config = network.backbone.config.get_text_config()
    size = config.num_attention_heads * (
        getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    )
    layers, seen = int(config.num_hidden_layers), 0.0
    for forest in forests:
        seen += sum((b - a) * (b - a + 1) / 2 for a, b in forest.chains)
        seen += sum((b - a) * (d - c) for a, b, c, d in forest.rectangles)
    return seen * 2.0 * 6 * int(size) * layers
