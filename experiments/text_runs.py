"""One run of the comparison on real text: a method trained from the pretrained backbone, and what
it scores; or what a finished run left.

A run's folder is named by all that decides its numbers (configuration, content of the files,
versions), as in `experiments.runs`. Kept are the values of its views on every set, so that
ensembles and measurements need no model again.
"""

from __future__ import annotations

import json
import multiprocessing
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from experiments.tasks import Files, Task
from smorm.arrays import Floats
from smorm.config import Config, load_config
from smorm.data.census import Census
from smorm.data.reading import Source, read_records
from smorm.data.records import Item
from smorm.data.scaling import restore_scales
from smorm.errors import DataError
from smorm.files import fingerprint, read_json, sha256, write_json
from smorm.model.store import versions
from smorm.model.views import apply_view
from smorm.processes import end_with_parent
from smorm.scoring.reward_model import RewardModel
from smorm.scoring.scorer import Scored, Scorer
from smorm.stress.pools import read_pools
from smorm.training.loop import train


@dataclass(frozen=True, slots=True)
class Method:
    """An objective with its overrides of the recipe, and the views that are pushed and measured."""

    kind: str
    views: tuple[str, ...] = ("F",)
    settings: tuple[str, ...] = ()

    @property
    def rated(self) -> bool:
        """Whether its attribute rows predict ratings."""
        return self.kind in ("regression", "joint")


METHODS = {
    "Single": Method("preference"),
    "Multi": Method("regression", ("L",)),
    "GRM": Method("grm", settings=("objective.grm.regulariser=sft",)),
    "ODIN": Method("odin"),
    "BSR": Method("preference", settings=("objective.bsr=0.032",)),  # 0.001 × batch, as published
    "SMORM": Method("joint", ("F", "L", "M")),
}
LEARNING_RATE = 3e-4
"""Chosen most often (4 of 6 times) when the models from scratch were tuned, see `tuning.json`."""

Sets = Mapping[str, tuple[str, str, int, int]]
"""Sets that a run scores, by name: kind (preference, rated or pools), path, stride, limit (0: all).
Plain values, because they go to other processes and into a fingerprint."""


@dataclass(frozen=True, slots=True)
class Run:
    """What is trained (on `files`, for `epochs`) and what it scores then."""

    task: Task
    method: str
    seed: int
    epochs: float
    files: Files
    backbone: Path
    max_tokens: int
    work: Path
    sets: Sets

    def config(self) -> Config:
        """The task's recipe with the backbone, the method, the seed and the epochs."""
        folder = self.work / self.task.name / self.files.label
        method = METHODS[self.method]
        base = (
            f"data.preference.path={json.dumps(str(self.files.train_pairs))}",
            f"data.rated.path={json.dumps(str(self.files.train_rated))}",
            f"model.backbone={json.dumps(str(self.backbone))}",
            "model.tokenizer=null",
            f"data.max_tokens={self.max_tokens}",
            f"objective.kind={method.kind}",
            *method.settings,
            f"training.seed={self.seed}",
            f"training.epochs={self.epochs}",
            f"training.learning_rate={LEARNING_RATE}",
            "training.log_every=5",
        )
        draft = load_config(self.task.recipe, (*base, f"output.folder={folder}"))
        content = [draft.hash, self.files.hashes(), versions()]
        name = f"{self.method}-seed{self.seed}-{fingerprint(content)[:8]}"
        return load_config(self.task.recipe, (*base, f"output.folder={folder / name}"))


@dataclass(frozen=True, slots=True)
class Kept:
    """What a finished run left.

    Attributes:
        values: by view (its own, and F and L where it has both) and set: of each record the values
            of its responses.
        attributes: by rated set the predictions [N, K] on the ratings' own scale.
        names, means: of the attributes, and their mean rating in training.
        hashes: of the model.
        cost: as in the run's `cost.json`; `curve`: its loss by step; `minutes` of training.
    """

    run: Run
    values: dict[str, dict[str, list[Floats]]]
    attributes: dict[str, Floats]
    names: list[str]
    means: dict[str, float]
    hashes: dict[str, str]
    cost: dict[str, Any]
    curve: list[dict[str, float]]
    minutes: float
    scoring_minutes: float


