"""A study from its configuration to results, with several processes and a word on how it goes."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from multiprocessing import active_children, get_context
from pathlib import Path
from typing import Any

import yaml

from smorm import files
from smorm.config import parse_config
from smorm.errors import Interrupted, SmormError
from smorm.evaluation.result import Result
from smorm.lab.artifacts import ArtifactStore, training_config
from smorm.lab.config import LabConfig
from smorm.lab.measure import Run
from smorm.lab.methods import arms_of, needed_arms
from smorm.model.device import pick_device
from smorm.processes import end_with_parent

_SECONDS = {"policy": 240, "data": 1, "pool": 4, "arm": 15, "measure": 10}
"""About how long a job takes a core, by its kind."""
_BELIEF = 30
"""Seconds of a study after which what was seen counts as much as the table above."""


@dataclass(frozen=True, slots=True)
class Step:
    """What was just done, how many of all jobs are, and about how many seconds are left."""

    what: str
    count: int
    total: int
    left: float

    def __str__(self) -> str:
        left = f"{self.left:.0f} s" if self.left < 90 else f"{self.left / 60:.0f} min"
        return f"{self.count}/{self.total}  {self.what}  (about {left} left)"


Tell = Callable[[Step], None]


@dataclass(frozen=True, slots=True)
class Job:
    """One part to make: its kind, the arm or regime it is about, and the run."""

    kind: str
    name: str
    seed: int

    @property
    def told(self) -> str:
        """For the reader."""
        what = {"policy": "policy", "data": "data", "pool": f"answers to {self.name}"}
        return f"{what.get(self.kind, self.name)}, seed {self.seed}"

    @property
    def seconds(self) -> float:
        """About how long it takes."""
        return 0.0 if self.name == "shipped" else _SECONDS[self.kind]


def run_lab(config: LabConfig, tell: Tell = lambda step: None) -> list[Result]:
    """Make all parts and measure every system of every run.

    Args:
        tell: gets a word on each part that is done, and how long is left.

    Raises:
        ConfigError: an unknown method, arm or view, or no such device.
        SmormError: a process was killed, or what training, sampling and scoring raise.
        Interrupted: Ctrl-C; parts that are whole are kept.
    """
    stages = plan(config)  # first: it also checks the names
    pick_device(config.device)
    jobs = [Job("measure", "results", seed) for seed in config.runs]
    progress = Progress([*chain.from_iterable(stages), *jobs], _workers(config), tell)
    values = config.model_dump(mode="json")
    with _one_thread_each(), _processes(config) as pool:
        for stage in stages:
            _all(pool, [(pool.submit(_do, values, job), job) for job in stage], progress)
        found = _all(
            pool, [(pool.submit(_measure, values, job.seed), job) for job in jobs], progress
        )
    return [result for job in jobs for result in found[job]]


def plan(config: LabConfig) -> list[list[Job]]:
    """Stages of jobs; those of one stage do not need each other.

    Raises:
        ConfigError: an unknown method, arm or view, or an arm that cannot be trained as asked.
    """
    arms = needed_arms(config)
    _check_trainings(config, chain.from_iterable(arms))
    policies = {config.policy_seed(seed): seed for seed in reversed(config.runs)}
    return [
        [Job("policy", _begin(config, seed), seed) for seed in sorted(policies.values())],
        [Job("data", "", seed) for seed in config.runs]
        + [Job("pool", regime, seed) for seed in config.runs for regime in config.regimes],
        *([Job("arm", arm, seed) for seed in config.runs for arm in stage] for stage in arms),
    ]


def _check_trainings(config: LabConfig, names: Iterable[str]) -> None:
    """Read every arm's configuration now, not when its turn comes."""
    known = arms_of(config)
    for name in names:
        if not known[name].merge:
            values = training_config(known[name], config, config.first_seed)
            values["model"]["backbone"] = "made later"
            values["output"] = {"folder": "made later"}
            parse_config(values, where=f"arms.{name}")


