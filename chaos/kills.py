"""`smorm train` ended at random moments and resumed, again and again, as `python -m chaos.kills`:
the bits are those of a run that nobody ended, no checkpoint is ever half there, nothing is left.

Processes are forks of one that has imported torch. Half of the moments are anywhere in the run (its
imports excepted), the others follow a change among the checkpoints, where saving is under way."""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from multiprocessing.process import BaseProcess
from pathlib import Path
from random import Random
from typing import Any

import yaml

from smorm.errors import CheckpointError
from smorm.files import MANIFEST, sha256, verify_folder
from smorm.processes import worker_context
from smorm.stopping import SIGNALS, handled
from smorm.world import backbone_path, write_dataset

STEPS = 12
SAVING_SECONDS = 0.03  # about what a save takes
_BURST_SECONDS = 0.01  # between the signals of a burst
_TIMINGS = ("tokens_per_second",)
# Its values name the folder, or are compared one by one.
_NOT_COMPARED = ("config.yaml", "metrics.jsonl")
IMPORTED = ("smorm.cli.main", "smorm.cli.train_command", "smorm.training.loop",
             "transformers.models.llama.modeling_llama")  # fmt: skip


@dataclass(slots=True)
class Report:
    """What was tried, and what was wrong."""

    kills: int = 0
    runs: int = 0
    saving: int = 0  # of the kills: while a checkpoint was being written or removed
    seconds: float = 0.0
    faults: list[str] = field(default_factory=list)


def kill_training(
    folder: Path, *, count: int, seed: int = 0, signals: Sequence[int] = (signal.SIGKILL,),
    burst: int = 1,
) -> Report:  # fmt: skip
    """End trainings in `folder` with one of the signals (`burst` of them in a row) `count` times,
    resume each until it is done, and compare every finished one."""
    report, random, began = Report(), Random(f"kills-{seed}"), time.monotonic()
    config = write_config(folder)
    straight = folder / "straight"
    import_once()
    started = time.monotonic()
    process = start_training(config, straight)
    process.join()
    duration = time.monotonic() - started
    if process.exitcode != 0:
        raise RuntimeError(f"smorm train: {_output(straight)}")
    expected = content_of(straight)
    while report.kills < count:
        run = folder / f"run-{report.runs}"
        report.runs += 1
        while report.kills < count:
            process = start_training(config, run)
            number = random.choice(signals)
            if not _end(process, run, random, duration, number, burst):
                break
            report.kills += 1
            report.saving += bool(list(run.glob("checkpoints/.*")))
            report.faults += _faults_after(run, process, number)
        else:
            process = start_training(config, run)
            process.join()
        report.faults += faults_of_finished(run, process, expected)
        shutil.rmtree(run)
    report.seconds = time.monotonic() - began
    return report


def import_once() -> None:
    """Start a process that does nothing: the very first one also waits for the imports."""
    process = worker_context(*IMPORTED).Process(target=os.getpid)
    process.start()
    process.join()


def write_config(folder: Path) -> Path:
    """A configuration of a tiny run that saves every step, with its data."""
    data = write_dataset(
        folder / "world", seed=5, num_pairs=24, num_rated=12, num_dev_pairs=4, num_eval_pairs=4,
        num_eval_rated=4,
    )  # fmt: skip
    values: dict[str, Any] = {
        "model": {"backbone": str(backbone_path())},
        "data": {
            "preference": str(data["train-pairs"]), "rated": str(data["train-rated"]),
            "max_tokens": 256,
        },
        "training": {
            "max_steps": STEPS, "batch_size": 4, "learning_rate": 1e-3, "threads": 1,
            "save_every": 1, "log_every": 1,
        },
        "output": {"folder": "unset"},
    }  # fmt: skip
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(values), encoding="utf-8")
    return path


def start_training(config: Path, run: Path, *, resume: bool = True) -> BaseProcess:
    """A process that begins the run, or goes on with it."""
    words = ["train", str(config), f"output.folder={run}"]
    if resume:
        words.append("--resume")
    process = worker_context(*IMPORTED).Process(target=run_smorm, args=(f"{run}.txt", *words))
    process.start()
    return process


