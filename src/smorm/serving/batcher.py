"""What waits becomes batches: at once, up to a budget of tokens, without a timer.

Jobs that begin alike stand together, so that the forest computes what they share once, also across
requests. A batch that fails is split until the bad job is alone. Every job's future is completed on
every path, also where the worker dies or the server stops."""

from __future__ import annotations

import asyncio
import contextlib
import time
from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from smorm.arrays import Floats
from smorm.errors import SmormError
from smorm.printing import get_logger
from smorm.serving.metrics import Metrics
from smorm.serving.settings import Limits
from smorm.serving.worker import (
    START_SECONDS,
    BatchError,
    NonFiniteError,
    ScoredBatch,
    Worker,
    WorkerEndedError,
    WorkerError,
    WorkerStalledError,
)
from smorm.trees.forest import MIN_SHARE

log = get_logger(__name__)

_MOST_JOBS = 512  # of a batch: the oldest that wait
_NEWEST = 0.2  # weight of the newest number in an average of all before it
_RESTART_SECONDS = (
    0.5  # before a worker that did not start is started again, doubled up to a minute
)
_IDLE_SECONDS = 1.0  # after which a worker without a batch is looked at: it may have ended


class TooLateError(Exception):
    """The deadline came before the scores."""


class QueueFullError(Exception):
    """Too much waits already."""


class StoppedError(Exception):
    """The server is stopping."""


@dataclass(slots=True, eq=False)
class Job:
    """Units of one item that wait for rows. `units`: token ids of each response, or an item as
    JSON, with `tokens` an estimate of its size."""

    name: str
    unit: Any
    tokens: int
    deadline: float  # of time.monotonic()
    future: asyncio.Future[Floats]
    key: bytes = b""  # its first sequence, 4 bytes a token, so that keys sort like token ids
    since: float = field(default_factory=time.monotonic)
    ended_worker: bool = False  # whether a worker ended that had this job alone


@dataclass(frozen=True, slots=True)
class Probe:
    """What a worker must have a score for before it is trusted with jobs. Not every function has
    one for words that nobody wrote: those without `required` may refuse it, until they scored it
    once."""

    unit: Any  # as a job's
    required: bool


def common_tokens(first: bytes, second: bytes) -> int:
    """How many tokens two keys begin with that a forest computes once."""
    size = min(len(first), len(second))
    differs = np.frombuffer(first, np.uint8, size) != np.frombuffer(second, np.uint8, size)
    shared = int(differs.argmax()) // 4 if differs.any() else size // 4
    return shared if shared >= MIN_SHARE else 0


def alike(jobs: Sequence[Job]) -> list[Job]:
    """The first job, and those of which at least half is its beginning too, the most alike first.

    Less is no reason to be served before an older job: a short system prompt is in all of them."""
    first = jobs[0]
    shares = []
    for job in jobs[1:]:
        if job.key[: 4 * MIN_SHARE] == first.key[: 4 * MIN_SHARE]:
            shared = common_tokens(job.key, first.key)
            if 2 * shared >= job.tokens:
                shares.append((shared, job))
    # Of those that share only a system prompt, the answers to one prompt stand together.
    shares.sort(key=lambda share: (-share[0], share[1].key))
    return [first, *(job for _, job in shares)]


def batch_of(jobs: Sequence[Job], budget: int) -> list[Job]:
    """The oldest job and what fits beside it, counting the rows that a forest computes: first what
    is like it, then the oldest of the others with what is like that, and so on. `jobs` are of one
    reward, by age; a job larger than the budget is alone."""
    batch: list[Job] = []
    keys: list[bytes] = []  # of the batch, sorted: a job shares the most with its neighbours
    rows, remaining = 0, list(jobs[:_MOST_JOBS])
    while remaining:
        group = alike(remaining)
        for job in group:
            position = bisect_left(keys, job.key)
            neighbours = keys[max(0, position - 1) : position + 1]
            shared = max((common_tokens(job.key, key) for key in neighbours), default=0)
            rows += job.tokens - shared
            if batch and rows > budget:
                return batch
            batch.append(job)
            keys.insert(position, job.key)
        grouped = set(map(id, group))
        remaining = [job for job in remaining if id(job) not in grouped]
    return batch


