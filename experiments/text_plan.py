"""What the comparison on real text runs: its sizes, its sets, and the runs that follow."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from experiments.tasks import TASKS, Files, Task, dev_files, split_validation
from experiments.text_backbone import SMALL, Backbone
from experiments.text_pools import SIZES
from experiments.text_rewards import REFERENCE, ensemble_seeds
from experiments.text_runs import METHODS, Kept, Run, records_of
from smorm.evaluation.metrics import pair_outcomes

POOLS = "pools"
TUNING_SEED = 50  # none of the final seeds
EPOCHS: dict[str, dict[str, tuple[float, ...]]] = {
    # Of the pairs; of the ratings for Multi, so many that it sees as many ratings as SMORM does.
    "truthfulqa": {"Multi": (1.75, 3.5), "*": (0.25, 0.5)},
    "ukp": {"Multi": (1.1, 2.2), "*": (0.1, 0.2)},
}
REFERENCE_PAIRS = 400


@dataclass(frozen=True, slots=True)
class Plan:
    """What is run. `members` is the size of the seed ensembles."""

    data: Path
    output: Path
    work: Path
    seeds: int = 3
    members: int = 3
    jobs: int = 2
    backbone: Backbone = SMALL
    tasks: tuple[str, ...] = tuple(TASKS)
    sizes: tuple[int, ...] = SIZES
    epochs: Mapping[str, Mapping[str, Sequence[float]]] = field(default_factory=lambda: EPOCHS)

    def files(self, name: str) -> Files:
        """A task's training and test files."""
        return dev_files(TASKS[name], self.data)

    @property
    def width(self) -> int:
        """The longest conversation, in tokens: what the backbone was pretrained on."""
        return self.backbone.width

    @property
    def pools(self) -> Path:
        """The answers of best-of-n with their gold."""
        return self.data / "alpaca_eval_bon" / "dev.jsonl.gz"


def files_of_tests(plan: Plan) -> list[tuple[str, Path]]:
    """Every file that the models are tested on, by name: no text of theirs is pretrained on."""
    found = []
    for name in TASKS:
        files = plan.files(name)
        found += [(TASKS[name].pairs, files.test_pairs), (TASKS[name].rated, files.test_rated)]
    return [*found, ("alpaca_eval_bon", plan.pools)]


def sets_of(plan: Plan, task: str, pools: Path) -> dict[str, tuple[str, str, int, int]]:
    """What every run of a task scores: the reference, all test sets of all tasks, the pools."""
    pairs = plan.files(task).train_pairs
    rows = len(records_of("preference", str(pairs), 1, 0))
    stride = max(1, rows // REFERENCE_PAIRS)
    found = {REFERENCE: ("preference", str(pairs), stride, REFERENCE_PAIRS)}
    for name in TASKS:
        files = plan.files(name)
        found[f"pairs/{name}"] = ("preference", str(files.test_pairs), 1, 0)
        found[f"rated/{name}"] = ("rated", str(files.test_rated), 1, 0)
    return found | {POOLS: ("pools", str(pools), 1, 0)}


def tuning_runs(plan: Plan, task: Task, backbone: Path) -> list[Run]:
    """Every method with every number of epochs, on what is left of the training split."""
    files = split_validation(task, plan.data, plan.work / task.name / "split")
    sets = {"validation": ("preference", str(files.test_pairs), 1, 0)}
    grid = plan.epochs[task.name]
    return [
        Run(task, method, TUNING_SEED, epochs, files, backbone, plan.width, plan.work, sets)
        for method in METHODS
        for epochs in grid.get(method, grid["*"])
    ]


def criterion(kept: Kept) -> float:
    """Accuracy on validation pairs: of F; of L for Multi; the mean of F's and L's for SMORM."""
    found = []
    for view in (one for one in METHODS[kept.run.method].views if one != "M"):
        scores = kept.values[view]["validation"]
        chosen, rejected = np.array(scores).T
        outcomes, _ = pair_outcomes(chosen, rejected)
        found.append(float(outcomes.mean()))
    return sum(found) / len(found)


def choose(tried: Sequence[Kept]) -> dict[str, Any]:
    """By task and method: what was tried, and the epochs of the best (the fewer of equals)."""
    found: dict[str, Any] = {}
    for kept in sorted(tried, key=_place):
        row = {"epochs": kept.run.epochs, "criterion": round(criterion(kept), 4)}
        of_task = found.setdefault(kept.run.task.name, {})
        of_task.setdefault(kept.run.method, {"tried": []})["tried"].append(row)
    for of_task in found.values():
        for of_method in of_task.values():
            best = max(of_method["tried"], key=lambda row: row["criterion"])
            of_method["chosen"] = best["epochs"]
    return found


def _place(kept: Kept) -> tuple[int, int, float]:
    run = kept.run
    return list(TASKS).index(run.task.name), list(METHODS).index(run.method), run.epochs


def final_runs(plan: Plan, tuned: dict[str, Any], backbone: Path, pools: Path) -> list[Run]:
    """Seed by seed: every method, and the further Singles of the seed's ensembles."""
    found = []
    sets = {name: sets_of(plan, name, pools) for name in plan.tasks}
    for seed in range(plan.seeds):
        for name in plan.tasks:
            wanted = [(method, seed) for method in METHODS]
            wanted += [("Single", one) for one in ensemble_seeds(seed, plan.members)[1:]]
            found += [
                Run(TASKS[name], method, one, tuned[name][method]["chosen"], plan.files(name),
                    backbone, plan.width, plan.work, sets[name])
                for method, one in wanted
            ]  # fmt: skip
    return found
