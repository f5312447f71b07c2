"""Ctrl-C and SIGTERM while training: finish nothing, lose nothing."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Any


@dataclass(slots=True)
class StopFlag:
    """Set by Ctrl-C and SIGTERM; looked at before each micro-batch."""

    raised: bool = False

    def __call__(self) -> bool:
        return self.raised


@contextmanager
def stop_signals() -> Iterator[StopFlag]:
    """While training, Ctrl-C and SIGTERM ask for a checkpoint. A second Ctrl-C stops at once."""
    flag = StopFlag()

    def ask(number: int, frame: FrameType | None) -> None:
        # A second SIGTERM changes nothing: a scheduler may send several while we save.
        if flag.raised and number == signal.SIGINT:
            raise KeyboardInterrupt
        flag.raised = True

    previous: dict[int, Any] = {}
    try:
        for number in (signal.SIGINT, signal.SIGTERM):
            previous[number] = signal.signal(number, ask)
    except ValueError:  # not in the main thread: signals stay with whoever has them
        pass
    try:
        yield flag
    finally:
        for restored, handler in previous.items():
            signal.signal(restored, handler)
