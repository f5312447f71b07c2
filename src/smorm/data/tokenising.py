"""Records to tokens in this process or in several, in the records' order and with equal results.

The processes are started as programs of their own and talk in JSON and plain integers over pipes:
nothing of this process is copied by a fork, no script is imported again, nothing is unpickled.
"""

from __future__ import annotations

import logging
import os
import queue
import shutil
import tempfile
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Literal, TypeVar

from smorm.data.encode import Encoder, Outcome
from smorm.data.records import Messages
from smorm.data.token_worker import Worker, WorkerRefused, hand_over

log = logging.getLogger(__name__)

R = TypeVar("R")
Conversation = tuple[Messages, Sequence[Messages]]
Start = Callable[[list[Conversation]], Callable[[], list[Outcome]]]

CHUNK = 256
"""Records sent to a process at once: about 50 ms of work, so that neither waits for the pipe."""
WORTH_A_PROCESS = 8 << 20
"""Bytes of a source for each process under `auto`: starting one costs 2 to 4 seconds, about as
much as tokenising this much text."""


class Tokeniser:
    """Where conversations become tokens. Processes start when a source first needs them, and end
    with the `with` block, whatever ends it."""

    def __init__(self, encoder: Encoder, workers: int | Literal["auto"] = "auto") -> None:
        self.encoder = encoder
        self._workers = workers
        self._start: Start | None = None
        self._count = 1
        self._closing = ExitStack()

    def __enter__(self) -> Tokeniser:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self._closing.close()

    def workers_for(self, size: int) -> int:
        """Processes for a source of `size` bytes; 1 is this one."""
        if self._workers != "auto":
            return self._workers
        return max(1, min(_cores(), size // WORTH_A_PROCESS))

    def tokenised(
        self, records: Iterable[R], conversation: Callable[[R], Conversation], size: int
    ) -> Iterator[tuple[R, Outcome]]:
        """Each record with its outcome, in order; at most a few chunks are in memory.

        An error of the reader is raised where it stands among the records: after the outcomes of
        those before it, for any number of processes.
        """
        start, count = self._starter(self.workers_for(size))
        waiting: deque[tuple[list[R], Callable[[], list[Outcome]]]] = deque()
        source, failure, done = iter(records), None, False
        while True:
            while not done and len(waiting) < 2 * count:
                chunk, failure, done = _take(source)
                if chunk:
                    waiting.append((chunk, start([conversation(record) for record in chunk])))
            if not waiting:
                break
            chunk, result = waiting.popleft()
            yield from zip(chunk, result(), strict=True)
        if failure is not None:
            raise failure

    def _starter(self, count: int) -> tuple[Start, int]:
        if count == 1:
            return self._here, 1
        if self._start is None:
            try:
                self._start, self._count = self._processes(count), count
            except WorkerRefused as refused:
                log.warning("tokens: %s; tokenising in one process", refused)
                self._start, self._count = self._here, 1
        return self._start, self._count

    def _here(self, chunk: list[Conversation]) -> Callable[[], list[Outcome]]:
        return lambda: [self.encoder.encode(prompt, responses) for prompt, responses in chunk]

    def _processes(self, count: int) -> Start:
        folder = Path(tempfile.mkdtemp(prefix="smorm-tokenizer-"))
        self._closing.callback(shutil.rmtree, folder, ignore_errors=True)
        hello = hand_over(self.encoder, folder)
        # Threads only carry chunks to the processes and back; they end because those end first.
        threads = ThreadPoolExecutor(count, thread_name_prefix="smorm-tokens")
        self._closing.callback(threads.shutdown, cancel_futures=True)
        workers: list[Worker] = []
        for _ in range(count):
            workers.append(Worker(hello))
            self._closing.callback(workers[-1].close)
        idle: queue.SimpleQueue[Worker] = queue.SimpleQueue()
        for worker in workers:
            worker.greet()
            idle.put(worker)

        def encode(chunk: list[Conversation]) -> list[Outcome]:
            worker = idle.get()
            try:
                return worker.encode(chunk)
            finally:
                idle.put(worker)

        return lambda chunk: threads.submit(encode, chunk).result


def _take(source: Iterator[R]) -> tuple[list[R], Exception | None, bool]:
    """The next chunk, the error that cut it short, and whether nothing comes after it."""
    chunk: list[R] = []
    try:
        for record in islice(source, CHUNK):
            chunk.append(record)  # noqa: PERF402  (what came before an error is kept)
    except Exception as error:
        return chunk, error, True
    return chunk, None, len(chunk) < CHUNK


def _cores() -> int:
    """Cores that this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:
        return os.cpu_count() or 1
