"""What the GPU benchmark measures: equality, training, scoring, the peak, and where time goes."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch.nn.functional import softplus

from bench.gpu_models import Shape, Unit, best_of, build, flat, pairs
from smorm.model.network import RewardNetwork
from smorm.model.verify import choose_layout

NOMINAL = {"H100": 989e12, "H200": 989e12, "A100": 312e12}
"""bf16 FLOP a second on the data sheets, dense."""


@dataclass(frozen=True, slots=True)
class Setting:
    """Where and how large."""

    device: torch.device
    tiny: bool
    repeats: int = 5

    @property
    def pairs_a_step(self) -> int:
        """Pairs in an optimizer step."""
        return 8 if self.tiny else 64

    @property
    def budget(self) -> int:
        """Tokens of a forest batch."""
        return 512 if self.tiny else 8192

    def synchronize(self) -> None:
        """Wait for the device."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def timed(setting: Setting, work: Callable[[], Any], warmup: int = 2) -> dict[str, Any]:
    """Seconds of `work`, synchronised, after warm-up; and the peak of the device's memory."""
    for _ in range(warmup):
        work()
    setting.synchronize()
    if setting.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(setting.device)
    seconds = []
    for _ in range(setting.repeats):
        started = time.perf_counter()
        work()
        setting.synchronize()
        seconds.append(time.perf_counter() - started)
    found: dict[str, Any] = {
        "seconds": statistics.median(seconds),
        "low": min(seconds),
        "high": max(seconds),
        "n": len(seconds),
    }
    if setting.device.type == "cuda":
        found["peak_gb"] = torch.cuda.max_memory_allocated(setting.device) / 1e9
    return found


def peak(setting: Setting) -> dict[str, float]:
    """FLOP a second of bf16 matrix products: measured, and the data sheet's where it is known."""
    size = 256 if setting.tiny else 8192
    a, b = (torch.randn(size, size, device=setting.device, dtype=torch.bfloat16) for _ in range(2))
    repeats = 20
    found = timed(setting, lambda: [a @ b for _ in range(repeats)])
    name = torch.cuda.get_device_name(setting.device) if setting.device.type == "cuda" else "cpu"
    nominal = next((value for key, value in NOMINAL.items() if key in name), None)
    return {
        "measured": 2.0 * size**3 * repeats / found["low"],
        **({"nominal": nominal} if nominal else {}),
    }


def equality(setting: Setting, shape: Shape) -> dict[str, Any]:
    """Scores and gradients of the forest and of padding in fp32, and in bf16 the error of either
    against fp32. Four layers of the shape, so that fp32 gradients fit; TF32 is off."""
    torch.backends.cuda.matmul.allow_tf32 = False
    few = Shape(shape.name, {**shape.fields, "num_hidden_layers": 2 if setting.tiny else 4})
    sequences = flat(pairs(6, shape.fields["vocab_size"], 1, tiny=setting.tiny))
    network = build(few, setting.device, torch.float32)
    truth = _scores_and_gradients(network, "padded", sequences)
    ours = _scores_and_gradients(network, "forest", sequences)
    found: dict[str, Any] = {"fp32": _gaps(ours, truth)}
    network.backbone.to(torch.bfloat16)
    for layout in ("padded", "forest"):
        half = _scores_and_gradients(network, layout, sequences)
        found[f"bf16 {layout} against fp32"] = _gaps(half, truth)
    verdict = choose_layout(network)
    found["layout"], found["refused"] = verdict.layout, list(verdict.refused)
    return found


def _scores_and_gradients(
    network: RewardNetwork, layout: Any, sequences: list[Any]
) -> dict[str, torch.Tensor]:
    network.use_layout(layout)
    network.zero_grad(set_to_none=True)
    scores = network(network.arrange(sequences))
    softplus(scores[1::2, 0] - scores[::2, 0]).mean().backward()
    found = {"scores": scores.detach()}
    return found | {n: p.grad for n, p in network.named_parameters() if p.grad is not None}