def run_smorm(printed: str, *words: str) -> None:
    """What the program does with these words; what it prints is appended to a file."""
    from smorm.cli.main import main

    output = os.open(printed, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    for descriptor in (1, 2):
        os.dup2(output, descriptor)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.argv = ["smorm", *words]
    # Workers have stop signals blocked. One that waits already must find the program's handler.
    with handled():
        try:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
            main()
        except KeyboardInterrupt:
            sys.exit(130)


def _end(
    process: BaseProcess, run: Path, random: Random, duration: float, number: int, burst: int
) -> bool:
    """Send the signals at a random moment; False where the run was done before that."""
    if random.random() < 0.5:
        process.join(random.uniform(0.0, duration))
    else:
        for _ in range(random.randrange(1, STEPS)):
            before = checkpoint_names(run)
            while process.is_alive() and checkpoint_names(run) == before:
                time.sleep(0.002)
        process.join(random.uniform(0.0, SAVING_SECONDS))
    if not process.is_alive():
        return False
    for _ in range(burst):
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(process.pid or 0), number)
        time.sleep(_BURST_SECONDS * (burst > 1))
    process.join()
    return True


def checkpoint_names(run: Path) -> set[str]:
    with contextlib.suppress(OSError):
        return set(os.listdir(run / "checkpoints"))
    return set()


def _faults_after(run: Path, process: BaseProcess, number: int) -> Iterator[str]:
    """What may never be there after a signal."""
    yield from half_checkpoints(run)
    if number == signal.SIGKILL:
        return
    # It may have been done just before.
    if process.exitcode not in (0, 130):
        yield f"exit code {process.exitcode}: {_output(run)[-600:]}"
    yield from _hidden(run)


def half_checkpoints(run: Path) -> Iterator[str]:
    """Of checkpoints that have their name and are not whole."""
    for checkpoint in run.glob("checkpoints/step-*"):
        try:
            verify_folder(checkpoint)
        except CheckpointError as error:
            # A run that goes on removes older ones.
            if checkpoint.exists():
                yield f"half a checkpoint: {error}"
        except FileNotFoundError:
            continue


def faults_of_finished(
    run: Path, process: BaseProcess, expected: Mapping[str, object]
) -> Iterator[str]:
    if process.exitcode != 0:
        yield f"exit code {process.exitcode}: {_output(run)[-600:]}"
        return
    if "Traceback" in _output(run):
        yield f"traceback: {_output(run)[-2000:]}"
    yield from _hidden(run)
    content = content_of(run)
    different = [name for name in {*content, *expected} if content.get(name) != expected.get(name)]
    if different:
        yield f"{run.name}: other bits in {', '.join(sorted(different))}"


def _hidden(run: Path) -> Iterator[str]:
    hidden = [str(path) for path in run.parent.rglob(".*")]
    if hidden:
        yield f"left: {', '.join(hidden)}"


def content_of(run: Path) -> dict[str, object]:
    """All that a run computes, by file: sums, and the metrics without their timings."""
    content: dict[str, object] = {}
    for path in sorted(run.rglob("*")):
        name = path.relative_to(run).as_posix()
        # The parts of sharded ranks are written with settings in random order, which sums show.
        if path.parent.name in ("weights", "optimizer"):
            content[name] = _tensors_sum(path)
        elif path.name == MANIFEST and (path.parent / "weights").is_dir():
            continue
        elif path.is_file() and path.name not in _NOT_COMPARED:
            content[name] = sha256(path)
    for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines():
        values = {name: value for name, value in json.loads(line).items() if name not in _TIMINGS}
        content[f"metrics of step {values['step']}"] = values
    return content


def _tensors_sum(path: Path) -> str:
    """SHA-256 of the tensors of a safetensors file and their names, types and settings, whatever
    the order of its header."""
    with path.open("rb") as stream:
        header = json.loads(stream.read(int.from_bytes(stream.read(8), "little")))
        digest = hashlib.sha256(json.dumps(header, sort_keys=True).encode())
        digest.update(stream.read())
    return digest.hexdigest()


def _output(run: Path) -> str:
    return run.with_name(f"{run.name}.txt").read_text(encoding="utf-8", errors="replace")


def main() -> int:
    """The command line; 1 where something was wrong."""
    parser = argparse.ArgumentParser(prog="python -m chaos.kills", description=__doc__)
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--signals", default="SIGKILL", help="separated by commas")
    parser.add_argument("--burst", type=int, default=1, help="signals in a row")
    options = parser.parse_args()
    signals = [signal.Signals[name] for name in options.signals.split(",")]
    with tempfile.TemporaryDirectory(prefix="smorm-kills-") as folder:
        report = kill_training(
            Path(folder), count=options.count, seed=options.seed, signals=signals,
            burst=options.burst,
        )  # fmt: skip
    print(f"{report.kills} kills ({report.saving} while saving) of {report.runs} runs in "
          f"{report.seconds:.0f} s: {len(report.faults)} faults")  # fmt: skip
    for fault in report.faults:
        print(fault)
    return int(bool(report.faults))


if __name__ == "__main__":
    sys.exit(main())
