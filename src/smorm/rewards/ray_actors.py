"""Scoring by actors of Ray (extra `ray`): each loads the reward once and scores chunks of the
input.

Ray Data hands out the numbers of chunks, keeps their order, and starts an actor again that was
lost, with what it had not finished. Actors read the input themselves, so every machine needs its
path; only scores travel. Whoever may join the cluster may run code on it: Ray trusts its
network."""

from __future__ import annotations

import logging
import os
import signal
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import orjson

from smorm import errors
from smorm.data.census import Census
from smorm.data.reading import Source
from smorm.errors import ConfigError, SmormError, first_line
from smorm.printing import get_logger
from smorm.rewards import chunks
from smorm.rewards.chunks import ChunkScorer, ScoredChunk
from smorm.rewards.protocol import ScoringOptions, open_reward
from smorm.rewards.section import RewardSection
from smorm.stopping import SIGNALS

log = get_logger(__name__)

# How often an actor may be lost and started again, and a chunk tried again on a new one. A chunk
# that ends every actor that scores it must end the run at last.
MOST_RESTARTS, MOST_RETRIES = 16, 3


@dataclass(frozen=True, slots=True)
class RayActors:
    """So many actors, each with the reward that `section` names. On CUDA each has a GPU of its own;
    on the CPU `OMP_NUM_THREADS` threads, by default the cores over the actors."""

    section: RewardSection
    options: ScoringOptions
    count: int

    def __post_init__(self) -> None:
        if self.section.kind == "ensemble":
            raise ConfigError("--ray is for one reward: score an ensemble with --shards")
        if self._device.startswith("cuda:"):
            problem = "Ray gives each actor a GPU of its own: give --device cuda"
            raise ConfigError(f"--device {self._device} with --ray: {problem}")
        imported_ray()

    @property
    def _device(self) -> str:
        return self.section.device or self.options.device

    def here(self) -> tuple[RewardSection, ScoringOptions]:
        """The same reward for the process that gathers, which scores nothing and needs no GPU."""
        section = self.section.model_copy(update={"device": None})
        return section, replace(self.options, device="cpu")

    def scored(
        self, source: Source, keep: Sequence[str], numbers: range, census: Census
    ) -> Iterator[ScoredChunk]:
        """The chunks of those numbers, in their order; `census` gets what reading dropped. Raises
        what scoring raised on an actor, and `SmormError` where Ray fails."""
        if not numbers:
            return
        ray = imported_ray()
        threads = int(os.environ.get("OMP_NUM_THREADS") or max(1, _cores() // self.count))
        with _cluster(ray, self.count * threads):
            dataset = self._dataset(ray, source, keep, numbers, threads)
            try:
                for row in dataset.iter_rows():
                    yield _unpacked(row, census)
            except (ray.exceptions.RayError, ray.data.exceptions.RayDataUserCodeException) as error:
                raise SmormError(f"Ray: {first_line(error.__cause__ or error)}") from error

    def _dataset(
        self, ray: Any, source: Source, keep: Sequence[str], numbers: range, threads: int
    ) -> Any:
        """The scored chunks as a data set that is computed while it is read."""
        items = [{"number": number} for number in numbers]
        # A block for each chunk: what is lost with an actor is scored again, and no more.
        dataset = ray.data.from_items(items, override_num_blocks=len(items))
        gpus = int(self._on_gpus(ray))
        constructor = {
            "section": self.section, "options": self.options, "source": source,
            "keep": tuple(keep), "size": chunks.CHUNK, "threads": threads,
        }  # fmt: skip
        with warnings.catch_warnings():
            # Ray 2.64 takes the last two arguments away (`pyproject.toml` says below it).
            warnings.simplefilter("ignore", DeprecationWarning)
            dataset = dataset.map_batches(
                ChunkActor,
                fn_constructor_kwargs=constructor,
                batch_size=1,
                batch_format="numpy",
                compute=ray.data.ActorPoolStrategy(size=self.count),
                num_gpus=gpus or None,
                num_cpus=1 if gpus else threads,
                max_restarts=MOST_RESTARTS,
                max_task_retries=MOST_RETRIES,
            )
        context = dataset.context
        context.execution_options.preserve_order = True
        context.enable_progress_bars = False
        context.print_on_execution_start = False
        return dataset

    def _on_gpus(self, ray: Any) -> bool:
        if self._device == "auto":
            return bool(ray.cluster_resources().get("GPU", 0))
        return self._device == "cuda"


class ChunkActor:
    """What runs in an actor: scores chunks by their numbers."""

    def __init__(
        self,
        section: RewardSection,
        options: ScoringOptions,
        source: Source,
        keep: Sequence[str],
        size: int,
        threads: int,
    ) -> None:
        import torch

        torch.set_num_threads(threads)
        self.scorer = ChunkScorer.of(open_reward(section, options), source, size, keep)

    def __call__(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        """Scored chunks of `number`s: their `lines`, and the rest as JSON in `about`."""
        lines, about = [], []
        for number in batch["number"]:
            census = Census()
            failure = None
            chunk = ScoredChunk(b"", 0, None)
            try:
                chunk = self.scorer.score(int(number), census)
            except SmormError as error:
                # As a value: Ray would make a page of it, and try again what cannot succeed.
                failure = [type(error).__name__, str(error)]
            facts = {"count": chunk.count, "error": chunk.error, "failure": failure}
            lines.append(chunk.lines)
            about.append(orjson.dumps({**facts, "census": census.plain()}))
        return {"lines": np.array(lines, dtype=object), "about": np.array(about, dtype=object)}


def _unpacked(row: Mapping[str, Any], census: Census) -> ScoredChunk:
    about = orjson.loads(row["about"])
    if about["failure"] is not None:
        name, message = about["failure"]
        raise getattr(errors, name, SmormError)(message)
    census.merge(Census.from_plain(about["census"], {}))
    return ScoredChunk(bytes(row["lines"]), about["count"], about["error"])


def imported_ray() -> Any:
    """The module; `ConfigError` where it is not installed."""
    # Nothing of a run is reported to anybody, and its own processes do not write over a bar.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    try:
        import ray
        import ray.data
    except ImportError as error:
        problem = f"needs the package ray ({first_line(error)})"
        raise ConfigError(f"--ray: {problem}: pip install 'smorm[ray]'") from error
    logging.getLogger("ray").setLevel(logging.ERROR)
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    return ray


@contextmanager
def _cluster(ray: Any, num_cpus: int) -> Iterator[None]:
    """The cluster that `RAY_ADDRESS` or a running head names, or one on this machine that ends with
    the block."""
    if ray.is_initialized():  # the caller's
        yield
        return
    options: dict[str, Any] = {}
    if not os.environ.get("RAY_ADDRESS"):
        options = {"address": "local", "num_cpus": max(num_cpus, _cores())}
        options["include_dashboard"] = False
    with _same_handlers():
        ray.init(**options, log_to_driver=False, logging_level="error")
    try:
        yield
    finally:
        ray.shutdown()


@contextmanager
def _same_handlers() -> Iterator[None]:
    """Ray takes SIGTERM for itself."""
    before: dict[int, Callable[..., Any] | int | None] = {}
    for number in SIGNALS:
        before[number] = signal.getsignal(number)
    try:
        yield
    finally:
        for number, handler in before.items():
            if handler is not None and signal.getsignal(number) is not handler:
                signal.signal(number, handler)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
