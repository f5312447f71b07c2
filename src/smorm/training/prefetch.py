"""The next micro-batch is prepared by a thread while this one computes.

A thread is enough: torch's kernels release the interpreter. One micro-batch is ahead, never more;
after the last of a step that is the first of the next step, with the plan of that step. What is
prepared is a pure function of the step, so nothing but the time depends on the thread.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager

from smorm.data.mixing import DataOrder
from smorm.training.batches import Batcher, Batches, MicroBatch

Item = tuple[int, MicroBatch] | None


@contextmanager
def prefetched(batcher: Batcher, order: DataOrder, steps: Sequence[int]) -> Iterator[Batches]:
    """Micro-batches of `steps`, to be read in this order. The thread ends with the block."""
    # An order remembers the epoch that it drew last: the thread gets a copy.
    items = _in_order(batcher, copy.deepcopy(order), steps)
    # Nobody waits for a thread that has nothing to do yet: it starts with the first submission.
    with ThreadPoolExecutor(1, thread_name_prefix="smorm-next-batch") as thread:
        ahead = _Ahead(thread, items)
        try:
            yield ahead.step
        finally:
            ahead.cancel()


def _in_order(
    batcher: Batcher, order: DataOrder, steps: Sequence[int]
) -> Iterator[tuple[int, MicroBatch]]:
    for step in steps:
        for micro in batcher.split(*order.step(step)):
            yield step, micro


class _Ahead:
    """Takes from an iterator in a thread, one item before it is read."""

    def __init__(self, thread: ThreadPoolExecutor, items: Iterator[tuple[int, MicroBatch]]) -> None:
        self._thread, self._items = thread, items
        self._next: Future[Item] = thread.submit(next, items, None)

    def step(self, step: int) -> Iterator[MicroBatch]:
        """The step's micro-batches; an error of their preparation is raised where it belongs."""
        while True:
            item = self._next.result()
            if item is None or item[0] != step:
                raise RuntimeError(f"step {step} was read out of order")
            # Submitted before this one is used: both are worked on at the same time.
            self._next = self._thread.submit(next, self._items, None)
            yield item[1]
            if item[1].last:
                return

    def cancel(self) -> None:
        """Prepare nothing more; what is being prepared now takes some milliseconds."""
        self._next.cancel()
