"""What each rank holds of a large model, and how long a save holds a step, over gloo on a CPU:

    python -m bench.ranks_memory --json FILE [--ranks 2] [--layers 16] [--width 2048] [--whole]

Weights of a Llama of that shape are written as bf16 safetensors, a layer a file, and loaded by
sharded ranks in parts (`--whole`: each rank reads all of them first). Then two steps with few
tokens; with `--saves` a save that training waits for, and saves behind which it goes on. Bytes
are those of the rank that holds most: the peak of its memory without the pages of files, and what
it holds by kind; beside them stands what `smorm train --plan` counts."""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.machine import describe
from bench.ranks import run_ranks, write_small_data
from smorm import files

PAIRS = 2


def write_weights(folder: Path, *, layers: int, width: int) -> int:
    """A backbone's folder, no more than one layer of it ever in memory; returns its weights."""
    import torch
    import transformers
    from safetensors.torch import save_file

    from smorm.world import backbone_path

    tokens = shutil.ignore_patterns("*.safetensors", "manifest.json", "pretraining.json")
    shutil.copytree(backbone_path(), folder, ignore=tokens)
    config = transformers.AutoConfig.from_pretrained(folder, trust_remote_code=False)
    shape = {
        "hidden_size": width, "intermediate_size": 4 * width, "num_hidden_layers": layers,
        "num_attention_heads": width // 64, "num_key_value_heads": max(1, width // 256),
        "head_dim": 64, "max_position_embeddings": 1024,
    }  # fmt: skip
    config = type(config)(**{**config.to_dict(), **shape, "layer_types": None})
    config.architectures = ["LlamaModel"]
    config.save_pretrained(folder)
    with torch.device("meta"):
        model = transformers.AutoModel.from_config(config, trust_remote_code=False)
    parts: dict[str, list[str]] = {}
    for name, _ in model.named_parameters():
        part = name.split(".")[1] if name.startswith("layers.") else "rest"
        parts.setdefault(part, []).append(name)
    shapes = {name: tuple(weight.shape) for name, weight in model.named_parameters()}
    generator, placed, count = torch.Generator().manual_seed(0), {}, 0
    for part, names in parts.items():
        tensors = {}
        for name in names:
            weight = torch.ones(shapes[name], dtype=torch.bfloat16)
            if weight.ndim > 1:
                weight.normal_(std=0.02, generator=generator)
            tensors[name], placed[name] = weight, f"model-{part}.safetensors"
            count += weight.numel()
        save_file(tensors, folder / f"model-{part}.safetensors", metadata={"format": "pt"})
    index = {"metadata": {}, "weight_map": placed}
    files.write_json(folder / "model.safetensors.index.json", index)
    return count


