"""One trial: commands in forked children, and what may never come of them.

A child is a fork of this process, which has imported torch and transformers: a trial takes a tenth
of a second instead of five. Each child has a folder of its own, is the leader of its process group,
and writes its output into files."""

from __future__ import annotations

import contextlib
import os
import re
import resource
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

MEMORY_BYTES = 2 << 30  # above what the process has before it reads anything
_MOST_BYTES = 8 << 30  # of data: what takes everything must not take the machine with it
ERROR_CHARACTERS = 8_000
ORPHAN_SECONDS = 15.0  # a grandchild that is importing needs a while to see its parent gone
CANARY = "EXECUTED"
"""A file of this name in the trial's folder says that hostile code ran."""
EXIT_CODES = (0, 1, 2, 3, 130)
_OUTPUT = "output.txt"
_ESCAPES = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
_HIDDEN = re.compile(r"\.[^.].*")
_CRASHED = 70  # EX_SOFTWARE of sysexits.h: an exception came out of the command


class Fault(StrEnum):
    """What a trial may end with, and never should."""

    EXECUTION = "code executed"
    TRACEBACK = "traceback"
    HANG = "hang"
    DIFFERENCE = "lost, torn or different result"
    LITTER = "litter"
    MEMORY = "memory"
    ESCAPES = "control characters"
    LONG_ERROR = "error of many lines"
    EXIT = "exit code"
    ORPHAN = "process left"
    WRONG = "accepted, or refused, wrongly"


@dataclass(frozen=True, slots=True)
class Command:
    """What one child does in the trial's folder; `kill_after` seconds it gets `signal`."""

    act: Callable[[Path], None]
    kill_after: float | None = None
    signal: signal.Signals = signal.SIGKILL


@dataclass(frozen=True, slots=True)
class Ended:
    """How a child ended: `code` is negative for a signal."""

    code: int
    output: str
    seconds: float
    peak_bytes: int  # above this process's own
    killed: bool = False


@dataclass(frozen=True, slots=True)
class Trial:
    """`judge` looks at the folder after the last command and yields what is wrong with it."""

    name: str
    commands: Sequence[Command]
    judge: Callable[[Path, Ended], Iterator[tuple[Fault, str]]] | None = None
    seconds: float = 60.0
    hidden_allowed: bool = False  # what is resumed later may be hidden


@dataclass(slots=True)
class Found:
    """What was wrong with a trial."""

    trial: str
    fault: Fault
    detail: str


@dataclass(frozen=True, slots=True)
class Finished:
    """A trial with what was wrong with it, and the most memory that one of its children took."""

    trial: Trial
    faults: list[Found]
    peak_bytes: int  # above this process's own


@dataclass(slots=True)
class Running:
    """A trial that is under way."""

    trial: Trial
    folder: Path
    waiting: list[Command]
    child: int = 0
    began: float = 0.0
    killed: bool = False
    late: bool = False
    ended: list[Ended] = field(default_factory=list)


def verb(*arguments: str) -> Callable[[Path], None]:
    """What runs `smorm` with these arguments, as its command line does."""

    def act(folder: Path) -> None:
        from smorm.cli.main import main

        sys.argv = ["smorm", *arguments]
        main()

    return act


def run_trials(
    trials: Iterator[Trial], workplace: Path, jobs: int = 2, keep: Path | None = None
) -> Iterator[Finished]:
    """Run trials in `jobs` children at a time. Folders of trials that failed are copied into
    `keep`."""
    running: list[Running] = []
    index = 0
    more = True
    while more or running:
        while more and len(running) < jobs:
            trial = next(trials, None)
            if trial is None:
                more = False
                break
            folder = workplace / f"trial-{index}"
            index += 1
            folder.mkdir(parents=True)
            active = Running(trial, folder, list(trial.commands))
            _start_next(active)
            running.append(active)
        for active in list(running):
            if not _poll(active):
                continue
            running.remove(active)
            faults = _judge(active)
            if faults and keep is not None:
                _keep(active, keep / f"{len(list(keep.glob('*')))}-{_plain(active.trial.name)}")
            shutil.rmtree(active.folder, ignore_errors=True)
            peak = max(ended.peak_bytes for ended in active.ended)
            yield Finished(active.trial, faults, peak)
        time.sleep(0.005)


def run_in_child(act: Callable[[Path], None], folder: Path) -> Ended:
    """Run one command to its end."""
    active = Running(Trial("", ()), folder, [Command(act)])
    _start_next(active)
    while not _poll(active):
        time.sleep(0.01)
    return active.ended[0]


def _plain(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9_-]+", "-", name)[:60]


def _keep(active: Running, target: Path) -> None:
    with contextlib.suppress(OSError, shutil.Error):
        shutil.copytree(active.folder, target, symlinks=True, dirs_exist_ok=True)


def _start_next(active: Running) -> None:
    command = active.waiting[0]
    active.began, active.killed, active.late = time.monotonic(), False, False
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if child == 0:
        _be_child(command, active.folder)
    active.child = child


