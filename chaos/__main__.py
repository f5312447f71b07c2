"""`python -m chaos`: trials of all classes; prints trials and faults by class, exits 1 on any."""

from __future__ import annotations

import argparse
import contextlib
import importlib
import json
import os
import pkgutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from chaos import (
    bombs,
    configs,
    injections,
    interrupted,
    models,
    outputs,
    records,
    results,
    servers,
)
from chaos.kills import kill_training
from chaos.rank_kills import kill_ranks
from chaos.served import drains, faults, fuzz, safety
from chaos.stage import Stage, set_stage
from chaos.trial import Fault, Found, Trial, run_trials

Maker = Callable[[Stage, int, int], Iterator[Trial]]
CLASSES: dict[str, tuple[Maker, int]] = {
    "records": (records.trials, 900),
    "configs": (configs.trials, 500),
    "results": (results.trials, 400),
    "cards": (results.card_trials, 200),
    "models": (models.trials, 500),
    "hostile": (models.hostile_trials, 150),
    "outputs": (outputs.trials, 300),
    "interrupted": (interrupted.trials, 200),
    "races": (interrupted.race_trials, 60),
    "servers": (servers.trials, 110),
    "injections": (injections.trials, 300),
    "bombs": (bombs.trials, 150),
    "served_safety": (safety.trials, 100),
}
"""Of each class, what makes its trials, and how many there are in a whole run."""


def _kills(stage: Stage, folder: Path, count: int, seed: int) -> tuple[int, list[Found]]:
    folder.mkdir()
    report = kill_training(folder, count=count, seed=seed)
    return report.kills, [Found("kills", Fault.DIFFERENCE, text) for text in report.faults]


def _rank_kills(stage: Stage, folder: Path, count: int, seed: int) -> tuple[int, list[Found]]:
    folder.mkdir()
    report = kill_ranks(folder, count=count, seed=seed)
    return report.kills, [Found("rank_kills", Fault.DIFFERENCE, text) for text in report.faults]


_LARGEST = 5  # trials of a class whose memory is in the report
Runner = Callable[[Stage, Path, int, int], tuple[int, list[Found]]]
RUNNERS: dict[str, tuple[Runner, int]] = {
    "kills": (_kills, 200),
    "rank_kills": (_rank_kills, 30),
    "served_fuzz": (fuzz.fuzz, 600),
    "served_workers": (faults.break_workers, 40),
    "served_drains": (drains.drain, 12),
}
"""Classes that start processes of their own: what runs them in a folder and finds faults, and how
many trials there are in a whole run."""


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m chaos", description=__doc__)
    known = [*CLASSES, *RUNNERS]
    parser.add_argument("--only", default=",".join(known), help="classes, separated by commas")
    parser.add_argument("--share", type=float, default=1.0, help="of each class's trials")
    parser.add_argument(
        "--each", "--count", type=int, help="so many trials of each class, whatever its share"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--json", type=Path, help="counts and faults, as a file")
    parser.add_argument("--keep", type=Path, help="folder for the folders of trials that failed")
    options = parser.parse_args(arguments)
    names = options.only.split(",")
    if unknown := sorted(set(names) - set(known)):
        parser.error(f"--only: unknown {', '.join(unknown)}; known are {', '.join(known)}")
    if options.keep is not None:
        options.keep.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="smorm-chaos-") as folder:
        return run(names, Path(folder), options)


def run(names: Sequence[str], workplace: Path, options: argparse.Namespace) -> int:
    """Run the classes and print a table; 1 where a trial found a fault."""
    _prepare_process()
    stage = set_stage(workplace / "stage")
    report: dict[str, object] = {}
    everything: list[Found] = []
    count = 0
    print(f"{'class':<14}{'trials':>8}{'faults':>8}{'seconds':>9}{'peak MiB':>10}")
    for name in names:
        began = time.monotonic()
        done, findings, peaks = _run_class(name, stage, workplace / name, options)
        seconds = time.monotonic() - began
        largest = peaks.most_common(_LARGEST)
        peak = largest[0][1] if largest else None
        mebibytes = "-" if peak is None else f"{peak >> 20}"
        print(f"{name:<14}{done:>8}{len(findings):>8}{seconds:>9.0f}{mebibytes:>10}", flush=True)
        report[name] = {
            "trials": done,
            "faults": dict(Counter(finding.fault.value for finding in findings)),
            "peak_bytes": peak,
            "largest": largest,
        }
        everything += findings
        count += done
    print(f"{'all':<14}{count:>8}{len(everything):>8}")
    for fault in Fault:
        print(f"{fault.value}: {sum(finding.fault is fault for finding in everything)}")
    for finding in everything:
        print(f"\n{finding.trial}: {finding.fault.value}\n  {finding.detail!a}")
    if options.json is not None:
        details = [[finding.trial, finding.fault.value, finding.detail] for finding in everything]
        options.json.write_text(json.dumps({"classes": report, "faults": details}, indent=2) + "\n")
    return int(bool(everything))


def _run_class(
    name: str, stage: Stage, folder: Path, options: argparse.Namespace
) -> tuple[int, list[Found], Counter[str]]:
    """How many trials there were, what was wrong, and the most memory that each took above what
    this process has, by the trial's name (of `RUNNERS` it is not measured)."""
    if name in RUNNERS:
        runner, number = RUNNERS[name]
        count = options.each or max(1, round(number * options.share))
        return *runner(stage, folder, count, options.seed), Counter()
    make, number = CLASSES[name]
    done = 0
    findings: list[Found] = []
    peaks: Counter[str] = Counter()
    count = options.each or max(1, round(number * options.share))
    trials = make(stage, options.seed, count)
    for finished in run_trials(trials, folder, options.jobs, options.keep):
        done += 1
        findings += finished.faults
        name_of_trial = finished.trial.name
        peaks[name_of_trial] = max(peaks[name_of_trial], finished.peak_bytes)
    return done, findings, peaks


def _prepare_process() -> None:
    """One thread a child; and what children need is imported before they are forked."""
    import torch
    import transformers  # noqa: F401

    import smorm

    torch.set_num_threads(1)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    for module in pkgutil.walk_packages(smorm.__path__, "smorm."):
        if module.name.endswith(".__main__"):  # its import runs it
            continue
        # Some are for a package that its users have: verl.
        with contextlib.suppress(ModuleNotFoundError):
            importlib.import_module(module.name)


if __name__ == "__main__":
    sys.exit(main())