class Peak(threading.Thread):
    """The most memory that this process has, without the pages of files (`RssAnon`)."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.most, self.done = 0, threading.Event()

    def run(self) -> None:
        """Look every few milliseconds."""
        while not self.done.wait(0.005):
            self.most = max(self.most, anonymous_bytes())

    def end(self) -> int:
        """The most since the start."""
        self.done.set()
        self.join()
        return max(self.most, anonymous_bytes())


def anonymous_bytes() -> int:
    """What this process holds beside the pages of files."""
    for line in Path("/proc/self/status").read_text("ascii").splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("no RssAnon in /proc/self/status")


def held_by_kind(run: Any) -> dict[str, int]:
    """Bytes of weights, gradients and moments in this process."""
    from smorm.training.distributed.tensors import own_part

    held = {"weights": 0, "gradients": 0, "moments": 0}
    for parameter in run.named.values():
        held["weights"] += own_part(parameter).nbytes
        if parameter.grad is not None:
            held["gradients"] += own_part(parameter.grad).nbytes
        for moment in run.optimizer.state[parameter].values():
            held["moments"] += own_part(moment).nbytes
    return held


def _config(folder: Path, precision: str) -> Any:
    from smorm.config import parse_config

    return parse_config({
        "model": {"backbone": str(folder / "backbone")},
        "data": {"preference": str(folder / "train-pairs.jsonl"), "max_tokens": 256},
        "objective": {"kind": "preference"},
        "training": {
            "batch_size": PAIRS, "max_batch_tokens": 2048, "precision": precision, "threads": 1,
            "device": "cpu", "parallel": "sharded", "learning_rate": 1e-6,
        },
        "output": {"folder": str(folder / "run")},
    })  # fmt: skip


def planned_bytes(config: Any, ranks: int, tokens: int) -> dict[str, int]:
    """What `smorm train --plan` counts for a rank in a step of so many tokens, without its reserve
    and what it leaves to CUDA. A step here is one micro-batch a rank."""
    from smorm.training.plan import Counter

    needs = Counter(config).needs("sharded", ranks)
    activations = int(needs.constant + needs.per_token * tokens)
    parts = {
        "weights": needs.weights, "gradients": needs.gradients, "moments": needs.moments,
        "gathered": needs.gathered, "activations": activations,
    }  # fmt: skip
    return {**parts, "total": sum(parts.values())}


def _measure(
    rank: int, world: int, folder: Path, whole: bool, saves: bool, precision: str
) -> dict[str, Any]:
    import torch.distributed as dist

    from bench.smorm_run import start_smorm
    from smorm.model.shallow import ReadWholeError
    from smorm.training import setup
    from smorm.training.distributed.ranks import joined
    from smorm.training.memory import resolve_splitting

    def refused(*_: Any) -> Any:
        raise ReadWholeError("it was asked for")

    if whole:
        vars(setup)["open_start"] = refused
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(world)}
    os.environ |= {"LOCAL_RANK": str(rank), "LOCAL_WORLD_SIZE": str(world)}
    config = _config(folder, precision)
    before = anonymous_bytes()
    with joined(config):
        peak, began = Peak(), time.monotonic()
        peak.start()
        prepared = resolve_splitting(setup.prepare(config), resume=False)
        report: dict[str, Any] = {"load_seconds": time.monotonic() - began}
        report["load_peak"] = peak.end() - before
        run = start_smorm(prepared)
        peak, began = Peak(), time.monotonic()
        peak.start()
        run.step()
        # From the second step on the moments are there while gradients are computed.
        tokens = run.step().positions
        report["step_seconds"], report["step_peak"] = time.monotonic() - began, peak.end() - before
        report |= {"tokens": tokens, "held": held_by_kind(run), "after": anonymous_bytes() - before}
        if saves:
            report["saves"] = _saves(run, folder / "checkpoints", prepared.ranks)
    reports: list[Any] = [None] * world
    dist.all_gather_object(reports, report)
    # The rank that holds most.
    for key in ("load_peak", "step_peak", "after"):
        report[key] = max(each[key] for each in reports)
    return report


def _saves(run: Any, folder: Path, ranks: Any) -> dict[str, Any]:
    """Seconds of steps alone, of a save that they wait for, and of saves behind them."""
    from smorm.training.saving import Saver

    def timed(action: Any) -> float:
        ranks.gather()
        began = time.monotonic()
        action()
        ranks.gather()
        return time.monotonic() - began

    saver = Saver(folder, run.named, run.optimizer, 1, ranks)
    seconds: dict[str, Any] = {"steps_alone": [timed(run.step) for _ in range(2)]}
    seconds["waited_for"] = timed(lambda: saver.save({"step": 1}))
    seconds["behind"], seconds["steps_meanwhile"] = [], []
    for step in (2, 3):  # the second into the memory of the first
        seconds["behind"].append(timed(lambda step=step: saver.save({"step": step}, behind=True)))
        began, times = time.monotonic(), []
        while any(ranks.gather(saver.is_writing)):
            times.append(timed(run.step))
        seconds["steps_meanwhile"].append(times)
        seconds.setdefault("written_after", []).append(time.monotonic() - began)
        saver.wait()
    return seconds


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m bench.ranks_memory", description=__doc__)
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--layers", type=int, default=16)
    parser.add_argument("--width", type=int, default=2048)
    parser.add_argument("--whole", action="store_true", help="read all weights on each rank")
    parser.add_argument("--saves", action="store_true", help="measure saves too")
    parser.add_argument("--precision", default="bf16", choices=["bf16", "fp32"])
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="smorm-bench-ranks-") as scratch:
        folder = Path(scratch)
        write_small_data(folder)
        count = write_weights(folder / "backbone", layers=options.layers, width=options.width)
        report = run_ranks(
            _measure, options.ranks, folder, options.whole, options.saves,
            options.precision,
        )  # fmt: skip
        planned = planned_bytes(_config(folder, options.precision), options.ranks, report["tokens"])
        report |= {"planned": planned, "step_to_plan": report["step_peak"] / planned["total"]}
    head = {"kind": "ranks-memory", "machine": describe(), "parameters": count}
    head |= {"ranks": options.ranks, "whole": options.whole, "precision": options.precision}
    files.write_json(options.json, head | report)
    print(f"{count:,} parameters over {options.ranks} ranks; of the rank that holds most, GB:")
    for key in ("load_peak", "step_peak", "after"):
        print(f"{key:10} {report[key] / 1e9:.2f}  ({report[key] / count:.1f} bytes a parameter)")
    print({kind: f"{held / 1e9:.2f} GB" for kind, held in report["held"].items()})
    print(
        f"planned {planned['total'] / 1e9:.2f} GB: the step took {report['step_to_plan']:.3f} of it"
    )
    print(f"{report['tokens']} tokens; load {report['load_seconds']:.1f} s, "
          f"step {report['step_seconds']:.1f} s")  # fmt: skip
    if options.saves:
        print(report["saves"])
    return 0


if __name__ == "__main__":
    sys.exit(main())
