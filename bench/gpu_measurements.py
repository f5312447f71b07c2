"""What the GPU benchmark measures: equality, training, scoring, the peak, and where time goes."""

from __future__ import annotations

import gc
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from torch.nn.functional import softplus
from torch.profiler import ProfilerActivity, profile

from bench.gpu_models import Shape, Unit, best_of, build, flat, pairs
from bench.workloads import padded_positions
from smorm.model.network import RewardNetwork
from smorm.model.verify import choose_layout

# bf16 FLOP a second on the data sheets, dense.
NOMINAL = {"H100": 989e12, "H200": 989e12, "A100": 312e12}
# Pairs of a padded training batch (TRL's default) and sequences of a padded scoring batch.
BATCH = 8
Measured = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Setting:
    """Where and how large; `peaks` are FLOP a second by name (`measured`, `nominal`)."""

    device: torch.device
    tiny: bool
    repeats: int = 5
    pairs_a_step: int = 64
    budget: int = 8192
    peaks: dict[str, float] | None = None

    @property
    def cuda(self) -> bool:
        """Whether the device is a GPU."""
        return self.device.type == "cuda"

    def synchronize(self) -> None:
        """Wait for the device."""
        if self.cuda:
            torch.cuda.synchronize(self.device)

    def pairs(self, shape: Shape) -> list[Unit]:
        """The pairs of a training step."""
        return pairs(self.pairs_a_step, shape.fields["vocab_size"], 2, tiny=self.tiny)


def timed(setting: Setting, work: Callable[[], Any], warmup: int = 2) -> Measured:
    """Seconds of `work`, synchronised, after warm-up; and the peak of the device's memory."""
    # Warm-up: the first calls compile FlexAttention's kernels and let cuBLAS choose its own.
    for _ in range(warmup):
        work()
    setting.synchronize()
    if setting.cuda:
        torch.cuda.reset_peak_memory_stats(setting.device)
    seconds = []
    for _ in range(setting.repeats):
        started = time.perf_counter()
        work()
        # Kernels run asynchronously: without this the clock would measure their launches.
        setting.synchronize()
        seconds.append(time.perf_counter() - started)
    return timing(setting, seconds)


def timing(setting: Setting, seconds: list[float]) -> Measured:
    """Median, lowest and highest seconds; and the peak of the device's memory."""
    measured: Measured = {
        "seconds": float(np.median(seconds)),
        "low": min(seconds),
        "high": max(seconds),
        "n": len(seconds),
    }
    if setting.cuda:
        measured["peak_gb"] = torch.cuda.max_memory_allocated(setting.device) / 1e9
    return measured


def peak(setting: Setting) -> dict[str, float]:
    """FLOP a second of bf16 matrix products: measured, and the data sheet's where it is known."""
    size = 256 if setting.tiny else 8192
    a, b = torch.randn(2, size, size, device=setting.device, dtype=torch.bfloat16)
    repeats = 20

    def products() -> None:
        for _ in range(repeats):
            a @ b

    peaks = {"measured": 2.0 * size**3 * repeats / timed(setting, products)["low"]}
    if setting.cuda:
        device = torch.cuda.get_device_name(setting.device)
        for name, flops in NOMINAL.items():
            if name in device:
                peaks["nominal"] = flops
    return peaks


def equality(setting: Setting, shape: Shape) -> Measured:
    """Scores and gradients of the forest and of padding in fp32, and in bf16 the error of either
    against fp32. Four layers of the shape, so that fp32 gradients fit; TF32 is off."""
    # TF32 keeps ten bits of a factor: its rounding would hide a wrong attention mask.
    torch.backends.cuda.matmul.allow_tf32 = False
    layers = 2 if setting.tiny else 4
    shallow = Shape(shape.name, {**shape.fields, "num_hidden_layers": layers})
    sequences = flat(pairs(6, shape.fields["vocab_size"], 1, tiny=setting.tiny))
    network = build(shallow, setting.device, torch.float32)
    truth = _scores_and_gradients(network, "padded", sequences)
    forest = _scores_and_gradients(network, "forest", sequences)
    measured: Measured = {"fp32": _gaps(forest, truth)}
    # The head stays in fp32, as in every layout of the product.
    network.backbone.to(torch.bfloat16)
    for layout in ("padded", "forest"):
        half = _scores_and_gradients(network, layout, sequences)
        measured[f"bf16 {layout} against fp32"] = _gaps(half, truth)
    verdict = choose_layout(network)
    measured["layout"], measured["refused"] = verdict.layout, list(verdict.refused)
    return measured


