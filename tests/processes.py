"""`smorm` in processes of their own, each a fork of one that has imported the libraries: an
interpreter that starts anew takes four seconds to do so."""

from __future__ import annotations

import os
import resource
import signal
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType
from typing import TextIO

from smorm.cli.main import main
from smorm.lab.run import IMPORTED
from smorm.processes import worker_context
from smorm.stopping import SIGNALS


@dataclass(frozen=True)
class Setting:
    """What a process finds: its folder, variables, where packages lie, how large a file may be."""

    folder: Path = Path()
    variables: Mapping[str, str] | None = None
    packages: tuple[str, ...] = ()
    largest_file: int | None = None


class Command:
    """`smorm WORDS` in a process of its own, until the `with` block ends.

    Its standard error is read from `stderr`; both its outputs go to `terminal` where that is given,
    the end of a pseudo-terminal, which is closed here."""

    def __init__(
        self, *words: object, setting: Setting = Setting(), terminal: int | None = None
    ) -> None:
        reader, writer = os.pipe()
        error = writer if terminal is None else terminal
        output = os.open(os.devnull, os.O_WRONLY) if terminal is None else os.dup(terminal)
        with Connection(error, readable=False) as err, Connection(output, readable=False) as out:
            context = worker_context(*IMPORTED, "smorm.cli.main", "smorm.cli.verbs")
            arguments = (list(map(str, words)), setting, out, err)
            self.process = context.Process(target=_run, args=arguments)
            self.process.start()
        if terminal is not None:
            os.close(writer)
        self.stderr: TextIO = os.fdopen(reader, encoding="utf-8", errors="replace")

    def send_signal(self, number: int) -> None:
        os.kill(self.process.pid, number)

    def wait(self, timeout: float = 60) -> int:
        """Its exit code; as in `subprocess`, minus the signal's number where one ended it."""
        self.process.join(timeout)
        assert self.process.exitcode is not None, "it has not ended"
        return int(self.process.exitcode)

    def __enter__(self) -> Command:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:  # fmt: skip
        self.process.kill()
        self.process.join()
        self.stderr.close()


def run(*words: object, setting: Setting = Setting(), timeout: float = 120) -> tuple[int, str]:
    """Run `smorm WORDS` to its end; its exit code and standard error."""
    with Command(*words, setting=setting) as command:
        told = command.stderr.read()
        return command.wait(timeout), told


def _run(words: list[str], setting: Setting, output: Connection, error: Connection) -> None:
    # As a shell starts a program; workers have these signals blocked.
    os.setsid()
    for number in SIGNALS:
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
    # Streams anew: the ones that were there know what kind of file they had.
    os.dup2(output.fileno(), 1)
    sys.stdout = os.fdopen(1, "w", buffering=1, encoding="utf-8", closefd=False)
    os.dup2(error.fileno(), 2)
    sys.stderr = os.fdopen(2, "w", buffering=1, encoding="utf-8", closefd=False)
    output.close()
    error.close()
    os.environ.update(setting.variables or {})
    os.chdir(setting.folder)
    sys.path[:0] = setting.packages
    if setting.largest_file is not None:
        # A real limit of the operating system: beyond it, writing fails with EFBIG.
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (setting.largest_file,) * 2)
    sys.argv = ["smorm", *words]
    main()
