"""What all routes share: from items to results, with deadlines, room in the queue, and clients that
go away."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from smorm.arrays import Floats
from smorm.errors import ConfigError, OverLimitError, SmormError
from smorm.serving.batcher import Batcher, Job, QueueFullError, StoppedError, TooLateError
from smorm.serving.guard import GONE, Refused
from smorm.serving.metrics import Metrics
from smorm.serving.served import Served, Unit
from smorm.serving.settings import ServeOptions
from smorm.serving.worker import NonFiniteError, WorkerError, WorkerStalledError

MakeUnit = Callable[[], Unit]
_LONGEST_RETRY = 30  # seconds


@dataclass(frozen=True, slots=True)
class Failed:
    """Why an item has no score."""

    status: int
    kind: str
    message: str

    def as_dict(self) -> dict[str, Any]:
        return {"error": {"type": self.kind, "message": self.message}}


@dataclass(frozen=True, slots=True)
class Done:
    """A unit with its rows [N, C]."""

    unit: Unit
    rows: Floats


class Service:
    """A server's rewards, its queue, and whether it is draining."""

    def __init__(
        self,
        options: ServeOptions,
        served: Mapping[str, Served],
        batcher: Batcher,
        metrics: Metrics,
    ) -> None:
        self.options, self.served, self.batcher, self.metrics = options, served, batcher, metrics
        self.draining = False
        # One thread a reward: a tokenizer is used by one thread at a time.
        self._threads = {name: ThreadPoolExecutor(1, f"smorm-tokens-{name}") for name in served}

    def close(self) -> None:
        """End the threads that tokenise."""
        for threads in self._threads.values():
            threads.shutdown(wait=False, cancel_futures=True)

    @property
    def ready(self) -> bool:
        return self.batcher.healthy and not self.draining

    def find(self, name: str | None) -> Served:
        """The reward of a name; without one the only one. Refused with 404."""
        if name is None and len(self.served) == 1:
            return next(iter(self.served.values()))
        if name is not None and name in self.served:
            return self.served[name]
        known = ", ".join(self.served)
        problem = "name a model" if name is None else "no such model"
        raise Refused(404, "unknown_model", f"{problem}; there are {known}", "model")

    def view_names(self, served: Served, views: Sequence[Any] | None) -> dict[str, Any]:
        """Requested views by their name in answers; refused with 422."""
        names: dict[str, Any] = {}
        for index, view in enumerate(views or [None]):
            try:
                names[served.view_name(view)] = view
            except ConfigError as error:
                raise Refused(422, "unknown_view", str(error), f"views.{index}") from error
        return names

    async def score(
        self,
        served: Served,
        makers: Sequence[MakeUnit],
        scope: Mapping[str, Any],
        seconds: float,
        *,
        hold: bool = False,
    ) -> list[Done | Failed]:
        """One result an item, in order. `hold`: wait for room in the queue instead of a refusal.
        Refused: too many items (413), a full queue (429), draining to its end (503)."""
        if len(makers) > self.options.limits.items:
            most = self.options.limits.items
            raise Refused(413, "too_many_items", f"{len(makers)} items, the limit is {most}")
        deadline = time.monotonic() + seconds
        if not hold:
            self.check_room(len(makers), seconds)
        loop = asyncio.get_running_loop()
        with self.batcher.expecting(len(makers)):
            made = await loop.run_in_executor(self._threads[served.name], _make, makers)
        jobs: list[Job | None] = []
        for unit in made:
            job = None
            if isinstance(unit, Unit):
                job = unit.job(served.name, deadline)
            jobs.append(job)
        live = [job for job in jobs if job is not None]
        try:
            if live and hold:
                await self.batcher.submit_when_room(live)
            elif live:
                self.batcher.submit(live)
            await _all_done(live, scope[GONE], deadline)
        except QueueFullError:
            raise self._overloaded() from None
        except TooLateError:
            raise Refused(504, "deadline", "the deadline came before there was room") from None
        except StoppedError:
            raise Refused(
                503, "stopping", "the server is stopping", **{"Retry-After": "1"}
            ) from None
        finally:
            for job in live:
                job.future.cancel()
        results: list[Done | Failed] = []
        for unit, job in zip(made, jobs, strict=True):
            if isinstance(unit, Unit) and job is not None:
                results.append(_result(unit, job.future))
            elif isinstance(unit, Failed):
                results.append(unit)
        for result in results:
            if isinstance(result, Failed):
                self.metrics.refusals.labels(result.kind).inc()
        return results

    def check_room(self, items: int, seconds: float) -> None:
        """Before any work is done for a request: refused (429) where so many items more may not
        wait, or where they would wait for longer than `seconds`."""
        batcher = self.batcher
        if not batcher.has_room_for(items) or batcher.waiting_seconds > seconds:
            raise self._overloaded()

    def _overloaded(self) -> Refused:
        seconds = self.batcher.waiting_seconds
        message = f"{self.batcher.waiting} items wait already, about {seconds:.1f} s of work"
        # By then what waits now is done, by the speed of the last batches.
        retry_after = min(_LONGEST_RETRY, max(1, math.ceil(seconds)))
        return Refused(429, "overloaded", message, **{"Retry-After": str(retry_after)})


def _make(makers: Sequence[MakeUnit]) -> list[Unit | Failed]:
    units: list[Unit | Failed] = []
    for make in makers:
        try:
            units.append(make())
        except SmormError as error:
            kind = "too_long" if isinstance(error, OverLimitError) else "bad_item"
            units.append(Failed(422, kind, str(error)[:500]))
        except RecursionError:
            units.append(Failed(422, "bad_item", "nested too deep"))
    return units


async def _all_done(jobs: Sequence[Job], gone: asyncio.Event, deadline: float) -> None:
    """Wait for all jobs, at most until the deadline, or until the client has gone; what it waits
    for is then dropped."""
    if not jobs:
        return
    everything = asyncio.ensure_future(asyncio.wait([job.future for job in jobs]))
    departure = asyncio.ensure_future(gone.wait())
    try:
        waiting: set[asyncio.Future[Any]] = {everything, departure}
        seconds = max(0.0, deadline - time.monotonic())
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED, timeout=seconds)
        if gone.is_set() and not everything.done():
            raise Refused(499, "gone", "the client has gone")
        for job in jobs:
            # Also of a batch that is being computed, or that a stalled worker has.
            if not job.future.done():
                job.future.set_exception(TooLateError())
    finally:
        departure.cancel()
        everything.cancel()


def _result(unit: Unit, future: asyncio.Future[Floats]) -> Done | Failed:
    error = future.exception()
    if error is None:
        return Done(unit, future.result())
    if isinstance(error, TooLateError):
        return Failed(504, "deadline", "the deadline came before its scores")
    if isinstance(error, WorkerStalledError):
        return Failed(504, "stalled", str(error))
    if isinstance(error, NonFiniteError):
        return Failed(500, "non_finite", "the model gave a score that is not finite")
    if isinstance(error, StoppedError):
        return Failed(503, "stopping", "the server is stopping")
    if isinstance(error, WorkerError):
        return Failed(500, "model_failed", str(error)[:300])
    raise error


def finite(values: Floats, status: int = 500) -> list[float]:
    """Values as JSON; refused where one is not finite (a view's weights may overflow), with 422
    where the request named the view."""
    if not np.isfinite(values).all():
        raise Refused(status, "non_finite", "a view's value is not finite")
    return [float(value) for value in values]
