"""Peak memory of one training step, against TRL's `RewardTrainer` without checkpointing:

    python -m bench.memory --json FILE [--runs N] [--model reference|small|tiny]

16 multi-turn pairs in fp32, one optimizer step from random weights: forward, backward, clipping and
AdamW. Every measurement is a process of its own; its peak is the system's count of resident memory
(`VmHWM`), set back right before the step. All arms of a run take the same weights and the same
pairs, and their losses are compared.

- `ours`: micro-batches of 768 tokens, which cost a few per cent of time at most.
- `ours, auto`: `max_batch_tokens: auto` without a budget.
- `trl`: the whole batch at once, padded, no gradient checkpointing.

`peak_memory_vs_trl` is TRL's peak divided by ours, of processes with interpreter and libraries;
`detail` has the same above what the process held before the step."""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from bench.machine import describe, json_of_process, peak_rss
from smorm import files

PAIRS = 16
TOKENS: dict[str, int | str] = {"ours": 768, "ours, auto": "auto"}
NAMES = {"ours": "peak_memory_vs_trl", "ours, auto": "peak_memory_auto_vs_trl"}
ARMS = (*TOKENS, "trl")

# Imports of torch are in the functions: the parent of the measured processes needs none of it.


def measure_step(
    arm: str, model: str, run: int, data: Path | None, tokenizer: Path | None, folder: Path,
    limit: int | None = None,
) -> dict[str, Any]:  # fmt: skip
    """One step of one arm in this process: bytes before and at the peak, the loss, tokens."""
    from bench.measure import pin
    from bench.smorm_run import run_config, start_smorm
    from bench.texts import hh_pairs, write_preferences
    from smorm.training.memory import resolve_splitting
    from smorm.training.setup import prepare

    pin(1)
    pairs = write_preferences(hh_pairs(data).records[:limit], folder / "pairs.jsonl")
    config = run_config(
        model, folder, pairs, precision="fp32", batch_size=PAIRS, tokenizer=tokenizer
    )
    # fp32 and no checkpointing in either arm: memory is compared at the same numbers.
    training = config.training.model_copy(update={"max_batch_tokens": TOKENS.get(arm, 768)})
    prepared = prepare(config.model_copy(update={"training": training}))
    indices, _ = prepared.order.step(run)
    if arm == "trl":
        return _trl_step(prepared, indices, data, folder)
    prepared = resolve_splitting(prepared, resume=False)
    smorm = start_smorm(prepared, [(indices, np.zeros(0, dtype=np.int64))])
    step = _count_memory(smorm)
    return step | {"max_batch_tokens": prepared.config.training.max_batch_tokens}


def _trl_step(prepared: Any, indices: Any, data: Path | None, folder: Path) -> dict[str, Any]:
    from bench.texts import hh_pairs
    from bench.trl_run import TrlRun, classifier

    every_record, records = hh_pairs(data).records, []
    for index in indices:
        line = int(prepared.train.pairs[index].where.rpartition(":")[2])
        records.append(every_record[line - 1])
    model, tokenizer = classifier(prepared.network), prepared.tokenizer
    # A user of TRL does not hold smorm's copy of the model and the data.
    del prepared, every_record
    with TrlRun("fp32", model, tokenizer, records, PAIRS, folder) as run:
        return _count_memory(run)


def _count_memory(run: Any) -> dict[str, Any]:
    """One step: bytes held before it and at its peak, its loss, positions computed."""
    before = reset_peak()
    step = run.step()
    return {"before": before, "peak": peak_rss(), "loss": step.loss, "tokens": step.positions}


def reset_peak() -> int:
    """Free what is unused, set the system's peak to what is held now; returns that, in bytes."""
    from smorm.training.memory import resident_bytes

    gc.collect()
    # What the C library keeps of set-up's freed memory would hide the step's first allocations.
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    return resident_bytes()


