"""Peak memory of one training step, against TRL's `RewardTrainer` without checkpointing:

    python -m bench.memory --json FILE [--runs N] [--model reference|small|tiny]

16 multi-turn pairs in fp32, one optimizer step from random weights: forward, backward, clipping and
AdamW. Every measurement is a process of its own; its peak is the system's count of resident memory
(`VmHWM`), set back right before the step. All arms of a run take the same weights and the same
pairs, and their losses are compared.

- `ours`: micro-batches of 768 tokens, which cost a few per cent of time at most.
- `ours, auto`: `max_batch_tokens: auto` with nothing said of the memory.
- `trl`: the whole batch at once, padded, no gradient checkpointing.

`peak_memory_vs_trl` is TRL's peak in units of ours, whole processes with interpreter and libraries;
`detail` has the same above what the process held before the step.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from bench.machine import describe
from smorm import files

PAIRS = 16
TOKENS: dict[str, int | str] = {"ours": 768, "ours, auto": "auto"}
ARMS = (*TOKENS, "trl")


def measured(
    arm: str, model: str, run: int, data: Path | None, tokenizer: Path | None, folder: Path
) -> dict[str, Any]:
    """One step of one arm in this process: bytes before and at the peak, the loss, tokens."""
    from bench.measure import pin
    from bench.ours import config_of
    from bench.texts import pairs_file
    from smorm.training.memory import resolve_batch_tokens
    from smorm.training.setup import prepare

    pin(1)
    config = config_of(
        model, folder, pairs_file(data, folder), precision="fp32", batch_size=PAIRS,
        tokenizer=tokenizer,
    )  # fmt: skip
    training = config.training.model_copy(update={"max_batch_tokens": TOKENS.get(arm, 768)})
    prepared = prepare(config.model_copy(update={"training": training}))
    chosen, _ = prepared.order.step(run)
    if arm == "trl":
        return _trl_step(prepared, chosen, data, folder)
    prepared = resolve_batch_tokens(prepared, resume=False)
    return _our_step(prepared, chosen)


def _our_step(prepared: Any, chosen: Any) -> dict[str, Any]:
    from bench.ours import begin

    ours = begin(prepared, ((chosen, np.zeros(0, dtype=np.int64)),))
    before = start_counting()
    result = ours.step()
    return {
        "before": before,
        "peak": peak_bytes(),
        "loss": result.values["loss"],
        "tokens": result.tokens,
        "max_batch_tokens": prepared.config.training.max_batch_tokens,
    }


def _trl_step(prepared: Any, chosen: Any, data: Path | None, folder: Path) -> dict[str, Any]:
    from bench.texts import hh_pairs
    from bench.trl_side import TrlSide, classifier

    lines = [int(prepared.train.pairs[i].where.rpartition(":")[2]) for i in chosen]
    every = hh_pairs(data).records
    records, tokenizer = [every[line - 1] for line in lines], prepared.tokenizer
    model = classifier(prepared.network)
    del prepared, every
    with TrlSide("fp32", model, tokenizer, records, PAIRS, folder) as side:
        before = start_counting()
        loss = side.step()
        return {
            "before": before,
            "peak": peak_bytes(),
            "loss": loss,
            "tokens": side.watch.positions[0],
        }


def start_counting() -> int:
    """Give back what is free, set the system's peak to what is held now; returns that, in bytes."""
    import ctypes
    import gc

    from smorm.training.memory import resident_bytes

    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    return resident_bytes()


