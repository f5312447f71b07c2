"""One run: a method on a task with a seed, trained and measured, or found finished.

A run's folder is named by everything that decides its numbers (configuration, content of the data,
versions), so that a finished run is used again and a changed one is never taken for it.
"""

from __future__ import annotations

import json
import multiprocessing
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiments.tasks import Files, Task
from smorm.config import Config, load_config
from smorm.data.reading import Source
from smorm.evaluation.result import Result, read_results, write_results
from smorm.evaluation.suite import Suite
from smorm.evaluation.suites import run_suite
from smorm.files import atomic_folder, fingerprint, is_sealed, read_json, write_json
from smorm.model.store import versions
from smorm.processes import end_with_parent
from smorm.scoring.reward_model import RewardModel
from smorm.text.bpe import train_bpe
from smorm.training.loop import train
from smorm.training.sources import to_source, training_texts

METHODS = {
    "Single": ("preference", ("F",)),
    "Multi": ("regression", ("L",)),
    "SMORM": ("joint", ("F", "L", "M")),
}
"""Objective and the views that are measured."""


@dataclass(frozen=True, slots=True)
class Run:
    """What is trained; `settings` are overrides of the recipe, `dotted.key=value`."""

    task: Task
    method: str
    seed: int
    files: Files
    tokenizer: Path
    work: Path
    settings: tuple[str, ...] = ()

    def config(self) -> Config:
        """The recipe with this run's data, method, seed and settings."""
        folder = self.work / self.task.name / self.files.label
        base = (
            f"data.preference.path={json.dumps(str(self.files.train_pairs))}",
            f"data.rated.path={json.dumps(str(self.files.train_rated))}",
            f"model.tokenizer={json.dumps(str(self.tokenizer))}",
            f"objective.kind={METHODS[self.method][0]}",
            f"training.seed={self.seed}",
            "training.log_every=1",
            *self.settings,
        )
        draft = load_config(self.task.recipe, (*base, f"output.folder={folder}"))
        content = [draft.hash, self.files.hashes(), versions()]
        name = f"{self.method}-seed{self.seed}-{fingerprint(content)[:8]}"
        return load_config(self.task.recipe, (*base, f"output.folder={folder / name}"))


@dataclass(frozen=True, slots=True)
class Finished:
    """A run's results and what it cost."""

    run: Run
    results: list[Result]
    cost: dict[str, float]


def shared_tokenizer(task: Task, files: Files, work: Path) -> Path:
    """One tokenizer for all methods, trained on the pairs' and the ratings' training texts.

    A method alone would train its own on what it reads, and the comparison would not be matched.
    """
    draft = load_config(
        task.recipe,
        (
            f"data.preference.path={json.dumps(str(files.train_pairs))}",
            f"data.rated.path={json.dumps(str(files.train_rated))}",
        ),
    )
    spec: Any = draft.model.tokenizer
    name = fingerprint([files.hashes(), draft.as_dict()["data"], spec.vocab_size, versions()])[:8]
    folder = work / task.name / f"tokenizer-{name}"
    if is_sealed(folder):
        return folder
    preference = [to_source(source) for source in draft.data.preference]
    rated = [to_source(source) for source in draft.data.rated]
    with atomic_folder(folder) as scratch:
        texts = training_texts(draft, preference, rated)
        train_bpe(texts, spec.vocab_size).save_pretrained(scratch)
    return folder


def execute(run: Run) -> Finished:
    """Train and measure, or read what a finished run left. An interrupted run goes on."""
    config = run.config()
    folder = config.output.folder
    results, cost = folder / "results.json", folder / "cost.json"
    if not (results.is_file() and cost.is_file()):
        started = time.monotonic()
        model = RewardModel.load(train(config, resume=True))
        minutes = (time.monotonic() - started) / 60
        found = _measure(run, model)
        write_json(cost, _cost(folder, model, config, minutes))
        write_results(results, found)
    return Finished(run, read_results(results), read_json(cost))


def _measure(run: Run, model: RewardModel) -> list[Result]:
    label = f"{run.task.name}-{run.files.label}"
    pairs = Suite(f"pairs/{label}", Source(run.files.test_pairs))
    found = run_suite(model, pairs, METHODS[run.method][1], name=run.method, seed=run.seed)
    if model.attributes:
        rated = Suite(f"rated/{label}", Source(run.files.test_rated))
        found += run_suite(model, rated, name=run.method, seed=run.seed)
    return found


def _cost(folder: Path, model: RewardModel, config: Config, minutes: float) -> dict[str, float]:
    """Parameters, steps, sequences read, tokens computed, minutes of training."""
    steps: dict[int, float] = {}
    for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        if "tokens" in row:
            steps[row["step"]] = row["tokens"]
    counts = read_json(folder / "data.json")
    kind, batch = config.objective.kind, config.training.batch_size
    pairs = batch if kind != "regression" else 0
    ratio = config.data.mixing.rated_per_pair if kind == "joint" else float(kind == "regression")
    return {
        "parameters": float(sum(p.numel() for p in model.network.parameters())),
        "training_pairs": float(counts["pairs"]),
        "training_rated": float(counts["rated"]),
        "steps": float(len(steps)),
        "pair_passes": float(len(steps) * pairs),
        "rated_passes": float(len(steps) * round(batch * ratio)),
        "tokens": float(sum(steps.values())),
        "minutes": minutes,
    }


def execute_all(runs: Sequence[Run], jobs: int) -> Iterator[Finished]:
    """Every run, `jobs` at a time, each in a process of its own; in order of completion.

    When this is interrupted, no further run is begun.
    """
    if jobs == 1:
        yield from map(execute, runs)
        return
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(jobs, mp_context=context, initializer=end_with_parent)
    try:
        waiting = [pool.submit(execute, run) for run in runs]
        for done in as_completed(waiting):
            yield done.result()
    finally:
        pool.shutdown(cancel_futures=True)