def measure_in_process(
    arm: str, model: str, run: int, data: Path | None, tokenizer: Path | None,
    limit: int | None = None,
) -> dict[str, Any]:  # fmt: skip
    """`measure_step` in a process of its own.

    Raises:
        RuntimeError: it failed."""
    arguments = ["--arm", arm, "--run", str(run), "--model", model]
    if data:
        arguments += ["--data", str(data)]
    if limit:
        arguments += ["--limit", str(limit)]
    if tokenizer:
        arguments += ["--tokenizer", str(tokenizer)]
    # TRL users have the C library's settings; smorm keeps freed memory (`smorm.model.device`).
    environment = {"SMORM_KEEP_MEMORY": "0"} if arm == "trl" else {}
    return json_of_process("bench.memory", *arguments, **environment)


def compare(
    model: str, data: Path | None, runs: int, arms: Sequence[str] = ARMS, limit: int | None = None
) -> dict[str, Any]:
    """All arms, each in a fresh process, on the pairs of `runs` steps; see `summary`."""
    from bench.smorm_run import VOCABULARY
    from bench.training_data import hh_set, write_tokenizer

    measured = []
    with TemporaryDirectory() as folder:
        # One for all processes: training it is most of what they would do.
        records = hh_set(data, Path(folder), limit)
        tokenizer = write_tokenizer([records], VOCABULARY[model], Path(folder))
        for run in range(runs):
            steps, line = {}, []
            # Every arm in each run: pairs differ between runs, and their lengths decide the peak.
            for arm in arms:
                steps[arm] = measure_in_process(arm, model, run, data, tokenizer, limit)
                line.append(f"{arm} {steps[arm]['peak'] / 1e9:.2f} GB")
            measured.append(steps)
            print(f"peak memory, run {run + 1} of {runs}: {', '.join(line)}", flush=True)
    return summary(measured)


def summary(runs: Sequence[dict[str, dict[str, Any]]]) -> dict[str, Any]:
    """Ratios, equality and detail of runs of all arms, in the shape of the other benchmarks."""

    def column(arm: str, field: str) -> Any:
        return np.array([run[arm][field] for run in runs])

    ratios, above, gaps = {}, {}, []
    for arm, name in NAMES.items():
        if arm not in runs[0]:
            continue
        peaks, smorm_peaks = column("trl", "peak"), column(arm, "peak")
        ratios[name] = _over_runs(peaks / smorm_peaks)
        above[name] = _over_runs(
            (peaks - column("trl", "before")) / (smorm_peaks - column(arm, "before"))
        )
        # Less memory at another loss would be no gain.
        gaps.append(np.abs(column(arm, "loss") - column("trl", "loss")).max())
    return {
        "ratios": ratios,
        "equality": {"peak_memory_vs_trl": float(max(gaps))},
        "detail": {"above_before": above, "pairs": PAIRS, "runs": list(runs)},
    }


def _over_runs(values: Any) -> dict[str, float]:
    """Median, lowest, highest and how many."""
    low, middle, high = np.round((np.min(values), np.median(values), np.max(values)), 4).tolist()
    return {"median": middle, "low": low, "high": high, "n": len(values)}


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m bench.memory", description=__doc__)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--model", choices=("reference", "small", "tiny"), default="reference")
    parser.add_argument("--data", type=Path)
    parser.add_argument("--limit", type=int, help="so many pairs of the set only (for tests)")
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
            step = measure_step(
                options.arm, options.model, options.run, options.data, options.tokenizer,
                Path(folder), options.limit
            )  # fmt: skip
        print(json.dumps(step))
        return 0
    content = compare(options.model, options.data, options.runs, limit=options.limit)
    content["machine"] = describe()
    options.json.parent.mkdir(parents=True, exist_ok=True)
    files.write_json(options.json, content)
    for name, ratio in content["ratios"].items():
        print(f"{name}: {ratio['median']:.2f} ({ratio['low']:.2f} to {ratio['high']:.2f})")
    gap = content["equality"]["peak_memory_vs_trl"]
    print(f"largest difference of losses: {gap:.1e}")
    return 0 if gap <= 1e-5 else 1


if __name__ == "__main__":
    sys.exit(main())
