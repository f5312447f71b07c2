"""The CUDA path in one run of minutes: equality, training, scoring, peak, and where time goes.

    python -m bench.gpu --json FILE [--minutes 9] [--shapes llama-3.2-1b,gemma-2b]

Random weights at true shapes; token batches with the lengths of HH harmless-base. Training is
compared with TRL's `RewardTrainer` (where TRL can be imported; the file says where not) and with
the padded loop, scoring with the padded loop of 8, as given and sorted by length. The file is
written anew after every part, a part that fails leaves its traceback there, and no part begins
behind the time limit. `--device cpu --tiny` runs the same code with small sizes.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from bench.gpu_models import SHAPES, shape_of
from bench.gpu_parts import (
    Setting,
    attempt,
    equality,
    peak,
    release,
    scoring,
    trace,
    training,
)
from bench.machine import describe
from smorm import files

Part = tuple[str, Callable[[], dict[str, Any]]]


def parts(setting: Setting, shapes: Sequence[str], rate: dict[str, float]) -> list[Part]:
    """All parts in order of weight: what must not be lost comes first."""
    known = [shape_of(name, setting.tiny) for name in shapes]
    found: list[Part] = [(f"equality {s.name}", partial(equality, setting, s)) for s in known]
    for s in known:
        found.append((f"training {s.name}", partial(training, setting, s, rate)))
        found.append((f"trl {s.name}", partial(_trl, setting, s, rate)))
        found.append((f"scoring {s.name}", partial(scoring, setting, s, rate)))
    return found + [(f"trace {s.name}", partial(trace, setting, s)) for s in known]


def _trl(setting: Setting, shape: Any, rate: dict[str, float]) -> dict[str, Any]:
    """TRL's step; where it is not installed the padded loop of `training` stands for it."""
    try:
        import trl  # noqa: F401
    except ImportError as error:
        return {"not_run": f"{error}: the padded arms of training are the same step without it"}
    from bench.gpu_trl import trl_training

    return trl_training(setting, shape, rate)


def run(setting: Setting, shapes: Sequence[str], path: Path, minutes: float) -> dict[str, Any]:
    """Run all parts; returns what is in the file."""
    started = time.monotonic()
    machine = describe()
    if setting.device.type == "cuda":
        machine["device"] = torch.cuda.get_device_name(setting.device)
        machine["cuda"] = torch.version.cuda
    result: dict[str, Any] = {"machine": machine, "tiny": setting.tiny, "parts": {}}
    rate = attempt(lambda: peak(setting))
    result["peak_flops"] = rate
    if "failed" in rate:
        rate = {}
    for name, work in parts(setting, shapes, rate):
        passed = time.monotonic() - started
        if passed > 60 * minutes:
            result["parts"][name] = {"not_run": f"{passed:.0f} s had passed"}
            continue
        result["parts"][name] = attempt(work)
        release()
        result["parts"][name]["part_seconds"] = time.monotonic() - started - passed
        files.write_json(path, result)
        failed = " FAILED" if "failed" in result["parts"][name] else ""
        print(f"{time.monotonic() - started:6.0f} s  {name}{failed}", flush=True)
    result["ratios"] = ratios(result["parts"])
    files.write_json(path, result)
    return result


def ratios(found: dict[str, Any]) -> dict[str, float]:
    """How many times longer the others take, of the medians."""
    told: dict[str, float] = {}

    def add(name: str, slow: Any, fast: Any) -> None:
        if slow and fast and "seconds" in slow and "seconds" in fast:
            told[name] = slow["seconds"] / fast["seconds"]

    for part, values in found.items():
        kind, _, shape = part.partition(" ")
        ours = found.get(f"training {shape}", {}).get("forest")
        if kind == "training":
            add(f"{shape}: training vs padded", values.get("padded"), ours)
            add(
                f"{shape}: training vs padded, both checkpointed",
                values.get("padded checkpointed"),
                values.get("forest checkpointed"),
            )
        elif kind == "trl":
            for setting in ("defaults", "no checkpointing"):
                add(f"{shape}: training vs TRL, {setting}", values.get(setting), ours)
        elif kind == "scoring":
            for work in ("pairs", "best of 16", "best of 64"):
                arms = values.get(work, {})
                for arm in ("padded", "padded sorted"):
                    add(f"{shape}: scoring {work} vs {arm}", arms.get(arm), arms.get("forest"))
    return told


def main(arguments: Sequence[str] | None = None) -> int:
    """Run; exit code 1 where a part failed."""
    parser = argparse.ArgumentParser(prog="python -m bench.gpu", description=__doc__)
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=9.0)
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
    setting = Setting(torch.device(options.device), options.tiny, options.repeats)
    result = run(setting, shapes, options.json, options.minutes)
    for name, value in result["ratios"].items():
        print(f"{name}: {value:.2f} times")
    return int(any(_failures(result["parts"])))


def _failures(node: Any) -> list[str]:
    """Every recorded failure, however deep."""
    if not isinstance(node, dict):
        return []
    own = [node["failed"]] if "failed" in node else []
    return own + [failure for child in node.values() for failure in _failures(child)]


if __name__ == "__main__":
    sys.exit(main())
