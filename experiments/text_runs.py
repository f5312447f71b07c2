"""The runs of the comparison on real text: their plan, and the scores that each run gives.

A finished run keeps the values of its views on every set, so that ensembles and measurements need
no model again."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from experiments.runs import MINUTES, MULTI, SINGLE, SMORM, Method, Run, read_metrics
from experiments.tasks import TASKS, Files, Task, dev_files, split_validation
from experiments.text_backbone import SMALL, Backbone
from smorm.arrays import Floats
from smorm.data.census import Census
from smorm.data.reading import Source, read_records
from smorm.data.records import Item
from smorm.data.scaling import restore_scales
from smorm.errors import DataError
from smorm.evaluation.metrics import pair_outcomes
from smorm.files import read_json, sha256, write_json
from smorm.model.views import apply_view
from smorm.report.selection import present_in
from smorm.scoring.reward_model import RewardModel
from smorm.scoring.scorer import Scored, Scorer
from smorm.stress.pools import read_pools

METHODS = {
    "Single": SINGLE,
    "Multi": MULTI,
    "GRM": Method("grm", settings=("objective.grm.regulariser=sft",)),
    "ODIN": Method("odin"),
    "BSR": Method("preference", settings=("objective.bsr=0.032",)),  # 0.001 × batch, as published
    "SMORM": SMORM,
}
# Chosen most often (4 of 6 times) when the models from scratch were tuned, see `tuning.json`.
LEARNING_RATE = 3e-4
# Sets beside the test sets: the pools of best-of-n, and the training responses on which the members
# of an ensemble are standardised.
POOLS, REFERENCE = "pools", "reference"
REFERENCE_PAIRS = 400
# The further members of an ensemble of seed s have the seeds s + 100, s + 200, ...
MEMBER_SEED_STEP = 100
TUNING_SEED = 50  # none of the final seeds
EPOCHS: dict[str, dict[str, tuple[float, ...]]] = {
    # Of the pairs; of the ratings for Multi, so many that it sees as many ratings as SMORM does.
    "truthfulqa": {"Multi": (1.75, 3.5), "*": (0.25, 0.5)},
    "ukp": {"Multi": (1.1, 2.2), "*": (0.1, 0.2)},
}
# Up to 32: with larger pools most prompts would be lost, since few long answers fit the context.
SIZES = (1, 2, 4, 8, 16, 32)

# Sets that a run scores, by name: kind (preference, rated or pools), path, stride, limit (0: all).
# Plain values, because they go to worker processes and into a fingerprint.
Sets = Mapping[str, tuple[str, str, int, int]]


@dataclass(frozen=True, slots=True)
class Plan:
    """The extent of the comparison. `members` is the size of the seed ensembles."""

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
    def pools(self) -> Path:
        """The answers of best-of-n with their gold."""
        return self.data / "alpaca_eval_bon" / "dev.jsonl.gz"


@dataclass(frozen=True, slots=True)
class TextRun:
    """A run, for how many epochs it is trained, and the sets that it scores afterwards."""

    run: Run
    epochs: float
    sets: Sets


@dataclass(frozen=True, slots=True)
class ScoredRun:
    """The values of a finished run.

    Attributes:
        values: by view and set: of each record the values of its responses.
        attributes: by rated set the predictions [N, K] on the ratings' own scale.
        names, means: of the attributes, and their mean rating in training.
        hashes: of the model.
        cost: as in the run's `cost.json`; `curve`: its loss by step; `minutes` of training."""

    text_run: TextRun
    values: dict[str, dict[str, list[Floats]]]
    attributes: dict[str, Floats]
    names: list[str]
    means: dict[str, float]
    hashes: dict[str, str]
    cost: dict[str, Any]
    curve: list[dict[str, float]]
    minutes: float
    scoring_minutes: float

    @property
    def run(self) -> Run:
        """The run itself."""
        return self.text_run.run

    @property
    def epochs(self) -> float:
        """For how many epochs it was trained."""
        return self.text_run.epochs