def peak_bytes() -> int:
    """The most memory that this process held since `start_counting`."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    line = next(line for line in status.splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


def fresh(
    arm: str, model: str, run: int, data: Path | None, tokenizer: Path | None
) -> dict[str, Any]:
    """`measured` in a process of its own.

    Raises:
        RuntimeError: it failed; the message is the end of what it said.
    """
    command = [sys.executable, "-m", "bench.memory", "--arm", arm, "--run", str(run)]
    command += ["--model", model]
    command += ["--data", str(data)] if data else []
    command += ["--tokenizer", str(tokenizer)] if tokenizer else []
    # TRL users have the C library's settings; smorm keeps freed memory (`smorm.model.cpu.malloc`).
    own = {"SMORM_KEEP_MEMORY": "0"} if arm == "trl" else {}
    done = subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, **own}, check=False
    )
    if done.returncode:
        raise RuntimeError(f"{arm}: {done.stderr.strip()[-2000:]}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def compared(
    model: str, data: Path | None, runs: int, arms: Sequence[str] = ARMS
) -> dict[str, Any]:
    """All arms, each in a fresh process, on the pairs of so many steps; see `summary`."""
    found = []
    with TemporaryDirectory() as folder:
        tokenizer = _tokenizer(model, data, Path(folder))
        for run in range(runs):
            found.append({arm: fresh(arm, model, run, data, tokenizer) for arm in arms})
            peaks = ", ".join(f"{arm} {one['peak'] / 1e9:.2f} GB" for arm, one in found[-1].items())
            print(f"peak memory, run {run + 1} of {runs}: {peaks}", flush=True)
    return summary(found)


def _tokenizer(model: str, data: Path | None, folder: Path) -> Path:
    """One for all processes: training it is most of what they would do."""
    from bench.ours import VOCABULARY
    from bench.training_data import hh_set, write_tokenizer

    return write_tokenizer([hh_set(data, folder)], VOCABULARY[model], folder)


def summary(runs: Sequence[dict[str, dict[str, Any]]]) -> dict[str, Any]:
    """Ratios, equality and detail of runs of all arms, in the shape of the other benchmarks."""
    ratios, above = {}, {}
    names = {"ours": "peak_memory_vs_trl", "ours, auto": "peak_memory_auto_vs_trl"}
    ours = [arm for arm in names if arm in runs[0]]
    for arm in ours:
        name = names[arm]
        ratios[name] = spread([run["trl"]["peak"] / run[arm]["peak"] for run in runs])
        above[name] = spread([_above(run["trl"]) / _above(run[arm]) for run in runs])
    gaps = [abs(run[arm]["loss"] - run["trl"]["loss"]) for run in runs for arm in ours]
    return {
        "ratios": ratios,
        "equality": {"peak_memory_vs_trl": max(gaps)},
        "detail": {"above_before": above, "pairs": PAIRS, "runs": list(runs)},
    }


def _above(found: dict[str, Any]) -> float:
    return float(found["peak"] - found["before"])


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median, lowest, highest and how many."""
    low, middle, high = (round(f(values), 4) for f in (min, statistics.median, max))
    return {"median": middle, "low": low, "high": high, "n": len(values)}


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m bench.memory", description=__doc__)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--model", choices=("reference", "small", "tiny"), default="reference")
    parser.add_argument("--data", type=Path)
    parser.add_argument("--arm", choices=ARMS, help="one arm in this process (used by itself)")
    parser.add_argument("--run", type=int, default=0)
    parser.add_argument("--tokenizer", type=Path, help="a folder (used by itself)")
    options = parser.parse_args(arguments)
    if options.arm is None and options.json is None:
        parser.error("--json FILE is missing: where the figures go")
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and write; exit code 1 where the losses are not the same."""
    options = parse(arguments)
    if options.arm is not None:
        with TemporaryDirectory() as folder:
            found = measured(
                options.arm, options.model, options.run, options.data, options.tokenizer,
                Path(folder),
            )  # fmt: skip
        print(json.dumps(found))
        return 0
    found = with_machine(compared(options.model, options.data, options.runs))
    options.json.parent.mkdir(parents=True, exist_ok=True)
    files.write_json(options.json, found)
    for name, ratio in found["ratios"].items():
        print(f"{name}: {ratio['median']:.2f} ({ratio['low']:.2f} to {ratio['high']:.2f})")
    gap = found["equality"]["peak_memory_vs_trl"]
    print(f"largest difference of losses: {gap:.1e}")
    return 0 if gap <= 1e-5 else 1


def with_machine(found: dict[str, Any]) -> dict[str, Any]:
    """With what it was measured on."""
    return {**found, "machine": describe()}


if __name__ == "__main__":
    sys.exit(main())