def _gaps(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> dict[str, float]:
    """Largest differences: of scores, and of gradients in units of each one's largest entry."""
    gradients = [
        float((one[n].float() - other[n].float()).abs().max() / other[n].float().abs().max())
        for n in other
        if n != "scores" and other[n].abs().max() > 0
    ]
    scores = float((one["scores"] - other["scores"]).abs().max())
    return {"scores": scores, "gradients_relative": max(gradients)}


def training(setting: Setting, shape: Shape, rate: dict[str, float]) -> dict[str, Any]:
    """One optimizer step of ours and of the padded loop, with and without checkpointing: bf16
    autocast over fp32 weights, fused AdamW, the same pairs. Losses are compared."""
    units = pairs(setting.pairs_a_step, shape.fields["vocab_size"], 2, tiny=setting.tiny)
    found: dict[str, Any] = {"pairs": len(units)}
    for checkpointed in (False, True):
        for layout in ("forest", "padded"):
            name = layout + (" checkpointed" if checkpointed else "")
            network = build(shape, setting.device, torch.float32)
            lay_out(network, layout)
            if checkpointed:
                network.checkpoint_activations()
            found[name] = attempt(partial(_training_arm, setting, shape, network, units, rate))
            del network
            release()
    both = [found[name].get("first_loss") for name in ("forest", "padded")]
    if None not in both:
        found["loss_difference"] = abs(both[0] - both[1])
    return found


def _training_arm(
    setting: Setting,
    shape: Shape,
    network: RewardNetwork,
    units: list[Unit],
    rate: dict[str, float],
) -> dict[str, Any]:
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-6, fused=True)
    losses: list[float] = []
    tokens: list[int] = []

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        loss, rows = step_gradients(setting, network, units)
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        losses.append(float(loss))
        tokens.append(rows)

    found = timed(setting, step)
    found |= rates(found["seconds"], tokens[-1], shape, rate, flops=6)
    found["pairs_per_second"] = len(units) / found["seconds"]
    found["first_loss"] = losses[0]
    return found


def step_gradients(
    setting: Setting, network: RewardNetwork, units: list[Unit]
) -> tuple[torch.Tensor, int]:
    """Forward and backward over a step; returns its mean loss and the rows computed."""
    total, rows = torch.zeros((), device=setting.device), 0
    # The padded loop takes 8 pairs at a time, as TRL would with its default batch.
    parts = (
        network.micro_batches(units, setting.budget)
        if network.layout == "forest"
        else [list(range(i, min(i + 8, len(units)))) for i in range(0, len(units), 8)]
    )
    for part in parts:
        batch = network.arrange(flat([units[i] for i in part]))
        with torch.autocast(setting.device.type, dtype=torch.bfloat16):
            scores = network(batch)
        loss = softplus(scores[1::2, 0] - scores[::2, 0]).sum() / len(units)
        loss.backward()
        total += loss.detach()
        rows += batch.num_tokens
    return total, rows


def lay_out(network: RewardNetwork, layout: Any) -> None:
    """Set the layout; padded batches attend through transformers' default, not the slow reference
    that smorm verifies against."""
    network.use_layout(layout, padded_attention="sdpa")


def rates(
    seconds: float, tokens: int, shape: Shape, rate: dict[str, float], *, flops: int
) -> dict[str, float]:
    """Tokens a second and model FLOP utilisation: the linear layers' FLOPs (2 a weight and token
    forward, 4 backward; attention and recomputation not counted) in shares of the peaks."""
    done = flops * shape.linear_parameters() * tokens / seconds
    shares = {f"mfu_of_{kind}": done / value for kind, value in rate.items()}
    return {"tokens": tokens, "tokens_per_second": tokens / seconds, **shares}