def _be_child(command: Command, folder: Path) -> None:
    """Never returns; the output goes into the trial's file."""
    os.setpgid(0, 0)
    os.chdir(folder)
    resource.setrlimit(resource.RLIMIT_DATA, (_MOST_BYTES, resource.RLIM_INFINITY))
    # Appended: the output of all commands of a trial is looked at.
    output = os.open(_OUTPUT, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for source, target in ((nothing, 0), (output, 1), (output, 2)):
        os.dup2(source, target)
    reopen_output()
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    run_here(command.act, folder)


def reopen_output() -> None:
    """Streams for what descriptors 1 and 2 are now, as a new process has them."""
    sys.stdout = os.fdopen(1, "w", encoding="utf-8", errors="surrogateescape", closefd=False)
    sys.stderr = os.fdopen(2, "w", encoding="utf-8", errors="backslashreplace", closefd=False)


def run_here(act: Callable[[Path], None], folder: Path) -> None:
    """Do it and end this process: the exit code is the command's, a traceback is printed."""
    code = _CRASHED
    try:
        act(folder)
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:  # also what is no Exception: all of them are faults
        traceback.print_exc()
    finally:
        with contextlib.suppress(BaseException):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def _own_bytes() -> int:
    """What this process holds, which is what a child begins with."""
    for line in Path("/proc/self/status").read_text("ascii").splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    return 0


def _poll(active: Running) -> bool:
    """Whether the trial is over: its child has ended, and no command is left."""
    command = active.waiting[0]
    passed = time.monotonic() - active.began
    if command.kill_after is not None and not active.killed and passed >= command.kill_after:
        active.killed = True
        _signal(active.child, command.signal)
    if not active.late and passed > active.trial.seconds:
        active.late = True
        with contextlib.suppress(ProcessLookupError):
            os.killpg(active.child, signal.SIGKILL)
    child, status, usage = os.wait4(active.child, os.WNOHANG)
    if child == 0:
        return False
    peak = max(0, usage.ru_maxrss * 1024 - _own_bytes())
    code = os.waitstatus_to_exitcode(status)
    active.ended.append(Ended(code, _read_output(active.folder), passed, peak, active.killed))
    active.waiting.pop(0)
    if active.late or not active.waiting:
        return True
    # What a killed command started must not go on beside the next one.
    _end_group(active.child)
    _start_next(active)
    return False


def _signal(child: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(child, number)


def _end_group(child: int) -> bool:
    """Kill what is left of a child's process group; whether there was anything."""
    try:
        os.killpg(child, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        return False
    return True


def _read_output(folder: Path) -> str:
    try:
        return (folder / _OUTPUT).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _judge(active: Running) -> list[Found]:
    name = active.trial.name
    faults: list[Found] = []

    def add(fault: Fault, detail: str) -> None:
        faults.append(Found(name, fault, detail[-600:]))

    last = active.ended[-1]
    if active.late:
        add(Fault.HANG, f"after {active.trial.seconds:.0f} s: {last.output[-300:]}")
    if (active.folder / CANARY).exists():
        add(Fault.EXECUTION, CANARY)
    for fault, detail in _faults_of_output(last.output):
        add(fault, detail)
    for ended in active.ended:
        if ended.peak_bytes > MEMORY_BYTES:
            add(Fault.MEMORY, f"{ended.peak_bytes >> 20} MiB")
        if not ended.killed and not active.late and ended.code not in EXIT_CODES:
            add(Fault.EXIT, f"{ended.code}: {ended.output[-300:]}")
    if not active.late and not _group_ends(active.child, ORPHAN_SECONDS):
        add(Fault.ORPHAN, "processes of the trial's group live on")
    _end_group(active.child)
    if not active.trial.hidden_allowed and not last.killed and not active.late:
        hidden = sorted(
            str(path.relative_to(active.folder))
            for path in active.folder.rglob(".*")
            if _HIDDEN.fullmatch(path.name)
        )
        if hidden:
            add(Fault.LITTER, ", ".join(hidden[:5]))
    if active.trial.judge is not None and not active.late:
        for fault, detail in active.trial.judge(active.folder, last):
            add(fault, detail)
    return faults


def _faults_of_output(output: str) -> Iterator[tuple[Fault, str]]:
    if "Traceback (most recent call last)" in output or "panicked at" in output:
        yield Fault.TRACEBACK, output[-600:]
    elif len(output) > ERROR_CHARACTERS and "error:" in output:
        yield Fault.LONG_ERROR, f"{len(output)} characters: {output[:200]}"
    if escape := _ESCAPES.search(output):
        start = max(0, escape.start() - 60)
        yield Fault.ESCAPES, ascii(output[start : escape.end() + 60])


def _group_ends(group: int, seconds: float) -> bool:
    until = time.monotonic() + seconds
    while True:
        try:
            os.killpg(group, 0)
        except (ProcessLookupError, PermissionError):
            return True
        if time.monotonic() > until:
            return False
        time.sleep(0.02)