def files_of_tests(plan: Plan) -> list[tuple[str, Path]]:
    """Every file that the models are tested on, by name: no text of theirs is pretrained on."""
    files = []
    for name, task in TASKS.items():
        paths = plan.files(name)
        files += [(task.pairs, paths.test_pairs), (task.rated, paths.test_rated)]
    return [*files, ("alpaca_eval_bon", plan.pools)]


def sets_of(plan: Plan, task: str, pools: Path) -> Sets:
    """The sets of every run of a task: the reference, all test sets of all tasks, the pools."""
    pairs = str(plan.files(task).train_pairs)
    # Every so many pairs, so that the reference is from the whole of the training file.
    stride = max(1, len(records_of("preference", pairs, 1, 0)) // REFERENCE_PAIRS)
    sets = {REFERENCE: ("preference", pairs, stride, REFERENCE_PAIRS)}
    for name in TASKS:
        files = plan.files(name)
        sets[f"pairs/{name}"] = ("preference", str(files.test_pairs), 1, 0)
        sets[f"rated/{name}"] = ("rated", str(files.test_rated), 1, 0)
    return sets | {POOLS: ("pools", str(pools), 1, 0)}


def make_run(
    plan: Plan, task: Task, name: str, seed: int, epochs: float, files: Files, backbone: Path
) -> Run:
    """A run of one of `METHODS` from the pretrained backbone."""
    settings = (
        f"model.backbone={json.dumps(str(backbone))}",
        "model.tokenizer=null",
        f"data.max_tokens={plan.backbone.width}",
        f"training.epochs={epochs}",
        f"training.learning_rate={LEARNING_RATE}",
        "training.log_every=5",
    )
    return Run(task, name, METHODS[name], seed, files, plan.work, settings)


def tuning_runs(plan: Plan, task: Task, backbone: Path) -> list[TextRun]:
    """Every method with every number of epochs, on the training side of a validation split."""
    files = split_validation(task, plan.data, plan.work / task.name / "split")
    sets = {"validation": ("preference", str(files.test_pairs), 1, 0)}
    grid = plan.epochs[task.name]
    runs = []
    for name in METHODS:
        for epochs in grid.get(name, grid["*"]):
            run = make_run(plan, task, name, TUNING_SEED, epochs, files, backbone)
            runs.append(TextRun(run, epochs, sets))
    return runs


def ensemble_seeds(seed: int, members: int) -> list[int]:
    """Seeds of the Singles of a seed's ensemble; the first is that seed itself."""
    return list(range(seed, seed + MEMBER_SEED_STEP * members, MEMBER_SEED_STEP))


def final_runs(plan: Plan, tuned: dict[str, Any], backbone: Path, pools: Path) -> list[TextRun]:
    """Seed by seed: every method, and the further Singles of the seed's ensembles."""
    sets = {name: sets_of(plan, name, pools) for name in plan.tasks}
    runs = []
    for seed in range(plan.seeds):
        # The first member of an ensemble is the Single of the seed itself.
        members = ensemble_seeds(seed, plan.members)[1:]
        names = [*METHODS, *["Single"] * len(members)]
        seeds = [seed] * len(METHODS) + members
        for task in plan.tasks:
            for name, run_seed in zip(names, seeds, strict=True):
                epochs = tuned[task][name]["chosen"]
                run = make_run(
                    plan, TASKS[task], name, run_seed, epochs, plan.files(task), backbone
                )
                runs.append(TextRun(run, epochs, sets[task]))
    return runs


def criterion(scored: ScoredRun) -> float:
    """Accuracy on validation pairs: of F; of L for Multi; the mean of F's and L's for SMORM."""
    accuracies = []
    for view in scored.run.method.views:
        if view != "M":  # a mean of the other two
            chosen, rejected = np.array(scored.values[view]["validation"]).T
            outcomes, _ = pair_outcomes(chosen, rejected)
            accuracies.append(float(outcomes.mean()))
    return sum(accuracies) / len(accuracies)


def choose_epochs(tried: Sequence[ScoredRun]) -> dict[str, Any]:
    """By task and method: the tries, and the epochs of the best (the fewer of equals)."""
    chosen: dict[str, dict[str, Any]] = {}
    # Fewer epochs first, so that `max` takes the fewest of equals.
    for scored in sorted(tried, key=_order):
        of_task = chosen.setdefault(scored.run.task.name, {})
        row = {"epochs": scored.epochs, "criterion": round(criterion(scored), 4)}
        of_task.setdefault(scored.run.name, {"tried": []})["tried"].append(row)
    for of_task in chosen.values():
        for of_method in of_task.values():
            best = max(of_method["tried"], key=lambda row: float(row["criterion"]))
            of_method["chosen"] = best["epochs"]
    return chosen


def _order(scored: ScoredRun) -> tuple[int, int, float]:
    run = scored.run
    return list(TASKS).index(run.task.name), list(METHODS).index(run.name), scored.epochs


def execute(text_run: TextRun) -> ScoredRun:
    """Train and score, or read the values of the finished run."""
    run, sets = text_run.run, text_run.sets

    def make(path: Path) -> None:
        write_json(path, _score(text_run, RewardModel.load(run.train() / "model")))

    # Paths name the sets for people; what decides the scores is the content.
    contents = [sha256(path) for _, path, _, _ in sets.values()]
    scores = run.derived("scores", [dict(sets), contents], make)
    folder = run.path()
    return ScoredRun(
        text_run,
        {view: _as_arrays(by_set) for view, by_set in scores["values"].items()},
        {name: np.array(rows) for name, rows in scores["attributes"].items()},
        scores["names"],
        scores["means"],
        scores["hashes"],
        read_json(folder / "cost.json"),
        _curve(folder),
        float(read_json(folder / MINUTES)),
        scores["minutes"],
    )


def _as_arrays(by_set: Mapping[str, list[list[float]]]) -> dict[str, list[Floats]]:
    arrays: dict[str, list[Floats]] = {}
    for name, column in by_set.items():
        arrays[name] = list(map(np.array, column))
    return arrays


def _curve(folder: Path) -> list[dict[str, float]]:
    names = ("step", "loss", "accuracy", "mse")
    points = []
    for row in read_metrics(folder, "loss").values():
        measured = present_in(names, row)
        points.append({name: row[name] for name in measured})
    return points


def _score(text_run: TextRun, model: RewardModel) -> dict[str, Any]:
    """Values of every view on every set, each response of a prompt in one tree with the others."""
    started = time.monotonic()
    method, scales = text_run.run.method, model.card.scales
    views = {name: model.view(name) for name in method.views}
    scorer = Scorer(model.network, model.renderer, "error")
    values: dict[str, dict[str, Any]] = {}
    attributes: dict[str, Any] = {}
    for name, (kind, path, stride, limit) in text_run.sets.items():
        rows = _score_all(scorer, items_of(kind, path, stride, limit))
        for view, definition in views.items():
            column = [apply_view(definition, row, scales).tolist() for row in rows]
            values.setdefault(view, {})[name] = column
        if method.predicts_ratings and kind == "rated":
            # Row 0 is the preference row; a rated record has one response.
            predicted = np.array([row[0, 1:] for row in rows])
            attributes[name] = restore_scales(scales, predicted).tolist()
    return {
        "values": values,
        "attributes": attributes,
        "names": list(model.attributes),
        "means": model.card.means,
        "hashes": dict(model.card.hashes),
        "minutes": (time.monotonic() - started) / 60,
    }


def items_of(kind: str, path: str, stride: int, limit: int) -> list[Item]:
    """The items of a set."""
    if kind == "pools":
        return read_pools(Source(path), Census())
    return [record.item for record in records_of(kind, path, stride, limit)]


def records_of(kind: str, path: str, stride: int, limit: int) -> list[Any]:
    """The records of a set of pairs or ratings, in the order in which runs score them."""
    source = Source(path, stride=stride, limit=limit or None)
    return list(read_records(source, kind, Census(), "stop"))  # type: ignore[arg-type]


def _score_all(scorer: Scorer, items: Sequence[Item]) -> list[Floats]:
    """Rows of each item's responses.

    Raises:
        DataError: a response could not be scored. A comparison over fewer items is not the same."""
    rows = []
    for item, scored in zip(items, scorer.score(items), strict=True):
        if not isinstance(scored, Scored):
            raise DataError(f"{item.where}: {scored}")
        rows.append(scored.rows)
    return rows
