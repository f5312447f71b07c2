"""The CUDA path in runs of minutes: equality, training, scoring, peak, and where time goes.

    python -m bench.gpu --json FILE [--part equality|speed|scale] [--minutes 9]
        [--shapes llama-3.2-1b,gemma-2b]

Three parts that stand alone, each of about four minutes: `equality` of every attention kernel and
of whole models, with the number of compiled graphs; `speed` of training and scoring; `scale`:
FSDP2 on one device, and a server under load.

Random weights at true shapes; token batches with the lengths of HH harmless-base. Training is
compared with TRL's `RewardTrainer` (where TRL can be imported; the file says where not) and with
the padded loop, scoring with the padded loop of 8, as given and sorted by length. The file is
written again after every measurement, one that fails leaves its traceback there, and none begins
after the time limit. `--device cpu --tiny` runs the same code with small sizes."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from bench.gpu_kernels import attention_kernels, recompilations
from bench.gpu_measurements import (
    Measured,
    Setting,
    attempt,
    equality,
    peak,
    release,
    scoring,
    setting_for,
    trace,
    training,
    trl_training,
)
from bench.gpu_models import SHAPES, shape_of
from bench.gpu_scale import server, sharded_training
from bench.machine import describe
from smorm import files

PARTS = ("equality", "speed", "scale")


def measurements(
    setting: Setting, names: Sequence[str], parts: Sequence[str]
) -> dict[str, Callable[[], Measured]]:
    """All measurements by name, the most important first: a later one may not be reached."""
    shapes = [shape_of(name, setting.tiny) for name in names]
    steps: dict[str, Callable[[], Measured]] = {}
    if "equality" in parts:
        for shape in shapes:
            steps[f"equality {shape.name}"] = partial(equality, setting, shape)
        steps["attention kernels"] = partial(attention_kernels, setting)
        steps["compiled graphs"] = partial(recompilations, setting)
    if "speed" in parts:
        for shape in shapes:
            steps[f"training {shape.name}"] = partial(training, setting, shape)
            steps[f"trl {shape.name}"] = partial(trl_training, setting, shape)
            steps[f"scoring {shape.name}"] = partial(scoring, setting, shape)
        for shape in shapes:
            steps[f"trace {shape.name}"] = partial(trace, setting, shape)
    if "scale" in parts:
        for shape in shapes:
            steps[f"sharded {shape.name}"] = partial(sharded_training, setting, shape)
            steps[f"server {shape.name}"] = partial(server, setting, shape)
    return steps


def run(
    setting: Setting, shapes: Sequence[str], parts: Sequence[str], path: Path, minutes: float
) -> dict[str, Any]:
    """Run all measurements of some parts; returns what is in the file."""
    started = time.monotonic()
    machine = describe()
    if setting.cuda:
        machine["device"] = torch.cuda.get_device_name(setting.device)
        machine["cuda"] = torch.version.cuda
    result: dict[str, Any] = {"machine": machine, "tiny": setting.tiny, "parts": {}}
    peaks = result["peak_flops"] = attempt(partial(peak, setting))
    if "failed" not in peaks:
        setting = replace(setting, peaks=peaks)
    for name, measure in measurements(setting, shapes, parts).items():
        passed = time.monotonic() - started
        if passed > 60 * minutes:
            result["parts"][name] = {"not_run": f"{passed:.0f} s had passed"}
            continue
        measured = result["parts"][name] = attempt(measure)
        release()
        measured["part_seconds"] = time.monotonic() - started - passed
        # Each time: a machine that is lent by the minute may end before the last measurement.
        files.write_json(path, result)
        failed = " FAILED" if "failed" in measured else ""
        print(f"{time.monotonic() - started:6.0f} s  {name}{failed}", flush=True)
    result["ratios"] = ratios(result["parts"])
    files.write_json(path, result)
    return result


def ratios(measured: dict[str, Any]) -> dict[str, float]:
    """How many times longer the baselines take, of the medians."""
    times: dict[str, float] = {}

    def add(name: str, slow: Any, fast: Any) -> None:
        if slow and fast and "seconds" in slow and "seconds" in fast:
            times[name] = slow["seconds"] / fast["seconds"]

    for name, values in measured.items():
        kind, _, shape = name.partition(" ")
        forest = measured.get(f"training {shape}", {}).get("forest")
        if kind == "training":
            add(f"{shape}: training vs padded", values.get("padded"), forest)
            add(
                f"{shape}: training vs padded, both checkpointed",
                values.get("padded checkpointed"),
                values.get("forest checkpointed"),
            )
        elif kind == "trl":
            for setting in ("defaults", "no checkpointing"):
                add(f"{shape}: training vs TRL, {setting}", values.get(setting), forest)
        elif kind == "scoring":
            for work in ("pairs", "best of 16", "best of 64"):
                arms = values.get(work, {})
                for arm in ("padded", "padded sorted"):
                    add(f"{shape}: scoring {work} vs {arm}", arms.get(arm), arms.get("forest"))
    return times


def main(arguments: Sequence[str] | None = None) -> int:
    """Run; exit code 1 where a part failed."""
    parser = argparse.ArgumentParser(prog="python -m bench.gpu", description=__doc__)
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--part", choices=PARTS, help="only this one")
    parser.add_argument("--minutes", type=float, default=9.0, help="no measurement begins later")
    parser.add_argument("--shapes", default=",".join(SHAPES))
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args(arguments)
    shapes = options.shapes.split(",")
    if unknown := sorted(set(shapes) - set(SHAPES)):
        parser.error(f"no shape {', '.join(unknown)}: there are {', '.join(SHAPES)}")
    if options.device.startswith("cuda") and not torch.cuda.is_available():
        parser.error("there is no CUDA device here: --device cpu --tiny tries the script")
    options.json.parent.mkdir(parents=True, exist_ok=True)
    setting = setting_for(options.device, options.tiny, options.repeats)
    parts = PARTS if options.part is None else (options.part,)
    result = run(setting, shapes, parts, options.json, options.minutes)
    for name, value in result["ratios"].items():
        print(f"{name}: {value:.2f} times")
    return int(_has_failed(result["parts"]))


def _has_failed(node: Any) -> bool:
    """Whether a failure is recorded, however deep."""
    if not isinstance(node, dict):
        return False
    return "failed" in node or any(map(_has_failed, node.values()))


if __name__ == "__main__":
    sys.exit(main())
