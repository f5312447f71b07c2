"""The one way to the terminal: lines, tables, bars, and what libraries print.

The package prints with `echo` and `open_console` alone. Inside `run_clean` whatever a library
prints goes the same way, and a full disk or a closed pipe ends no work."""

import contextlib
import errno
import io
import logging
import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TextIO

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.text import Text

from smorm import printing

# How bars of other libraries move: to the line's beginning, and up to other bars.
_MOVES = re.compile(r"\r(?!\n)|(?:\x1b\[A)+\Z")


def echo(text: object, *, err: bool = False) -> None:
    """Print a line, or several, on standard output or error."""
    print(printing.message(text), file=sys.stderr if err else sys.stdout, flush=True)


class CleanConsole(Console):
    """rich's console for plain text: no markup, no emoji codes, every text a message."""

    def render_str(self, text: str, **options: Any) -> Text:
        """A text, before it is measured and wrapped."""
        return super().render_str(printing.message(text), **options)

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterator[Segment]:
        """What is printed, also of a `Text` that was made elsewhere."""
        for segment in super().render(renderable, options):
            text, style, control = segment
            # A bar's own moves are controls, and pass.
            yield segment if control else Segment(printing.clean(text), style)


def open_console(*, stderr: bool = False, soft_wrap: bool = False) -> CleanConsole:
    """A console on standard output or error, for tables and bars; with `soft_wrap` long lines are
    left to the terminal."""
    stream: Any = sys.stderr if stderr else sys.stdout
    return CleanConsole(
        file=getattr(stream, "trusted", stream), stderr=stderr, soft_wrap=soft_wrap,
        markup=False, emoji=False, highlight=False,
    )  # fmt: skip


class Stream(io.TextIOWrapper):
    """Standard output or error, which may be a full disk or a closed pipe: the first failure is
    kept, and what is written after it goes nowhere. The work goes on: its results are files."""

    failure: OSError | None = None
    released = False

    def __init__(self, stream: TextIO) -> None:
        stream.flush()
        # A terminal without UTF-8 gets escapes in place of an error.
        super().__init__(
            stream.buffer, stream.encoding, "backslashreplace",
            line_buffering=bool(stream.line_buffering), write_through=True,
        )  # fmt: skip

    def write(self, text: str) -> int:
        """Write, unless that has failed before."""
        with self._kept_failure() as works:
            if works:
                super().write(text)
        return len(text)

    def flush(self) -> None:
        """Flush, unless that has failed before."""
        with self._kept_failure() as works:
            if works:
                super().flush()

    def release(self) -> None:
        """Leave the stream that it writes to as it was."""
        self.flush()
        self.released = True
        self.detach()

    @contextlib.contextmanager
    def _kept_failure(self) -> Iterator[bool]:
        try:
            yield self.failure is None and not self.released
        except OSError as error:
            self.failure = error
            # What is buffered would fail once more when the process ends.
            with contextlib.suppress(OSError), open(os.devnull, "wb") as nowhere:
                os.dup2(nowhere.fileno(), self.fileno())


class CleanStream(io.TextIOBase):
    """What libraries print to; our own consoles write to `trusted`, with their escapes."""

    def __init__(self, stream: TextIO) -> None:
        self.trusted = Stream(stream)

    def write(self, text: str) -> int:
        """Write it as a message. A bar's moves are kept on a terminal; a log has its lines."""
        moves = _MOVES.match(text)
        start = moves[0] if moves else ""
        rest = printing.message(text[len(start) :])
        if start and not self.isatty():
            start = "\n" if start == "\r" else ""
        self.trusted.write(f"{start}{rest}")
        return len(text)

    def flush(self) -> None:
        """Flush what was written."""
        self.trusted.flush()

    def writable(self) -> bool:
        """It is, always."""
        return True

    def isatty(self) -> bool:
        """Whether it is a terminal."""
        # A library may have kept it, and ask when the process ends.
        return not self.trusted.released and self.trusted.isatty()

    def fileno(self) -> int:
        """The descriptor behind it."""
        return self.trusted.fileno()

    @property
    def encoding(self) -> str:  # type: ignore[override]
        """Of the stream behind it."""
        return self.trusted.encoding


class Handler(logging.Handler):
    """Prints log records on standard error, above a bar where there is one."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print one."""
        try:
            echo(self.format(record), err=True)
        except Exception:  # as the standard library's handlers do
            self.handleError(record)


def run_clean(work: Callable[[], int]) -> int:
    """The exit code of `work`, done with clean standard streams; 1 where it would be 0 and
    something could not be printed."""
    before = sys.stdout, sys.stderr
    streams = [_opened(stream) for stream in before]
    sys.stdout, sys.stderr = streams
    try:
        return work() or _unprinted(streams)
    except SystemExit as ended:
        # Help ends so, for one.
        if ended.code:
            raise
        return _unprinted(streams)
    finally:
        sys.stdout, sys.stderr = before
        for stream in streams:
            if isinstance(stream, CleanStream):
                stream.trusted.release()
            elif stream not in before:
                stream.close()


def _unprinted(streams: Sequence[TextIO | CleanStream]) -> int:
    """1 where one of standard output and error took not all that was written."""
    failures = []
    for stream in streams:
        stream.flush()
        failures.append(stream.trusted.failure if isinstance(stream, CleanStream) else None)
    # Whoever closes a pipe has read enough, and needs no line about it.
    if failures[0] is not None and failures[0].errno != errno.EPIPE:
        reason = failures[0].strerror
        echo(f"error: standard output could not be written: {reason}", err=True)
    return int(failures != [None, None])


def _opened(stream: TextIO | None) -> TextIO | CleanStream:
    # Closed before the start (`>&-`): the number must not become that of another file.
    if stream is None:
        return open(os.devnull, "w", encoding="utf-8")
    # A notebook's has no bytes behind it.
    return CleanStream(stream) if hasattr(stream, "buffer") else stream
