"""How far a long job is, on standard error: a bar on a terminal, a line now and then in a log."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from smorm.printing import get_logger
from smorm.terminal import open_console

log = get_logger(__name__)

SECONDS = 10.0  # between two lines of a log


class Clock:
    """The time that is left, by how fast things were done since the first report: loading, and what
    an earlier run did, say nothing of it."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._first: tuple[float, int] | None = None

    def left(self, done: int, total: int) -> str:
        """Such as `0:12:30 left`; nothing where it is not known yet."""
        now = self._now()
        if self._first is None:
            self._first = (now, done)
        begin, before = self._first
        if done <= before or now <= begin:
            return ""
        seconds = round((now - begin) / (done - before) * (total - done))
        minutes, seconds = divmod(seconds, 60)
        hours, minutes = divmod(minutes, 60)
        return f"{hours}:{minutes:02}:{seconds:02} left"


@contextmanager
def line_progress(verb: str) -> Iterator[Callable[[int, int], None]]:
    """What is called with the number of lines done and of all lines."""
    clock = Clock()
    # A bar writes control characters, which do not belong in a log file.
    if not sys.stderr.isatty() or not log.isEnabledFor(logging.INFO):
        yield _log_lines(verb, clock)
        return
    from rich.progress import BarColumn, Progress, TextColumn

    text = TextColumn("{task.completed:,.0f} of {task.total:,.0f} lines {task.fields[left]}")
    with Progress(BarColumn(bar_width=20), text, console=open_console(stderr=True)) as bar:
        task = bar.add_task(verb, total=None, left="", visible=False)

        def show(done: int, total: int) -> None:
            left_text = clock.left(done, total)
            bar.update(task, completed=done, total=total, left=left_text, visible=True)

        yield show


def _log_lines(verb: str, clock: Clock) -> Callable[[int, int], None]:
    last = time.monotonic()

    def write_line(done: int, total: int) -> None:
        nonlocal last
        text = clock.left(done, total)
        now = time.monotonic()
        if now - last >= SECONDS:
            last = now
            log.info("%s %s of %s lines  %s", verb, f"{done:,}", f"{total:,}", text)

    return write_line
