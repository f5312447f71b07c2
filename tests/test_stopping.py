"""Stop signals, sent to real processes: what each leaves, says and returns."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from smorm.stopping import BURST_SECONDS, blocked

PROGRAM = """
import atexit, os, signal, sys, time
from pathlib import Path
from smorm import stopping

def ready():
    print("ready", flush=True)

def wait():
    # In short sleeps: a signal in the moment before one is seen only after it.
    for _ in range(3000):
        time.sleep(0.01)

{program}

def say(line):
    sys.stderr.write(line + "\\n")

sys.exit(stopping.run(program, say))
"""
CLEANS_UP = """
def program():
    try:
        ready()
        wait()
    finally:
        time.sleep(0.3)
        Path("cleaned").touch()
"""
SAVES_FIRST = """
def program():
    with stopping.handled():
        stop = stopping.defer()
        ready()
        while not stop():
            time.sleep(0.01)
        time.sleep(0.3)
        Path("saved").touch()
    time.sleep(0.3)
    return 130
"""
ENDS_AFTER_ONE = """
def program():
    with stopping.handled(once=True):
        try:
            ready()
            wait()
        finally:
            time.sleep(stopping.BURST_SECONDS + 0.5)
            Path("cleaned").touch()
"""
LOST_IN_A_DESTRUCTOR = """
class Interrupted:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGINT)

def program():
    Interrupted()
    ready()
    wait()
"""
ANSWERED_BY_A_LIBRARY = """
def program():
    try:
        ready()
        wait()
    except KeyboardInterrupt:
        raise RuntimeError("a callback failed\\nand more") from None
"""
ANSWERED_BY_TYPER = """
def program():
    try:
        ready()
        wait()
    except KeyboardInterrupt as stop:
        raise SystemExit(130) from stop
"""
ENDS_SLOWLY = """
def at_exit():
    ready()
    time.sleep(SECONDS)
    Path("ended").touch()

def program():
    atexit.register(at_exit)
    return 0
"""

IS_TAKEN_DOWN_SLOWLY = """
class Slow:
    def __del__(self, os=os, time=time):
        os.write(1, b"ready\\n")
        time.sleep(0.3)

def program():
    global slow
    slow = Slow()
    return 0
"""


def start(program: str, folder: Path, *before: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [*before, sys.executable, "-c", PROGRAM.format(program=program)]
    return subprocess.Popen(
        command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env=environment,
    )  # fmt: skip


def stop(
    program: str, folder: Path, *numbers: int, before: tuple[str, ...] = ()
) -> tuple[int, str]:
    """The exit code and what was said of a program that got these signals, in a burst."""
    with start(program, folder, *before) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        for number in numbers:
            process.send_signal(number)
            time.sleep(0.02)
        _, said = process.communicate(timeout=60)
    return process.returncode, said


@pytest.mark.parametrize("count", [1, 5])
@pytest.mark.parametrize(
    ("number", "said"),
    [(signal.SIGINT, ""), (signal.SIGTERM, " by SIGTERM"), (signal.SIGHUP, " by SIGHUP")],
)
def test_a_burst_is_one_stop_in_one_line_and_what_is_half_made_is_removed(
    tmp_path: Path, number: int, said: str, count: int
) -> None:
    assert stop(CLEANS_UP, tmp_path, *[number] * count) == (130, f"stopped{said}\n")
    assert (tmp_path / "cleaned").exists()


def test_work_that_saves_first_loses_nothing_to_further_signals(tmp_path: Path) -> None:
    numbers = (signal.SIGINT, signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGINT)
    code, said = stop(SAVES_FIRST, tmp_path, *numbers)
    assert code == 130
    assert said == "\nstopping: what is done is saved first\n"
    assert (tmp_path / "saved").exists()


def test_a_later_signal_does_not_interrupt_what_a_worker_removes(tmp_path: Path) -> None:
    with start(ENDS_AFTER_ONE, tmp_path) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGTERM)
        time.sleep(BURST_SECONDS + 0.1)
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=20) == 130
    assert (tmp_path / "cleaned").exists()


def test_a_stop_that_a_destructor_swallowed_is_raised_again(tmp_path: Path) -> None:
    assert stop(LOST_IN_A_DESTRUCTOR, tmp_path) == (130, "stopped\n")


def test_what_libraries_make_of_an_interrupt_is_one_line(tmp_path: Path) -> None:
    said = "stopped (RuntimeError: a callback failed)\n"
    assert stop(ANSWERED_BY_A_LIBRARY, tmp_path, signal.SIGINT) == (130, said)
    assert stop(ANSWERED_BY_TYPER, tmp_path, signal.SIGINT) == (130, "stopped\n")


def test_an_error_that_no_signal_caused_keeps_its_traceback(tmp_path: Path) -> None:
    code, said = stop("def program():\n    ready()\n    raise RuntimeError('a bug')", tmp_path)
    assert code == 1
    assert said.startswith("Traceback")


def test_what_a_parent_had_ignored_stays_ignored(tmp_path: Path) -> None:
    program = CLEANS_UP.replace("wait()", "time.sleep(0.5)")
    before = ("/bin/sh", "-c", 'trap "" HUP; exec "$@"', "sh")
    code, said = stop(program + "    return 0", tmp_path, signal.SIGHUP, before=before)
    assert (code, said) == (0, "")


def test_at_its_end_a_process_is_not_torn(tmp_path: Path) -> None:
    program = ENDS_SLOWLY.replace("SECONDS", "0.3")
    assert stop(program, tmp_path, *[signal.SIGINT] * 3) == (0, "")
    assert (tmp_path / "ended").exists()
    assert stop(IS_TAKEN_DOWN_SLOWLY, tmp_path, *[signal.SIGTERM] * 3) == (0, "")


def test_what_only_waits_at_the_end_can_be_ended(tmp_path: Path) -> None:
    with start(ENDS_SLOWLY.replace("SECONDS", "60"), tmp_path) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        time.sleep(BURST_SECONDS + 0.1)
        process.send_signal(signal.SIGTERM)
        # The work was done, and so the code says.
        assert process.wait(timeout=20) == 0
    assert not (tmp_path / "ended").exists()


def test_a_process_of_a_worker_sees_no_stop_signal() -> None:
    code = "import sys; print('ready', flush=True); sys.stdin.read(); print('done')"
    with blocked():
        worker = subprocess.Popen(
            [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        worker.send_signal(number)
    assert worker.communicate("", timeout=20) == ("ready\ndone\n", "")
    assert worker.returncode == 0
    assert not signal.pthread_sigmask(signal.SIG_BLOCK, []) & {signal.SIGINT, signal.SIGTERM}


def test_a_terminal_that_is_closed_is_a_stop_like_any_other(tmp_path: Path) -> None:
    """Every write to it fails then; what is saved first is saved nevertheless."""
    program = SAVES_FIRST.replace("time.sleep(0.3)", "print('saving', flush=True)", 1)
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(tmp_path)
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        command = [sys.executable, "-c", PROGRAM.format(program=program)]
        os.execve(sys.executable, command, environment)
    seen = b""
    while b"ready" not in seen:
        seen += os.read(terminal, 1000)
    os.close(terminal)
    _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == 130
    assert (tmp_path / "saved").exists()
