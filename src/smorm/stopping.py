"""Stop signals: Ctrl-C, SIGTERM and SIGHUP mean the same everywhere, and further ones lose nothing.

The first raises KeyboardInterrupt in the main thread, so that whatever is half made is removed.
Work that has something to save first is not interrupted (`defer`): it reads a flag between its
steps. Signals that whoever started the process had ignored (nohup) stay ignored."""

import atexit
import contextlib
import logging
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

from smorm.errors import Interrupted, first_line

Stop = Callable[[], bool]
"""Whether a stop was requested."""
# Windows has no SIGHUP.
_NAMES = ("SIGINT", "SIGTERM", "SIGHUP")
SIGNALS = [getattr(signal, name) for name in _NAMES if hasattr(signal, name)]
# Signals that come within so many seconds of the one before are one request: fingers and schedulers
# send several, and the second would interrupt what removes half-made files.
BURST_SECONDS = 1.0
_ACKNOWLEDGED = b"\nstopping: what is done is saved first\n"


class _Requests:
    """What was requested of this process. There is one, as there is one handler of each signal."""

    def __init__(self) -> None:
        self.number = 0  # of the first signal
        self.last = -float("inf")  # when one came, on the monotonic clock
        self.deferring = False  # the work is to end in its own time
        self.once = False  # only the first raises anything
        self.is_program = False  # `run` holds the process: it may write to the terminal
        self.exit_code: int | None = None  # once the program has ended

    def __call__(self, number: int, frame: FrameType | None = None) -> None:
        """The handler."""
        now = time.monotonic()
        burst = now - self.last < BURST_SECONDS
        self.last = now
        first, self.number = not self.number, self.number or number
        if self.is_program:
            _leave_closed_terminals()
        if self.deferring:
            if first and self.is_program:
                # Not through Python's streams: they may be in the middle of a write.
                with contextlib.suppress(OSError):
                    os.write(2, _ACKNOWLEDGED)
        elif burst or (self.once and not first):
            pass
        elif self.exit_code is None:
            raise KeyboardInterrupt
        else:
            # All that had to be removed is; what is left only waits, for a thread for example.
            os._exit(self.exit_code)

    def again(self) -> None:
        """Raise once more in a moment: it was lost where nothing can be raised."""
        self.last = -float("inf")

        def interrupt() -> None:
            # A real signal: it also ends a wait of the system's.
            if self.exit_code is None and self.number:
                signal.pthread_kill(threading.main_thread().ident or 0, self.number)

        timer = threading.Timer(0.02, interrupt)
        timer.daemon = True
        timer.start()


_requests = _Requests()


@contextlib.contextmanager
def handled(*, once: bool = False) -> Iterator[None]:
    """Let stop signals raise KeyboardInterrupt within this block, or wait (`defer`). In another
    thread than the main one they stay with whoever has them. With `once` (a worker ends after the
    first) none of the later ones interrupts what is being removed."""
    before: dict[int, Any] = {}
    deferring, _requests.once = _requests.deferring, _requests.once or once
    if threading.current_thread() is threading.main_thread():
        before = _take_signals()
        if _requests not in before.values():
            _requests.number, _requests.last = 0, -float("inf")
    try:
        yield
    finally:
        _requests.deferring = deferring
        if once:
            _requests.once = False
        if _requests.number:
            # The block has answered: more of the same burst must not interrupt what follows.
            _requests.last = time.monotonic()
        for number, handler in before.items():
            signal.signal(number, handler)


def defer() -> Stop:
    """From here to the end of the `handled` block a stop signal raises nothing: the caller reads
    this flag, and ends in its own time."""
    if threading.current_thread() is not threading.main_thread():
        return lambda: False
    _requests.deferring = True
    return requested


def requested() -> bool:
    """Whether a stop signal came within the `handled` block."""
    return _requests.number != 0


def _take_signals() -> dict[int, Any]:
    """Handle the signals here; returns who handled them before."""
    before: dict[int, Any] = {}
    for number in SIGNALS:
        handler = signal.getsignal(number)
        # None: a handler that is not Python's, which could not be put back.
        if handler not in (signal.SIG_IGN, None):
            before[number] = handler
            signal.signal(number, _requests)
    return before


@contextlib.contextmanager
def blocked() -> Iterator[None]:
    """Processes that are started within this block never see a stop signal: their parent ends them.
    A terminal sends Ctrl-C, and a scheduler its signal, to every process of a group."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def run(program: Callable[[], int], say: Callable[[str], None]) -> int:
    """Call the program of this process and return its exit code. Where it was stopped, `say` gets
    one line, and the code is that of `Interrupted`. The handlers stay until the process ends."""
    _requests.is_program = True
    sys.unraisablehook = _raise_again
    # Registered first, it runs last: when Python takes itself down it gives signals their default
    # again, and dies of them, but for those that are ignored.
    atexit.register(_ignore_signals)
    try:
        try:
            _take_signals()
            code = program()
        finally:
            # From here on nothing is interrupted any more.
            _requests.exit_code = Interrupted.exit_code
            _requests.last = time.monotonic()
    except KeyboardInterrupt:
        code = _stopped("", say)
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
        # Typer answers KeyboardInterrupt with this code, and without a word.
        if _requests.number and code == Interrupted.exit_code:
            code = _stopped("", say)
    except Exception as error:
        if not _requests.number:
            raise
        # Most often what a library makes of being interrupted.
        code = _stopped(f" ({type(error).__name__}: {first_line(error)})", say)
    _requests.exit_code = code
    for stream in filter(None, (sys.stdout, sys.stderr)):
        # A pipe that nobody reads any more is no error of the program's.
        with contextlib.suppress(OSError):
            stream.flush()
    return code


def _stopped(reason: str, say: Callable[[str], None]) -> int:
    by = ""
    if _requests.number not in (0, signal.SIGINT):
        by = f" by {signal.Signals(_requests.number).name}"
    # Libraries whose import was interrupted log at the end what they would not have logged.
    logging.disable()
    say(f"stopped{by}{reason}")
    return Interrupted.exit_code


def _ignore_signals() -> None:
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def _raise_again(lost: Any) -> None:
    """Python's hook for exceptions that cannot be raised, such as in a destructor."""
    if issubclass(lost.exc_type, KeyboardInterrupt):
        _requests.again()
    else:
        sys.__unraisablehook__(lost)


def _leave_closed_terminals() -> None:
    """Let what is written to a terminal that is gone (SIGHUP) go nowhere: every line would be an
    error, also of the checkpoint's own report."""
    for descriptor in (1, 2):
        poll = select.poll()
        poll.register(descriptor, 0)
        with contextlib.suppress(OSError):
            events = [event for _, event in poll.poll(0)]
            if events and events[0] & (select.POLLHUP | select.POLLERR):
                os.dup2(os.open(os.devnull, os.O_WRONLY), descriptor)