def _scores_and_gradients(
    network: RewardNetwork, layout: Any, sequences: list[Any]
) -> dict[str, torch.Tensor]:
    network.use_layout(layout)
    network.zero_grad(set_to_none=True)
    scores = network(network.arrange(sequences))
    softplus(scores[1::2, 0] - scores[::2, 0]).mean().backward()
    tensors = {"scores": scores.detach()}
    for name, parameter in network.named_parameters():
        if parameter.grad is not None:
            tensors[name] = parameter.grad
    return tensors


def _gaps(tensors: dict[str, torch.Tensor], truth: dict[str, torch.Tensor]) -> dict[str, float]:
    """Largest differences: of scores, and of gradients in units of each one's largest entry."""
    gaps = {"scores": 0.0, "gradients_relative": 0.0}
    for name, expected in truth.items():
        gap = float((tensors[name].float() - expected.float()).abs().max())
        largest = float(expected.abs().max())
        if name == "scores":
            gaps["scores"] = gap
        elif largest > 0:
            gaps["gradients_relative"] = max(gaps["gradients_relative"], gap / largest)
    return gaps


def training(setting: Setting, shape: Shape) -> Measured:
    """One optimizer step of smorm and of the padded loop, with and without checkpointing: bf16
    autocast over fp32 weights, fused AdamW, the same pairs. Losses are compared."""
    units = setting.pairs(shape)
    measured: Measured = {"pairs": len(units)}
    for checkpointed in (False, True):
        for layout in ("forest", "padded"):
            name = layout + " checkpointed" * checkpointed
            network = build(shape, setting.device, torch.float32)
            use_layout(network, layout)
            if checkpointed:
                network.checkpoint_activations()
            measured[name] = attempt(partial(_training_arm, setting, shape, network, units))
            # Two networks and their moments at a time would not fit.
            del network
            release()
    forest, padded = measured["forest"].get("first_loss"), measured["padded"].get("first_loss")
    if forest is not None and padded is not None:
        measured["loss_difference"] = abs(forest - padded)
    return measured


def _training_arm(
    setting: Setting, shape: Shape, network: RewardNetwork, units: list[Unit]
) -> Measured:
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-6, fused=True)
    losses, positions = [], [0]

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        loss, positions[0] = step_gradients(setting, network, units)
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        losses.append(float(loss))

    measured = timed(setting, step)
    measured |= rates(setting, shape, measured["seconds"], positions[0], flops=6)
    measured["pairs_per_second"] = len(units) / measured["seconds"]
    measured["first_loss"] = losses[0]
    return measured


def step_gradients(
    setting: Setting, network: RewardNetwork, units: list[Unit]
) -> tuple[torch.Tensor, int]:
    """Forward and backward over a step; returns its mean loss and the positions computed."""
    total, positions = torch.zeros((), device=setting.device), 0
    micro_batches: Any = network.micro_batches(units, setting.budget)
    if network.layout != "forest":
        micro_batches = np.array_split(np.arange(len(units)), range(BATCH, len(units), BATCH))
    for indices in micro_batches:
        batch = network.arrange(flat([units[index] for index in indices]))
        with torch.autocast(setting.device.type, dtype=torch.bfloat16):
            scores = network(batch)
        loss = softplus(scores[1::2, 0] - scores[::2, 0]).sum() / len(units)
        loss.backward()
        # stays on the device: reading it would wait for every micro-batch
        total += loss.detach()
        positions += batch.num_tokens
    return total, positions


