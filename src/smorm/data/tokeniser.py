"""Records to token ids, in this process or in several, in their order and with equal results."""

from __future__ import annotations

import itertools
import os
import queue
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Literal, TypeVar

from smorm import files
from smorm.data.encode import Conversation, Encoder, Outcome, Worker, WorkerRefused, hello_of
from smorm.printing import get_logger

log = get_logger(__name__)

R = TypeVar("R")

# Records sent to a process at once: about 50 ms of work, so that no side waits for the pipe.
CHUNK = 256
# Under `auto`, bytes of a source for each process: starting one costs 1 to 4 seconds, about as much
# as tokenising this much text.
BYTES_PER_PROCESS = 8 << 20

# `Submit` begins a chunk; the call of what it returns waits for the outcomes.
Finish = Callable[[], list[Outcome]]
Submit = Callable[[list[Conversation]], Finish]


class Tokeniser(ExitStack):
    """Where conversations become tokens. Processes start when a source first needs them, and end
    with the `with` block, whatever ends it."""

    def __init__(self, encoder: Encoder, workers: int | Literal["auto"] = "auto") -> None:
        super().__init__()
        self.encoder = encoder
        self._workers = workers
        self._started: tuple[Submit, int] | None = None

    def workers_for(self, size: int) -> int:
        """Processes for a source of `size` bytes; 1 is this one."""
        if self._workers != "auto":
            return self._workers
        try:
            cores = len(os.sched_getaffinity(0))
        except AttributeError:  # not on macOS or Windows
            cores = os.cpu_count() or 1
        return max(1, min(cores, size // BYTES_PER_PROCESS))

    def tokenised(
        self, records: Iterable[R], conversation: Callable[[R], Conversation], size: int
    ) -> Iterator[tuple[R, Outcome]]:
        """Each record with its outcome, in order; at most a few chunks are in memory. An error of
        the reader is raised after the outcomes of the records before it."""
        submit, count = self._start(self.workers_for(size))
        ahead: deque[tuple[list[R], Finish, Exception | None]] = deque()
        chunks = _chunks(records)
        while True:
            # two chunks for each process: one in work, one on its way
            for chunk, failure in itertools.islice(chunks, 2 * count - len(ahead)):
                ahead.append((chunk, submit(list(map(conversation, chunk))), failure))
            if not ahead:
                return
            chunk, finish, failure = ahead.popleft()
            yield from zip(chunk, finish(), strict=True)
            if failure is not None:
                raise failure

    def _start(self, count: int) -> tuple[Submit, int]:
        if count == 1:
            return self._in_this_process, 1
        # The processes of the first large source serve the later ones, whatever their size.
        if self._started is None:
            try:
                self._started = self._start_processes(count), count
            except WorkerRefused as refused:
                log.warning("tokens: %s; tokenising in one process", refused)
                self._started = self._in_this_process, 1
        return self._started

    def _in_this_process(self, chunk: list[Conversation]) -> Finish:
        # nothing is done before the outcomes are read, so that the reader is not ahead for nothing
        return lambda: [self.encoder.encode(prompt, responses) for prompt, responses in chunk]

    def _start_processes(self, count: int) -> Submit:
        folder = self.enter_context(files.scratch_folder("smorm-tokenizer"))
        hello = hello_of(self.encoder, folder)
        # The threads only carry chunks to the processes and back. They are closed after the
        # processes (an exit stack closes backwards), without which they would wait for ever.
        threads = ThreadPoolExecutor(count, thread_name_prefix="smorm-tokens")
        self.callback(threads.shutdown, cancel_futures=True)
        workers: list[Worker] = []
        for _ in range(count):
            workers.append(Worker(hello))
            self.callback(workers[-1].close)
        # All are started before the first is waited for: they load their tokenizers side by side.
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

        # any free process takes the next chunk; the order is that of the futures
        return lambda chunk: threads.submit(encode, chunk).result


def _chunks(records: Iterable[R]) -> Iterator[tuple[list[R], Exception | None]]:
    chunk: list[R] = []
    try:
        for record in records:
            chunk.append(record)
            if len(chunk) == CHUNK:
                yield chunk, None
                chunk = []
    except Exception as error:
        yield chunk, error
    else:
        yield chunk, None