def scoring(setting: Setting, shape: Shape, rate: dict[str, float]) -> dict[str, Any]:
    """Scoring in bf16 weights: pairs, best-of-16 and best-of-64, ours and the padded loop of 8 as
    the data come and sorted by length. Scores are compared."""
    network = build(shape, setting.device, torch.bfloat16).eval()
    found: dict[str, Any] = {}
    for name, size, count in (("pairs", 2, 64), ("best of 16", 16, 8), ("best of 64", 64, 4)):
        count = count if not setting.tiny else 2
        units = best_of(size, count, shape.fields["vocab_size"], 3, tiny=setting.tiny)
        arms: dict[str, Any] = {}
        scores: dict[str, torch.Tensor] = {}
        for arm in ("forest", "padded", "padded sorted"):
            arms[arm] = attempt(
                partial(_scoring_arm, setting, shape, network, units, arm, scores, rate)
            )
        if {"forest", "padded"} <= scores.keys():
            gap = scores["forest"] - scores["padded"]
            arms["score_difference"] = float(gap.abs().max())
            arms["score_deviation"] = float(scores["padded"].std())
        found[name] = arms
    return found


def _scoring_arm(
    setting: Setting,
    shape: Shape,
    network: RewardNetwork,
    units: list[Unit],
    arm: str,
    scores: dict[str, torch.Tensor],
    rate: dict[str, float],
) -> dict[str, Any]:
    lay_out(network, "forest" if arm == "forest" else "padded")
    sequences, rows = flat(units), [0]

    @torch.no_grad()
    def work() -> None:
        rows[0] = 0
        found = torch.zeros(len(sequences), device=setting.device)
        for part in _parts(setting, network, units, arm):
            batch = network.arrange([sequences[i] for i in part])
            found[torch.tensor(part, device=setting.device)] = network(batch)[:, 0]
            rows[0] += batch.num_tokens
        scores[arm] = found

    found = timed(setting, work)
    found |= rates(found["seconds"], rows[0], shape, rate, flops=2)
    return found | {"responses_per_second": len(sequences) / found["seconds"]}


def _parts(
    setting: Setting, network: RewardNetwork, units: list[Unit], arm: str
) -> list[list[int]]:
    """Places of the sequences that go through the network together."""
    if arm == "forest":
        starts = [0]
        for unit in units:
            starts.append(starts[-1] + len(unit))
        batches = network.micro_batches(units, setting.budget)
        return [[i for u in part for i in range(starts[u], starts[u + 1])] for part in batches]
    lengths = [len(sequence) for sequence in flat(units)]
    order = list(range(len(lengths)))
    if arm == "padded sorted":
        order.sort(key=lambda i: lengths[i])
    return [order[i : i + 8] for i in range(0, len(order), 8)]


def trace(setting: Setting, shape: Shape) -> dict[str, Any]:
    """Where one training step's time goes: the kernels that take most of it."""
    from torch.profiler import ProfilerActivity, profile

    network = build(shape, setting.device, torch.float32)
    network.use_layout("forest")
    units = pairs(setting.pairs_a_step, shape.fields["vocab_size"], 2, tiny=setting.tiny)
    step_gradients(setting, network, units)
    cuda = setting.device.type == "cuda"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if cuda else [])]
    started = time.perf_counter()
    with profile(activities=activities) as found:
        step_gradients(setting, network, units)
        setting.synchronize()
    wall = time.perf_counter() - started
    key = "self_device_time_total" if cuda else "self_cpu_time_total"
    events = sorted(found.key_averages(), key=lambda event: -getattr(event, key))
    whole = sum(getattr(event, key) for event in events) or 1.0
    top = [
        {"name": e.key[:120], "share": getattr(e, key) / whole, "calls": e.count}
        for e in events[:20]
    ]
    return {"wall_seconds": wall, "busy_seconds": whole / 1e6, "top": top}


def attempt(work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What `work` found, or the failure in words: one arm's end is not the others'."""
    import traceback

    try:
        return work()
    except Exception as error:
        return {"failed": f"{type(error).__name__}: {error}"[:2000],
                "traceback": traceback.format_exc()[-4000:]}  # fmt: skip


def release() -> None:
    """Give memory back between parts."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
