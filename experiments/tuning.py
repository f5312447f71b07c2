"""Choose hyper-parameters on a validation part of the training files; `dev` is never read.

Every method gets the same number of tries over the same learning rates. What was tried, and every
validation number, is written to `tuning.json` beside this file, and `experiments.real` uses it.

    python -m experiments.tuning --data ../shared/data
"""

from __future__ import annotations

import argparse
import itertools
import logging
from pathlib import Path
from typing import Any

from experiments.runs import METHODS, Finished, Run, execute_all, shared_tokenizer
from experiments.tasks import TASKS, Task, split_validation, write_tuning

SEED = 100  # none of the final seeds
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
    return [
        Run(
            task,
            method,
            SEED,
            files,
            tokenizer,
            work,
            (f"training.learning_rate={rate}", f"training.epochs={epochs}"),
        )
        for method in METHODS
        for epochs, rate in itertools.product(EPOCHS[task.name][method], LEARNING_RATES)
    ]


def score(done: Finished) -> float:
    """The criterion of this run's method."""
    values = {
        result.view: result.metrics["accuracy"].value
        for result in done.results
        if result.suite.startswith("pairs/")
    }
    wanted = [values[view] for view in ("F", "L") if view in values]
    return sum(wanted) / len(wanted)


def summarise(finished: list[Finished]) -> dict[str, Any]:
    """Tries by task and method, and the best of each (the cheaper one of equals)."""
    tried: dict[str, dict[str, list[dict[str, Any]]]] = {}
    for done in finished:
        values = dict(setting.split("=") for setting in done.run.settings)
        accuracies = {
            result.view: round(result.metrics["accuracy"].value, 4)
            for result in done.results
            if result.suite.startswith("pairs/")
        }
        row = {
            **{key: float(value) for key, value in values.items()},
            "accuracy": accuracies,
            "criterion": round(score(done), 4),
        }
        tried.setdefault(done.run.task.name, {}).setdefault(done.run.method, []).append(row)
    for methods in tried.values():
        for rows in methods.values():
            rows.sort(key=lambda row: (row["training.epochs"], row["training.learning_rate"]))
    return {"seed": SEED, "criterion": CRITERION, "tried": tried, "chosen": _best(tried)}


def _best(tried: dict[str, dict[str, list[dict[str, Any]]]]) -> dict[str, dict[str, Any]]:
    chosen: dict[str, dict[str, Any]] = {}
    for task, methods in tried.items():
        for method, rows in methods.items():
            best = max(rows, key=lambda row: row["criterion"])
            settings = {key: value for key, value in best.items() if key.startswith("training.")}
            chosen.setdefault(task, {})[method] = settings
    return chosen


def main() -> None:
    """Tune every task and write `tuning.json`."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--work", type=Path, default=Path("runs/real"))
    parser.add_argument("--jobs", type=int, default=2)
    asked = parser.parse_args()
    logging.basicConfig(level=logging.WARNING)
    runs = [run for task in TASKS.values() for run in grid(task, asked.data, asked.work)]
    finished: list[Finished] = []
    for done in execute_all(runs, asked.jobs):
        finished.append(done)
        print(
            f"[{len(finished)}/{len(runs)}] {done.run.task.name} {done.run.method} "
            f"{' '.join(done.run.settings)}: {score(done):.4f} ({done.cost['minutes']:.1f} min)",
            flush=True,
        )
    write_tuning(summarise(finished))


if __name__ == "__main__":
    main()