def use_layout(network: RewardNetwork, layout: Any) -> None:
    """Set the layout; padded batches attend through transformers' default, not the slow reference
    that smorm verifies against."""
    network.use_layout(layout, padded_attention="sdpa")


def rates(
    setting: Setting, shape: Shape, seconds: float, tokens: int, *, flops: int
) -> dict[str, float]:
    """Tokens a second and model FLOP utilisation: the linear layers' FLOPs (2 a weight and token
    forward, 4 backward; attention and recomputation not counted) in shares of the peaks."""
    # Positions computed, padding included: utilisation is of the machine, not of the task.
    speeds = {"tokens": tokens, "tokens_per_second": tokens / seconds}
    for name, flops_a_second in (setting.peaks or {}).items():
        computed = flops * shape.linear_parameters() * tokens / seconds
        speeds[f"mfu_of_{name}"] = computed / flops_a_second
    return speeds


def scoring(setting: Setting, shape: Shape) -> Measured:
    """Scoring in bf16 weights: pairs, best-of-16 and best-of-64, smorm and the padded loop of 8 as
    the data come and sorted by length. Scores are compared."""
    network = build(shape, setting.device, torch.bfloat16).eval()
    measured: Measured = {}
    for work, size, count in (("pairs", 2, 64), ("best of 16", 16, 8), ("best of 64", 64, 4)):
        if setting.tiny:
            count = 2
        units = best_of(size, count, shape.fields["vocab_size"], 3, tiny=setting.tiny)
        arms: Measured = {}
        scores: dict[str, torch.Tensor] = {}
        for arm in ("forest", "padded", "padded sorted"):
            measure = partial(_scoring_arm, setting, shape, network, units, arm, scores)
            arms[arm] = attempt(measure)
        if {"forest", "padded"} <= scores.keys():
            gap = scores["forest"] - scores["padded"]
            arms["score_difference"] = float(gap.abs().max())
            arms["score_deviation"] = float(scores["padded"].std())
        measured[work] = arms
    return measured


def _scoring_arm(
    setting: Setting,
    shape: Shape,
    network: RewardNetwork,
    units: list[Unit],
    arm: str,
    scores: dict[str, torch.Tensor],
) -> Measured:
    use_layout(network, "forest" if arm == "forest" else "padded")
    sequences, positions = flat(units), [0]

    @torch.no_grad()
    def score() -> None:
        positions[0] = 0
        values = torch.zeros(len(sequences), device=setting.device)
        # Batches are planned inside the timed work: users pay for planning too.
        for index in _scoring_batches(setting, network, units, arm):
            batch = network.arrange([sequences[i] for i in index])
            values[torch.tensor(index, device=setting.device)] = network(batch)[:, 0]
            positions[0] += batch.num_tokens
        scores[arm] = values

    measured = timed(setting, score)
    measured |= rates(setting, shape, measured["seconds"], positions[0], flops=2)
    return measured | {"responses_per_second": len(sequences) / measured["seconds"]}


def _scoring_batches(
    setting: Setting, network: RewardNetwork, units: list[Unit], arm: str
) -> Iterator[list[int]]:
    """Indices of the sequences that go through the network together."""
    sizes = list(map(len, units))
    if arm == "forest":
        rows = np.split(np.arange(sum(sizes)), np.cumsum(sizes)[:-1])
        for batch in network.micro_batches(units, setting.budget):
            yield np.concatenate([rows[unit] for unit in batch]).tolist()
        return
    order = np.arange(sum(sizes))
    if arm == "padded sorted":
        order = np.argsort(list(map(len, flat(units))), kind="stable")
    for start in range(0, len(order), BATCH):
        yield order[start : start + BATCH].tolist()


def trl_training(setting: Setting, shape: Shape) -> Measured:
    """Optimizer steps of TRL's trainer at its defaults (bf16, checkpointing) and without
    checkpointing, 8 pairs a device batch and the same pairs in all as smorm's."""
    try:
        import trl  # noqa: F401
    except ImportError as error:
        return {"not_run": f"{error}: the padded arms of training are the same step without it"}
    return {
        "defaults": attempt(partial(_trl_steps, setting, shape, checkpointed=True)),
        "no checkpointing": attempt(partial(_trl_steps, setting, shape, checkpointed=False)),
    }


