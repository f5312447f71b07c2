"""Choose hyper-parameters on a validation part of the training files; `dev` is never read.

Every method gets the same number of tries over the same learning rates. The tries, and every
validation number, are written to `tuning.json` beside this file, and `experiments.real` uses it.

    python -m experiments.tuning --data ../shared/data"""

from __future__ import annotations

import itertools
import logging
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments.command import make_run_parser, run_command, say
from experiments.real import METHODS, execute, make_run, shared_tokenizer
from experiments.real_summary import Finished, results_of_kind
from experiments.runs import Run, in_processes
from experiments.tasks import TASKS, TUNED, Task, split_validation
from smorm.files import write_json

SEED = 100  # none of the final seeds
# The same for all methods, so that none is tuned more finely.
LEARNING_RATES = (3e-4, 1e-3, 3e-3)
EPOCHS: dict[str, dict[str, tuple[float, float]]] = {
    # Of the pairs for Single and SMORM; of the ratings for Multi, so many that it sees about as
    # many rated responses as SMORM does.
    "truthfulqa": {"Single": (1, 2), "SMORM": (1, 2), "Multi": (7, 14)},
    "ukp": {"Single": (0.3, 0.6), "SMORM": (0.3, 0.6), "Multi": (3.5, 7)},
}
CRITERION = (
    "accuracy on validation pairs: of F for Single, of L for Multi, the mean of F's and L's for "
    "SMORM"
)


def grid(task: Task, data: Path, work: Path) -> list[Run]:
    """Every configuration of every method."""
    files = split_validation(task, data, work / task.name / "split")
    tokenizer = shared_tokenizer(task, files, work)
    runs = []
    for method in METHODS:
        for epochs, rate in itertools.product(EPOCHS[task.name][method], LEARNING_RATES):
            settings = (f"training.learning_rate={rate}", f"training.epochs={epochs}")
            runs.append(make_run(task, method, SEED, files, tokenizer, work, settings))
    return runs


def accuracies(done: Finished) -> dict[str, float]:
    """Accuracy on validation pairs of each view."""
    results = results_of_kind([done], "pairs")
    return {result.view: result.metrics["accuracy"].value for result in results}


def criterion(by_view: Mapping[str, float]) -> float:
    """The number by which settings are chosen: the mean over F and L, whichever exist."""
    values = [value for view, value in by_view.items() if view in ("F", "L")]
    return sum(values) / len(values)


def summarise(finished: Sequence[Finished]) -> dict[str, Any]:
    """Tries by task and method, and the best of each."""
    tried: dict[str, dict[str, list[dict[str, Any]]]] = {}
    for done in finished:
        by_view = accuracies(done)
        row: dict[str, Any] = {}
        for setting in done.run.settings:
            key, _, value = setting.partition("=")
            if key in ("training.learning_rate", "training.epochs"):
                row[key] = float(value)
        row["accuracy"] = {view: round(value, 4) for view, value in by_view.items()}
        row["criterion"] = round(criterion(by_view), 4)
        tried.setdefault(done.run.task.name, {}).setdefault(done.run.name, []).append(row)
    chosen: dict[str, dict[str, Any]] = {}
    for task, methods in tried.items():
        chosen[task] = {}
        for method, rows in methods.items():
            # Cheaper tries first, so that `max` takes the cheapest of equals.
            rows.sort(key=lambda row: (row["training.epochs"], row["training.learning_rate"]))
            chosen[task][method] = _settings(max(rows, key=lambda row: float(row["criterion"])))
    return {"seed": SEED, "criterion": CRITERION, "tried": tried, "chosen": chosen}


def _settings(row: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in row.items() if key.startswith("training.")}


def tune(data: Path, work: Path, jobs: int) -> None:
    """Tune every task and write `tuning.json`."""
    runs: list[Run] = []
    for task in TASKS.values():
        runs += grid(task, data, work)
    finished: list[Finished] = []
    for done in in_processes(execute, runs, jobs):
        finished.append(done)
        say(
            f"[{len(finished)}/{len(runs)}] {done.run.task.name} {done.run.name} "
            f"{' '.join(done.run.settings[-2:])}: {criterion(accuracies(done)):.4f} "
            f"({done.cost['minutes']:.1f} min)"
        )
    write_json(TUNED, summarise(finished))


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse, run; the exit code."""
    parser = make_run_parser("tuning")
    parser.set_defaults(work=Path("runs/real"))
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.WARNING)
    return run_command(options.data, lambda: tune(options.data, options.work, options.jobs))


if __name__ == "__main__":
    sys.exit(main())