def execute(run: Run) -> Kept:
    """Train and score, or read what is there. An interrupted training goes on."""
    config = run.config()
    folder = config.output.folder
    scores = folder / f"scores-{fingerprint([run.sets, _contents(run.sets)])[:8]}.json"
    clock = folder / "minutes.json"
    if not scores.is_file():
        if not clock.is_file():
            started = time.monotonic()
            train(config, resume=True)
            write_json(clock, (time.monotonic() - started) / 60)
        write_json(scores, _score(run, RewardModel.load(folder / "model")))
    return _kept(run, folder, read_json(scores), read_json(clock))


def _contents(sets: Sets) -> list[str]:
    return [sha256(path) for _, path, _, _ in sets.values()]


def _score(run: Run, model: RewardModel) -> dict[str, Any]:
    """Values of every view on every set, each response of a prompt in one tree with the others."""
    started = time.monotonic()
    method, scales = METHODS[run.method], model.card.scales
    views = {name: model.view(name) for name in method.views}
    scorer = Scorer(model.network, model.renderer, "error")
    values: dict[str, dict[str, Any]] = {name: {} for name in views}
    attributes: dict[str, Any] = {}
    for name, one in run.sets.items():
        rows = _demand(scorer, items_of(*one))
        for view, definition in views.items():
            values[view][name] = [apply_view(definition, row, scales).tolist() for row in rows]
        if method.rated and one[0] == "rated":
            first = np.array([row[0, 1:] for row in rows])
            attributes[name] = restore_scales(scales, first).tolist()
    return {
        "values": values,
        "attributes": attributes,
        "names": list(model.attributes),
        "means": model.card.means,
        "hashes": dict(model.card.hashes),
        "minutes": (time.monotonic() - started) / 60,
    }


def items_of(kind: str, path: str, stride: int, limit: int) -> list[Item]:
    """What is scored of a set."""
    if kind == "pools":
        return read_pools(Source(path), Census())
    return [record.item for record in records_of(kind, path, stride, limit)]


def records_of(kind: str, path: str, stride: int, limit: int) -> list[Any]:
    """The records of a set of pairs or ratings, in the order in which runs score them."""
    source = Source(path, stride=stride, limit=limit or None)
    return list(read_records(source, kind, Census(), "stop"))  # type: ignore[arg-type]


def _demand(scorer: Scorer, items: Sequence[Item]) -> list[Floats]:
    found = scorer.score(items)
    for item, one in zip(items, found, strict=True):
        if not isinstance(one, Scored):
            raise DataError(f"{item.where}: {one}")
    return [one.rows for one in found if isinstance(one, Scored)]


def _kept(run: Run, folder: Path, scores: dict[str, Any], minutes: float) -> Kept:
    values = {
        view: {name: [np.array(one) for one in column] for name, column in by_set.items()}
        for view, by_set in scores["values"].items()
    }
    steps: dict[int, dict[str, float]] = {}
    for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        if "loss" in row:
            kept = ("step", "loss", "accuracy", "mse")
            steps[row["step"]] = {key: row[key] for key in kept if key in row}
    return Kept(
        run,
        values,
        {name: np.array(rows) for name, rows in scores["attributes"].items()},
        scores["names"],
        scores["means"],
        scores["hashes"],
        read_json(folder / "cost.json"),
        list(steps.values()),
        minutes,
        scores["minutes"],
    )


def execute_all(runs: Sequence[Run], jobs: int) -> Iterator[Kept]:
    """Every run, `jobs` at a time in processes of their own; in order of completion."""
    if jobs == 1:
        yield from map(execute, runs)
        return
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(jobs, mp_context=context, initializer=end_with_parent)
    try:
        for done in as_completed([pool.submit(execute, run) for run in runs]):
            yield done.result()
    finally:
        pool.shutdown(cancel_futures=True)