def _trl_steps(setting: Setting, shape: Shape, *, checkpointed: bool) -> Measured:
    import datasets
    from transformers import PrinterCallback, TrainerCallback
    from trl import RewardTrainer

    from bench.trl_run import classifier, reward_config

    units = setting.pairs(shape)
    steps = setting.repeats + 2
    rows = [{"chosen_ids": u[0].tolist(), "rejected_ids": u[1].tolist()} for u in units] * steps
    with setting.device:
        model = classifier(build(shape, setting.device, torch.float32))
    ends: list[float] = []

    class Clock(TrainerCallback):
        def on_step_end(self, *_: Any, **__: Any) -> None:
            setting.synchronize()
            ends.append(time.perf_counter())

    with TemporaryDirectory() as folder:
        options = reward_config(
            Path(folder), BATCH, max(1, len(units) // BATCH), gradient_checkpointing=checkpointed,
            bf16=True, use_cpu=not setting.cuda, max_length=None, learning_rate=1e-6,
            max_steps=steps,
        )  # fmt: skip
        trainer = RewardTrainer(
            model=model,
            args=options,
            train_dataset=datasets.Dataset.from_list(rows),
            processing_class=_tokenizer(),
            callbacks=[Clock()],
        )
        trainer.remove_callback(PrinterCallback)
        if setting.cuda:
            torch.cuda.reset_peak_memory_stats(setting.device)
        trainer.train()
    # from the end of a step to the end of the next one; the first step is warm-up
    measured = timing(setting, np.diff(ends[1:]).tolist())
    # TRL pads chosen and rejected of a batch together: 16 sequences to one length.
    padded = padded_positions(map(len, flat(units)), 2 * BATCH)
    measured |= rates(setting, shape, measured["seconds"], padded, flops=6)
    measured["pairs_per_second"] = len(units) / measured["seconds"]
    measured["first_loss"] = trainer.state.log_history[0]["loss"]
    return measured


def _tokenizer() -> Any:
    """The trainer requires one, to pad and to save; nothing is tokenised with it."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(WordLevel({"<pad>": 0, "<s>": 1, "</s>": 2}, unk_token="<pad>"))
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<s>", eos_token="</s>"
    )


def trace(setting: Setting, shape: Shape) -> Measured:
    """Where one training step's time goes: the kernels that take most of it."""
    network = build(shape, setting.device, torch.float32)
    network.use_layout("forest")
    units = setting.pairs(shape)
    # the first step compiles, and its trace would show the compiler
    step_gradients(setting, network, units)
    key, activities = "self_cpu_time_total", [ProfilerActivity.CPU]
    if setting.cuda:
        key = "self_device_time_total"
        activities.append(ProfilerActivity.CUDA)
    started = time.perf_counter()
    with profile(activities=activities) as profiler:
        step_gradients(setting, network, units)
        setting.synchronize()
    wall = time.perf_counter() - started
    events = sorted(profiler.key_averages(), key=lambda event: -getattr(event, key))
    total = sum(getattr(event, key) for event in events) or 1.0
    top = []
    for event in events[:20]:
        share = getattr(event, key) / total
        top.append({"name": event.key[:120], "share": share, "calls": event.count})
    return {"wall_seconds": wall, "busy_seconds": total / 1e6, "top": top}


def attempt(work: Callable[[], Measured]) -> Measured:
    """What `work` measured, or its failure: one arm's end is not the end of the next ones."""
    try:
        return work()
    except Exception as error:
        message = f"{type(error).__name__}: {error}"[:2000]
        return {"failed": message, "traceback": traceback.format_exc()[-4000:]}


def release() -> None:
    """Free memory between measurements."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def setting_for(device: str, tiny: bool, repeats: int) -> Setting:
    """The setting of a device; small sizes for trying the script."""
    setting = Setting(torch.device(device), tiny, repeats)
    if tiny:
        return replace(setting, pairs_a_step=8, budget=512)
    return setting
