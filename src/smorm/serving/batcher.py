"""What waits becomes batches: at once, up to a budget of tokens, without a timer.

Jobs that begin alike stand together, so that the forest computes what they share once, also across
requests. A batch that fails is split until the bad job is alone. Every job's future is completed on
every path, also where the worker dies or the server stops."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from smorm.arrays import Floats
from smorm.errors import SmormError
from smorm.printing import get_logger
from smorm.serving.metrics import Metrics
from smorm.serving.settings import Limits
from smorm.serving.worker import Worker, WorkerEndedError, WorkerError, WorkerStalledError

log = get_logger(__name__)

_BEGINNING = 64  # tokens by which jobs are put together
_MOST_JOBS = 512  # of a batch
_RESTART_SECONDS = 0.5  # before a worker that ended is started again, doubled up to a minute


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
    beginning: bytes = b""
    since: float = field(default_factory=time.monotonic)


def beginning_of(ids: Sequence[int]) -> bytes:
    """What jobs that begin alike have in common."""
    return np.asarray(ids[:_BEGINNING], dtype=np.int32).tobytes()


class Batcher:
    """A queue of jobs, and for each worker a task that takes batches from it."""

    def __init__(
        self, workers: Sequence[Worker], max_batch_tokens: int, limits: Limits, metrics: Metrics
    ) -> None:
        self.workers, self.budget, self.limits = workers, max_batch_tokens, limits
        self.metrics = metrics
        self._waiting: list[Job] = []
        self._tokens = 0
        self._news = asyncio.Event()
        self._room = asyncio.Condition()
        self._threads = ThreadPoolExecutor(len(workers), thread_name_prefix="smorm-worker")
        self._tasks: list[asyncio.Task[None]] = []
        self._stopped = False
        # By the outcome of each worker's last batch: a live process may be of no use.
        self._healthy = [True for _ in workers]

    def start(self) -> None:
        """Begin to take jobs; the workers must have been started."""
        for index in range(len(self.workers)):
            self._tasks.append(asyncio.create_task(self._run(index)))

    @property
    def healthy(self) -> bool:
        """Whether some worker's last batch came back from it."""
        return not self._stopped and any(
            well and worker.alive for well, worker in zip(self._healthy, self.workers, strict=True)
        )

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    def has_room(self, jobs: int, tokens: int) -> bool:
        """Whether so much more may wait. An empty queue takes anything that a request may hold."""
        if not self._waiting:
            return True
        return (
            len(self._waiting) + jobs <= self.limits.waiting_items
            and self._tokens + tokens <= self.limits.waiting_tokens
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
            worker.stop()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for job in self._waiting:
            _fail(job, StoppedError())
        self._waiting.clear()
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _run(self, index: int) -> None:
        """Take batches for one worker, for ever."""
        while not self._stopped:
            if not self.workers[index].alive:
                await self._restart(index)
            batch = self._take()
            if not batch:
                self._news.clear()
                if not self._waiting:
                    await self._news.wait()
                continue
            async with self._room:
                self._room.notify_all()
            try:
                await self._score(index, batch)
            finally:
                for job in batch:
                    _fail(job, StoppedError())

    def _take(self) -> list[Job]:
        """The oldest job and what fits beside it: of the same reward, those that begin like it
        first, the others by age. Jobs that nobody waits for, or whose time is over, are dropped."""
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
            first = live[0]
            same = [job for job in live if job.name == first.name]
            same.sort(key=lambda job: job.beginning != first.beginning)  # stable: by age in each
            rows = 0
            for job in same[:_MOST_JOBS]:
                if batch and rows + job.tokens > self.budget:
                    break
                batch.append(job)
                rows += job.tokens
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
            rows = await self._call(index, batch)
        except WorkerError as error:
            await self._after_failure(index, batch, error)
            return
        self._healthy[index] = True
        self.metrics.batch(batch, time.monotonic() - began)
        for job, values in zip(batch, rows, strict=True):
            if not job.future.done():
                job.future.set_result(values)

    async def _call(self, index: int, batch: Sequence[Job]) -> list[Floats]:
        loop = asyncio.get_running_loop()
        units = [job.unit for job in batch]
        return await loop.run_in_executor(
            self._threads, self.workers[index].score, batch[0].name, units,
            self.limits.batch_seconds,
        )  # fmt: skip

    async def _after_failure(self, index: int, batch: list[Job], error: WorkerError) -> None:
        """Split the batch, or let its one job fail; a worker that ended is started again first."""
        self.metrics.failures.labels(type(error).__name__).inc()
        if isinstance(error, WorkerEndedError | WorkerStalledError):
            # Of one job alone the worker did not answer either: only another batch clears it.
            self._healthy[index] = False
            await self._restart(index)
        live = [job for job in batch if not job.future.done()]
        if len(live) > 1 and error.divisible:
            middle = len(live) // 2
            await self._score(index, live[:middle])
            await self._score(index, live[middle:])
            return
        for job in live:
            _fail(job, error)

    async def _restart(self, index: int) -> None:
        """Start a worker again, until it starts."""
        worker, pause = self.workers[index], _RESTART_SECONDS
        loop = asyncio.get_running_loop()
        self._healthy[index] = False
        while not self._stopped:
            try:
                await loop.run_in_executor(self._threads, worker.start)
            except SmormError as error:
                log.error("%s; trying again in %g s", error, pause)
                await asyncio.sleep(pause)
                pause = min(60.0, 2 * pause)
                continue
            log.warning("the worker of %s was started again", worker.device)
            # Loaded and waiting: what it makes of the next batch decides.
            self._healthy[index] = True
            return

    def _tell_metrics(self) -> None:
        self.metrics.waiting_items.set(len(self._waiting))
        self.metrics.waiting_tokens.set(self._tokens)


def _fail(job: Job, error: Exception) -> None:
    if not job.future.done():
        job.future.set_exception(error)
        # Where the client has gone nobody reads it, and asyncio would log that.
        job.future.exception()
