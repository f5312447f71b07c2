"""Trained runs of all experiments: found by the fingerprint of what decides them, or trained now.

A run is an artifact of `smorm.lab.artifacts`: its recipe holds the configuration, the content of
the data and the versions, so that a finished run is used again and a changed one is never taken for
it. An interrupted training goes on where it stopped."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from experiments.command import say
from experiments.tasks import Files, Task
from smorm.config import METHODS, Config, load_config
from smorm.files import read_json, write_bytes, write_json
from smorm.lab.artifacts import ArtifactStore
from smorm.model.store import versions
from smorm.processes import end_with_parent, worker_context
from smorm.training.loop import train

Item = TypeVar("Item")
Result = TypeVar("Result")

# What tables of cost and curves read. Checkpoints hold optimizer states, three times a model.
KEPT_FILES = ("config.yaml", "cost.json", "data.json", "metrics.jsonl")
MINUTES = "minutes.json"


def train_once(
    store: ArtifactStore, room: str, label: str, recipe: Any, configure: Callable[[Path], Config]
) -> Path:
    """The folder of a finished training, with `model`, `KEPT_FILES` and `minutes.json`.

    Args:
        recipe: all that decides the training.
        configure: the configuration with this output folder."""
    path = store.path(room, recipe, label=label)
    # A scratch folder is removed on an interruption, so the training has one of its own that stays
    # and from which it is resumed.
    unfinished = path.with_name(f"{path.name}.training")

    def make(scratch: Path) -> None:
        started = time.monotonic()
        train(configure(unfinished), resume=True)
        shutil.copytree(unfinished / "model", scratch / "model")
        for name in KEPT_FILES:
            shutil.copy(unfinished / name, scratch / name)
        write_json(scratch / MINUTES, (time.monotonic() - started) / 60)

    folder = store.folder(path, recipe, make)
    shutil.rmtree(unfinished, ignore_errors=True)
    return folder


def write_finished(
    store: ArtifactStore,
    room: str,
    label: str,
    recipe: Any,
    path: Path,
    make: Callable[[Path], object],
) -> None:
    """Put the finished file of a recipe at `path`: found in the store, or made now.

    A file that is there already is taken for it only if the store has it too; another one is
    replaced, which is said before."""
    artifact = store.path(room, recipe, label=label, ending=path.suffix)
    # A committed result may be of other code, settings or versions, and does not tell.
    if path.exists() and not artifact.exists():
        say(f"{path}: old, {store.root} has no such run of this configuration; made again")
    write_bytes(path, store.file(artifact, recipe, make).read_bytes())


@dataclass(frozen=True, slots=True)
class Method:
    """A method that is compared: its objective, the views to measure, overrides of the recipe."""

    kind: str
    views: tuple[str, ...] = ("F",)
    settings: tuple[str, ...] = ()

    @property
    def predicts_ratings(self) -> bool:
        """Whether its attribute rows are trained on ratings."""
        return METHODS[self.kind].uses_ratings


# Only views of rows that are trained: Multi's preference row is not.
SINGLE = Method("preference")
MULTI = Method("regression", ("L",))
SMORM = Method("joint", ("F", "L", "M"))


@dataclass(frozen=True, slots=True)
class Run:
    """A method on a task with a seed.

    Attributes:
        work: the folder of all artifacts.
        settings: further overrides of the task's recipe, `dotted.key=value`."""

    task: Task
    name: str
    method: Method
    seed: int
    files: Files
    work: Path
    settings: tuple[str, ...] = ()

    @property
    def store(self) -> ArtifactStore:
        """Where its artifacts are."""
        return ArtifactStore(self.work)

    @property
    def room(self) -> str:
        """The folder below `work` of the task's runs on these files."""
        return f"{self.task.name}/{self.files.label}"

    @property
    def label(self) -> str:
        """For people: the method and the seed."""
        return f"{self.name}-seed{self.seed}"

    def config(self, folder: Path) -> Config:
        """The task's recipe with this run's data, method, seed and settings."""
        overrides = (
            *data_overrides(self.files),
            f"objective.kind={self.method.kind}",
            *self.method.settings,
            f"training.seed={self.seed}",
            *self.settings,
            f"output.folder={json.dumps(str(folder))}",
        )
        return load_config(self.task.recipe, overrides)

    def recipe(self) -> list[Any]:
        """All that decides the training; where its output goes does not."""
        # Versions too: another torch rounds differently, and one table must not hold both.
        return [self.config(self.work).hash, self.files.hashes(), versions()]

    def train(self) -> Path:
        """The run's folder, trained now or found finished."""
        return train_once(self.store, self.room, self.label, self.recipe(), self.config)

    def path(self) -> Path:
        """The run's folder, trained or not."""
        return self.store.path(self.room, self.recipe(), label=self.label)

    def derived(self, kind: str, recipe: Any, make: Callable[[Path], object]) -> Any:
        """What is computed from the finished run and kept as JSON: read, or made by `make`."""
        full = [self.recipe(), kind, recipe]
        path = self.store.path(self.room, full, label=f"{self.label}-{kind}", ending=".json")
        return read_json(self.store.file(path, full, make))


def data_overrides(files: Files) -> tuple[str, str]:
    """The overrides that name the training files."""
    return (
        f"data.preference.path={json.dumps(str(files.train_pairs))}",
        f"data.rated.path={json.dumps(str(files.train_rated))}",
    )


def read_metrics(folder: Path, key: str) -> dict[int, dict[str, Any]]:
    """The lines of a run's `metrics.jsonl` that have a key, by step; the last of a step counts."""
    steps: dict[int, dict[str, Any]] = {}
    for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        if key in row:
            # A resumed training writes the steps after its checkpoint again.
            steps[row["step"]] = row
    return steps


def in_processes(
    work: Callable[[Item], Result], items: Sequence[Item], jobs: int
) -> Iterator[Result]:
    """Results of every item, `jobs` at a time, each in a process; in order of completion.

    When this is interrupted, no further item is begun."""
    if jobs == 1:
        yield from map(work, items)
        return
    # No fork of this process: it would copy torch's thread pool without its threads.
    context = worker_context("smorm.training.loop", "transformers.models.llama.modeling_llama")
    pool = ProcessPoolExecutor(jobs, mp_context=context, initializer=end_with_parent)
    try:
        for done in as_completed([pool.submit(work, item) for item in items]):
            yield done.result()
    finally:
        pool.shutdown(cancel_futures=True)