def _begin(config: LabConfig, seed: int) -> str:
    return "shipped" if artifact_store(config).ships(seed) else ""


def artifact_store(config: LabConfig) -> ArtifactStore:
    """Where the parts of a configuration are made and kept."""
    return ArtifactStore(config, config.work or config.output / "work")


@contextmanager
def _processes(config: LabConfig) -> Iterator[ProcessPoolExecutor]:
    """The pool; Ctrl-C ends its processes at once, not when their queue is empty."""
    others = set(active_children())
    with ProcessPoolExecutor(
        _workers(config), mp_context=get_context("spawn"), initializer=_start
    ) as pool:
        try:
            yield pool
        except KeyboardInterrupt:
            pool.shutdown(wait=False, cancel_futures=True)
            for child in set(active_children()) - others:
                child.terminate()
            kept = artifact_store(config).root
            raise Interrupted(
                f"stopped; what was made stays in {kept}, and the same study goes on from there"
            ) from None


def _do(values: dict[str, Any], job: Job) -> None:
    """Make a part, in a process of its own, which ends when it is asked to stop."""
    try:
        _make(artifact_store(LabConfig(**values)), job)
    except Interrupted:  # by a training, which cleans up behind itself
        os._exit(1)


def _make(store: ArtifactStore, job: Job) -> None:
    if job.kind == "policy":
        store.policy(job.seed)
    elif job.kind == "data":
        store.data(job.seed)
    elif job.kind == "pool":
        store.pools(job.seed, job.name)  # type: ignore[arg-type]
    else:
        store.rows(job.name, job.seed)


def _measure(values: dict[str, Any], seed: int) -> list[Result]:
    run = Run(artifact_store(LabConfig(**values)), seed)
    return [*run.results(), *run.curves()]


def _start() -> None:
    """Begin a process: one thread, no chatter, and no life without the one that began it, which
    alone is told of Ctrl-C."""
    import logging

    import torch

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)
    logging.getLogger().setLevel(logging.WARNING)
    end_with_parent()


def _all(
    pool: ProcessPoolExecutor, asked: list[tuple[Future[Any], Job]], progress: Progress
) -> dict[Job, Any]:
    """The values of all jobs; the first error stops those that wait."""
    jobs = dict(asked)
    try:
        for future in as_completed(jobs):
            future.result()
            progress.done(jobs[future])
    except BrokenProcessPool as error:
        raise SmormError("a process of the study was killed; call again to go on") from error
    except BaseException:
        pool.shutdown(wait=False, cancel_futures=True)
        raise
    return {job: future.result() for future, job in asked}


def _workers(config: LabConfig) -> int:
    return (os.cpu_count() or 1) if config.workers == "auto" else config.workers


@contextmanager
def _one_thread_each() -> Iterator[None]:
    """Children read it when they start."""
    own = {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    old = {name: os.environ.get(name) for name in own}
    os.environ.update(own)
    try:
        yield
    finally:
        for name, value in old.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


class Progress:
    """Guesses how long is left: from what jobs usually take, and more and more from how they went.

    Args:
        jobs: all that will be done.
        workers: how many at a time.
    """

    def __init__(self, jobs: Sequence[Job], workers: int, tell: Tell) -> None:
        self.left, self.workers = list(jobs), workers
        self.total, self.tell, self.began = len(jobs), tell, time.monotonic()
        self.expected = 0.0

    def done(self, job: Job) -> None:
        """Tell that one more is done."""
        self.left.remove(job)
        self.expected += job.seconds / self.workers
        slower = (time.monotonic() - self.began + _BELIEF) / (self.expected + _BELIEF)
        left = slower * sum(one.seconds for one in self.left) / self.workers
        self.tell(Step(job.told, self.total - len(self.left), self.total, left))


def write_config(config: LabConfig, path: Path) -> None:
    """Write the resolved configuration."""
    files.write_text(path, yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False))
