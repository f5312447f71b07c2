"""A function that runs in turns: it computes only between two calls of `advance`.

TRL's `train()` is a loop that cannot be called step by step. In a thread of its own, which hands
the turn back from a callback, it can: exactly one side computes at any time, so CPU seconds of the
process between two hand-overs are that side's alone.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Self

import torch


class Stopped(Exception):  # noqa: N818  (a state, not an error)
    """The function was asked to end before it came to its end by itself."""


class Lockstep:
    """`run(self)` in a thread that computes only while `advance` waits for it."""

    def __init__(self, run: Callable[[Lockstep], None]) -> None:
        self.finished = False
        self.stopping = False
        self._run = run
        self._go = threading.Semaphore(0)
        self._back = threading.Semaphore(0)
        self._error: BaseException | None = None
        # OpenMP's thread count is a thread's own: the new one takes over its maker's.
        self._threads = torch.get_num_threads()
        self._thread = threading.Thread(target=self._body, name="lockstep", daemon=True)
        self._thread.start()

    def _body(self) -> None:
        self._go.acquire()
        try:
            if not self.stopping:
                torch.set_num_threads(self._threads)
                self._run(self)
        except Stopped:
            pass
        except BaseException as error:
            self._error = error
        finally:
            self.finished = True
            self._back.release()

    def advance(self) -> None:
        """Let the function compute until it calls `pause` or ends.

        Raises:
            RuntimeError: it has ended already.
            Exception: what the function raised.
        """
        if self.finished:
            raise RuntimeError("the function has ended: there is nothing left to advance")
        self._go.release()
        self._back.acquire()
        if self._error is not None:
            raise self._error

    def pause(self) -> None:
        """Called by the function: hand the turn back, and wait for the next one.

        Raises:
            Stopped: there is no next one; let it pass through.
        """
        self._back.release()
        self._go.acquire()
        if self.stopping:
            raise Stopped

    def close(self) -> None:
        """Tell the function to end and wait until it has. Harmless when it has ended."""
        if not self.finished:
            self.stopping = True
            self._go.release()
            self._back.acquire()
        self._thread.join()
        if self._error is not None:
            raise self._error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
