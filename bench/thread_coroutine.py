"""A function that can be suspended from inside a callback, without being a generator.

TRL's `train()` is a loop that cannot be called step by step. In a thread of its own, which suspends
itself in a callback, it can: exactly one thread computes at any time, so CPU seconds of the process
between two suspensions are that function's alone."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Self

import torch


class Stopped(Exception):  # noqa: N818  (a state, not an error)
    """The function was asked to end before it came to its end by itself."""


class ThreadCoroutine:
    """`function(self)` in a thread that computes only while `resume` waits for it."""

    def __init__(self, function: Callable[[ThreadCoroutine], None]) -> None:
        self.finished = False
        self.stopping = False
        self._function = function
        self._resumed = threading.Semaphore(0)
        self._suspended = threading.Semaphore(0)
        self._error: BaseException | None = None
        # torch's number of threads belongs to each thread: the new one takes its creator's.
        self._num_threads = torch.get_num_threads()
        self._thread = threading.Thread(target=self._body, name="thread-coroutine", daemon=True)
        self._thread.start()

    def _body(self) -> None:
        self._resumed.acquire()
        try:
            if not self.stopping:
                torch.set_num_threads(self._num_threads)
                self._function(self)
        except Stopped:
            pass
        except BaseException as error:
            self._error = error
        finally:
            # Whatever happened, the caller waits for this.
            self.finished = True
            self._suspended.release()

    def resume(self) -> None:
        """Let the function compute until it calls `suspend` or ends.

        Raises:
            RuntimeError: it has ended already.
            Exception: what the function raised."""
        if self.finished:
            raise RuntimeError("the function has ended: there is nothing to resume")
        self._resumed.release()
        self._suspended.acquire()
        if self._error is not None:
            raise self._error

    def suspend(self) -> None:
        """Called by the function: return to the caller of `resume`, and wait for the next call.

        Raises:
            Stopped: there is no next call; let it pass through."""
        self._suspended.release()
        self._resumed.acquire()
        if self.stopping:
            raise Stopped

    def close(self) -> None:
        """Make the function end, and wait until it has. Harmless when it has ended."""
        if not self.finished:
            self.stopping = True
            self._resumed.release()
            self._suspended.acquire()
        self._thread.join()
        if self._error is not None:
            raise self._error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