class Batcher:
    """A queue of jobs, and for each worker a task that takes batches from it. `probes`: by the name
    of each reward."""

    def __init__(
        self, workers: Sequence[Worker], max_batch_tokens: int, limits: Limits, metrics: Metrics,
        probes: Mapping[str, Probe],
    ) -> None:  # fmt: skip
        self.workers, self.budget, self.limits = workers, max_batch_tokens, limits
        self.metrics = metrics
        self._waiting: list[Job] = []
        self._tokens = 0
        self._expected = 0  # jobs that are being tokenised
        self._job_tokens = 0.0  # of one job, an average of the last ones
        self._speed = 0.0  # tokens a second of one worker, an average of its last batches
        self._news = asyncio.Event()
        self._room = asyncio.Condition()
        self._threads = ThreadPoolExecutor(len(workers), thread_name_prefix="smorm-worker")
        self._tasks: list[asyncio.Task[None]] = []
        self._stopped = False
        self._probes = dict(probes)
        self._required = {name for name, probe in probes.items() if probe.required}
        # By the outcome of each worker's last batch, probes among them: a live process may be of
        # no use.
        self._healthy = [False for _ in workers]
        self._doubtful = [False for _ in workers]  # whether its last batch had a failure
        metrics.healthy_workers.set_function(self._healthy_workers)

    async def start(self) -> None:
        """Probe the workers, which must have been started, and begin to take jobs. SmormError: a
        reward gives no scores."""
        for index, worker in enumerate(self.workers):
            try:
                await self._probe(index, START_SECONDS)
            except WorkerError as error:
                raise SmormError(f"the first batch of {worker.device}: {error}") from error
        for index in range(len(self.workers)):
            self._tasks.append(asyncio.create_task(self._run(index)))

    @property
    def healthy(self) -> bool:
        """Whether some worker's last batch, or the probe after it, came back with scores."""
        return not self._stopped and self._healthy_workers() > 0

    def _healthy_workers(self) -> int:
        return sum(
            well and worker.alive for well, worker in zip(self._healthy, self.workers, strict=True)
        )

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    @property
    def waiting_seconds(self) -> float:
        """How long what waits, or is being tokenised, will take by the speed of the last batches; 0
        before the first."""
        return self._seconds_of(self._tokens + self._expected_tokens)

    @property
    def _expected_tokens(self) -> float:
        return self._expected * self._job_tokens

    def _seconds_of(self, tokens: float) -> float:
        return tokens / (self._speed * len(self.workers)) if self._speed else 0.0

    def has_room_for(self, jobs: int) -> bool:
        """Whether so many more may be tokenised. What is being tokenised will wait too: else a
        crowd would be let in at once, and refused only when the work is done."""
        if not self._waiting and not self._expected:
            return True
        return (
            len(self._waiting) + self._expected + jobs <= self.limits.waiting_items
            and self._tokens + self._expected_tokens <= self.limits.waiting_tokens
            and self.waiting_seconds <= self.limits.waiting_seconds
        )

    @contextlib.contextmanager
    def expecting(self, jobs: int) -> Iterator[None]:
        """While these jobs are tokenised."""
        self._expected += jobs
        try:
            yield
        finally:
            self._expected -= jobs

    def has_room(self, jobs: int, tokens: int) -> bool:
        """Whether so much more may wait. An empty queue takes anything that a request may hold."""
        if not self._waiting:
            return True
        limits = self.limits
        return (
            len(self._waiting) + jobs <= limits.waiting_items
            and self._tokens + tokens <= limits.waiting_tokens
            and self._seconds_of(self._tokens) <= limits.waiting_seconds
        )

    def submit(self, jobs: Sequence[Job]) -> None:
        """Let jobs wait; `QueueFullError`, `StoppedError`: none of them does."""
        if self._stopped:
            raise StoppedError
        if not self.has_room(len(jobs), sum(job.tokens for job in jobs)):
            raise QueueFullError
        for job in jobs:
            self._waiting.append(job)
            self._tokens += job.tokens
            self._job_tokens = _averaged(self._job_tokens, job.tokens)
        self._tell_metrics()
        self._news.set()

    async def submit_when_room(self, jobs: Sequence[Job]) -> None:
        """As `submit`, but waits for room until the first deadline (`TooLateError`)."""
        tokens = sum(job.tokens for job in jobs)
        async with self._room:
            waited = self._room.wait_for(lambda: self._stopped or self.has_room(len(jobs), tokens))
            seconds = min(job.deadline for job in jobs) - time.monotonic()
            try:
                await asyncio.wait_for(waited, max(0.0, seconds))
            except TimeoutError:
                raise TooLateError from None
        self.submit(jobs)

    async def stop(self) -> None:
        """End the workers; what waits or is computed fails with `StoppedError`."""
        self._stopped = True
        for task in self._tasks:
            task.cancel()
        for worker in self.workers:
            worker.close()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for job in self._waiting:
            _fail(job, StoppedError())
        self._waiting.clear()
        async with self._room:
            self._room.notify_all()
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _run(self, index: int) -> None:
        """Take batches for one worker, for ever."""
        while not self._stopped:
            if not self._healthy[index] or not self.workers[index].alive:
                await self._restart(index)
            batch = self._take()
            if not batch:
                self._news.clear()
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._news.wait(), _IDLE_SECONDS)
                continue
            async with self._room:
                self._room.notify_all()
            try:
                await self._score(index, batch)
            except Exception as error:
                # A fault of this program's: the worker's next batch must not fall with it.
                log.error("a batch failed: %s", type(error).__name__)
                for job in batch:
                    _fail(job, WorkerError("the server failed"))
            finally:
                for job in batch:
                    _fail(job, StoppedError())
            if self._doubtful[index]:
                await self._check(index)

    def _take(self) -> list[Job]:
        """The next batch (`batch_of`). Jobs that nobody waits for, or whose time is over, are
        dropped."""
        now, live = time.monotonic(), []
        for job in self._waiting:
            if job.future.done():
                continue
            if job.deadline <= now:
                _fail(job, TooLateError())
                continue
            live.append(job)
        batch: list[Job] = []
        if live:
            batch = batch_of([job for job in live if job.name == live[0].name], self.budget)
        batched = set(map(id, batch))
        self._waiting = [job for job in live if id(job) not in batched]
        self._tokens = sum(job.tokens for job in self._waiting)
        self._tell_metrics()
        return batch

    async def _score(self, index: int, batch: list[Job]) -> None:
        """Complete the futures of a batch."""
        began = time.monotonic()
        for job in batch:
            self.metrics.queue_seconds.observe(began - job.since)
        try:
            units = [job.unit for job in batch]
            scored = await self._call(index, batch[0].name, units, self.limits.batch_seconds)
        except WorkerError as error:
            await self._after_failure(index, batch, error)
            return
        seconds = time.monotonic() - began
        speed = sum(job.tokens for job in batch) / max(seconds, 1e-6)
        self._speed = _averaged(self._speed, speed)
        self.metrics.batch(scored, seconds)
        for job, values in zip(batch, scored.rows, strict=True):
            if not job.future.done():
                job.future.set_result(values)

    async def _call(
        self, index: int, name: str, units: Sequence[Any], seconds: float
    ) -> ScoredBatch:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(
            self._threads, self.workers[index].score, name, units, seconds
        )

    async def _after_failure(self, index: int, batch: list[Job], error: WorkerError) -> None:
        """Split the batch, or let its one job fail; a worker that ended is started again first."""
        self.metrics.failures.labels(type(error).__name__).inc()
        if isinstance(error, WorkerEndedError | WorkerStalledError):
            await self._restart(index)
        else:
            self._doubtful[index] = True
        live = [job for job in batch if not job.future.done()]
        if len(live) > 1 and error.divisible:
            middle = len(live) // 2
            await self._score(index, live[:middle])
            await self._score(index, live[middle:])
            return
        # A worker may have been ended from outside: the job is to blame where it ends a second one.
        if isinstance(error, WorkerEndedError) and live and not live[0].ended_worker:
            live[0].ended_worker = True
            await self._score(index, live)
            return
        for job in live:
            _fail(job, error)

    async def _check(self, index: int) -> None:
        """After a failure: a worker that has no score for its probe either was itself to blame."""
        self._doubtful[index] = False
        try:
            await self._probe(index, self.limits.batch_seconds)
        except WorkerError as error:
            self._healthy[index] = False
            log.warning("the worker of %s: %s", self.workers[index].device, error)

    async def _probe(self, index: int, seconds: float) -> None:
        """Let a worker score every probe: it is healthy; `WorkerError`: it is not."""
        for name, probe in self._probes.items():
            try:
                await self._call(index, name, [probe.unit], seconds)
            except (BatchError, NonFiniteError):
                if name in self._required:
                    raise
            else:
                self._required.add(name)
        self._healthy[index] = True

    async def _restart(self, index: int) -> None:
        """Start a worker again, until it has scores for its probes."""
        worker, pause = self.workers[index], _RESTART_SECONDS
        loop = asyncio.get_running_loop()
        self._healthy[index] = self._doubtful[index] = False
        while not self._stopped:
            try:
                await loop.run_in_executor(self._threads, worker.start)
                await self._probe(index, START_SECONDS)
            except (SmormError, WorkerError) as error:
                if not self._stopped:
                    log.error("%s; trying again in %g s", error, pause)
                await asyncio.sleep(pause)
                pause = min(60.0, 2 * pause)
                continue
            log.warning("the worker of %s was started again", worker.device)
            return

    def _tell_metrics(self) -> None:
        self.metrics.waiting_items.set(len(self._waiting))
        self.metrics.waiting_tokens.set(self._tokens)


def _averaged(average: float, newest: float) -> float:
    return average + _NEWEST * (newest - average) if average else newest


def _fail(job: Job, error: Exception) -> None:
    if not job.future.done():
        job.future.set_exception(error)
        # Where the client has gone nobody reads it, and asyncio would log that.
        job.future.exception()
