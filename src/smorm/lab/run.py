"""A study from its configuration to results, with several processes, and how far it is."""

from __future__ import annotations

import csv
import io
import logging
import os
import signal
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain, product
from multiprocessing import active_children
from pathlib import Path
from typing import Any

import yaml

from smorm import files
from smorm.config import parse_config
from smorm.errors import Interrupted, SmormError
from smorm.evaluation.result import Result
from smorm.lab.config import LabConfig
from smorm.lab.measure import Run
from smorm.lab.methods import arms_of, needed_arms, training_config
from smorm.lab.world_artifacts import WorldArtifacts
from smorm.model.device import pick_device
from smorm.printing import csv_cell, without_secrets
from smorm.processes import end_with_parent, worker_context
from smorm.rewards.section import REWARDS
from smorm.stopping import SIGNALS, handled, requested

# About how long a job takes a core, by its kind.
_SECONDS = {"policy": 240, "data": 1, "pool": 4, "arm": 15, "measure": 10}
# What native libraries read to take one thread alone.
_VARIABLES = {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
# What the jobs of a worker need.
IMPORTED = (
    "smorm.lab.run", "smorm.training.loop", "transformers.models.llama.modeling_llama"
)  # fmt: skip
# Seconds of a study after which the jobs' own times count as much as the table above.
_PRIOR_SECONDS = 30

COLUMNS = ("kind", "set", "model", "view", "seed", "metric", "value")
# Of each kind of results the metrics that are written, by how their names begin.
_PREFIXES = {
    "pairs": ("accuracy", "length_correlation"),
    "rated": ("spearman", "mse"),
    "stress": (
        "gold@", "proxy@", "gain", "regret", "area", "fall", "drop", "peak", "trough", "slope/",
        "disagreement_auc@",
    ),
    "cost": ("parameters", "passes_per_score", "training_passes", "training_tokens"),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Step:
    """The job that was just done, how many of all jobs are, and about how many seconds remain."""

    title: str
    count: int
    total: int
    remaining: float

    @property
    def text(self) -> str:
        """Without the counts."""
        remaining = f"{self.remaining / 60:.0f} min"
        if self.remaining < 90:
            remaining = f"{self.remaining:.0f} s"
        return f"{self.title}  (about {remaining} left)"

    def __str__(self) -> str:
        return f"{self.count}/{self.total}  {self.text}"


OnStep = Callable[[Step], None]


@dataclass(frozen=True, slots=True)
class Job:
    """One artifact to make, or a run to measure: its kind, the arm or regime, and the seed."""

    kind: str
    name: str
    seed: int

    @property
    def title(self) -> str:
        titles = {"policy": "policy", "data": "data", "pool": f"answers to {self.name}"}
        return f"{titles.get(self.kind, self.name)}, seed {self.seed}"

    @property
    def seconds(self) -> float:
        """About how long it takes."""
        if self.name == "shipped":
            return 0.0
        return _SECONDS[self.kind]


def run_lab(config: LabConfig, on_step: OnStep = lambda step: None) -> list[Result]:
    """Make all artifacts and measure every system of every run; `on_step` is called after each job.
    ConfigError for an unknown method, arm, view or device; SmormError where a process was killed;
    Interrupted after a stop signal, and artifacts that are whole stay."""
    stages = plan(config)  # first: it also checks the names
    pick_device(config.device)
    jobs = _jobs(config, "measure", ["results"])
    workers = config.workers
    if workers == "auto":
        workers = os.cpu_count() or 1
    progress = Progress([*chain.from_iterable(stages), *jobs], workers, on_step)
    # Workers get plain values, and read the configuration anew.
    values = config.model_dump(mode="json")
    with handled(), _single_threaded_children(), _processes(workers, config.work_folder) as pool:
        for stage in [*stages, jobs]:
            futures = {pool.submit(_do, values, job): job for job in stage}
            for future in as_completed(futures):
                future.result()
                progress.done(futures[future])
    # The last stage is the runs to measure.
    return list(chain.from_iterable(map(Future.result, futures)))


def plan(config: LabConfig) -> list[list[Job]]:
    """Stages of jobs; those of one stage do not need each other."""
    arms = needed_arms(config)
    _check_arms(config, chain.from_iterable(arms))
    # One job for each policy, under the first run that starts from it.
    first_runs = {config.policy_seed(seed): seed for seed in reversed(config.runs)}
    artifacts = WorldArtifacts(config)
    # Policies stand alone in the first stage: pools and arms of every run need theirs.
    policies = []
    for seed in sorted(first_runs.values()):
        name = "shipped" if artifacts.is_shipped(seed) else ""
        policies.append(Job("policy", name, seed))
    sets = [*_jobs(config, "data", [""]), *_jobs(config, "pool", config.regimes)]
    return [policies, sets, *(_jobs(config, "arm", names) for names in arms)]


def _jobs(config: LabConfig, kind: str, names: Sequence[str]) -> list[Job]:
    return [Job(kind, name, seed) for seed, name in product(config.runs, names)]


def _check_arms(config: LabConfig, names: Iterable[str]) -> None:
    """Read every arm's configuration and look for every reward now, not when its turn comes."""
    arms = arms_of(config)
    for name in names:
        reward = arms[name].reward
        if reward is not None:
            REWARDS[reward.kind].find(reward)
        elif not arms[name].merge:
            values = training_config(arms[name], config, config.first_seed)
            values["model"]["backbone"] = "made later"
            values["output"] = {"folder": "made later"}
            parse_config(values, where=f"arms.{name}")


@contextmanager
def _processes(workers: int, work: Path) -> Iterator[ProcessPoolExecutor]:
    before = set(active_children())
    context = worker_context(*IMPORTED)
    with ProcessPoolExecutor(workers, mp_context=context, initializer=_begin_worker) as pool:
        try:
            yield pool
        except BrokenProcessPool as error:
            # For lack of memory most often; nothing half made is left, so a second call goes on.
            raise SmormError("a process of the study was killed; call again to go on") from error
        except BaseException as error:
            pool.shutdown(wait=False, cancel_futures=True)
            if not isinstance(error, KeyboardInterrupt):
                raise
            # Workers answer SIGTERM alone: it lets a training clean up. Only the pool's own: the
            # caller may have other children.
            for child in set(active_children()) - before:
                child.terminate()
            problem = (
                f"stopped; what was made stays in {work}, and the same study goes on from there"
            )
            raise Interrupted(problem) from None


def _do(values: dict[str, Any], job: Job) -> list[Result]:
    try:
        # An exception, so that whatever is half made is removed; a training has its own answer.
        with handled(once=True):
            results = _make(WorldArtifacts(LabConfig(**values)), job)
            if not requested():
                return results
    except (KeyboardInterrupt, Interrupted):
        pass
    # The pool would only pass the exception on: a worker that is ended must not take another job.
    os._exit(1)


def _make(artifacts: WorldArtifacts, job: Job) -> list[Result]:
    if job.kind == "measure":
        run = Run(artifacts, job.seed)
        return [*run.results(), *run.curves()]
    if job.kind == "policy":
        artifacts.policy(job.seed)
    elif job.kind == "data":
        artifacts.data(job.seed)
    elif job.kind == "pool":
        artifacts.pools(job.seed, job.name)  # type: ignore[arg-type]
    else:
        artifacts.rows(job.name, job.seed)
    return []


def _begin_worker() -> None:
    """One thread, no logging, and an end with the parent, which alone handles Ctrl-C."""
    import torch

    # A terminal sends its signals to the whole process group; one process must decide what they
    # mean. A fork of the server has them blocked as well.
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    # Between two jobs (`_do`) there is nothing to remove.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])
    # Once more: what the worker is a fork of may have started before they were set.
    os.environ.update(_VARIABLES)
    torch.set_num_threads(1)
    logging.getLogger().setLevel(logging.WARNING)
    end_with_parent()


@contextmanager
def _single_threaded_children() -> Iterator[None]:
    """Set the variables that native libraries read when a child starts: too late in the child."""
    before = dict(os.environ)
    os.environ.update(_VARIABLES)
    try:
        yield
    finally:
        for name in _VARIABLES:
            os.environ.pop(name, None)
            if name in before:
                os.environ[name] = before[name]


class Progress:
    """Guesses the remaining time: by what jobs usually take, and more and more by this study."""

    def __init__(self, jobs: Sequence[Job], workers: int, on_step: OnStep) -> None:
        self.pending, self.workers = list(jobs), workers
        self.total, self.on_step, self.started = len(jobs), on_step, time.monotonic()
        self.expected = 0.0

    def done(self, job: Job) -> None:
        """Report that one more is done."""
        self.pending.remove(job)
        self.expected += job.seconds / self.workers
        # A ratio of real to usual time that starts at 1: the prior weighs down the first jobs.
        elapsed = time.monotonic() - self.started
        slowdown = (elapsed + _PRIOR_SECONDS) / (self.expected + _PRIOR_SECONDS)
        usual = sum(pending.seconds for pending in self.pending) / self.workers
        count = self.total - len(self.pending)
        self.on_step(Step(job.title, count, self.total, slowdown * usual))


def write_config(config: LabConfig, path: Path) -> None:
    """Write the resolved configuration, without the secrets of addresses."""
    values = without_secrets(config.model_dump(mode="json"))
    files.write_text(path, yaml.safe_dump(values, sort_keys=False))


def write_table(path: Path | str, results: Sequence[Result]) -> None:
    """Write a CSV of one line for each number of each run: what statistics over seeds are of."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(COLUMNS)
    for result in results:
        seed = str(result.fingerprint.get("seed", ""))
        set_name = result.suite.partition("/")[2] or result.suite
        names = (result.kind, set_name, result.model, result.view)
        head = (*map(csv_cell, names), seed)
        for name, metric in result.metrics.items():
            if name.startswith(_PREFIXES.get(result.kind, ())):
                writer.writerow((*head, name, f"{metric.value:.6g}"))
    files.write_text(path, stream.getvalue())
