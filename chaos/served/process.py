"""`smorm serve` as a process of its own, what it says, and what it leaves."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from chaos.trial import Fault

START_SECONDS = 300.0
END_SECONDS = 240.0  # longer than any deadline of a request
Faults = Iterator[tuple[Fault, str]]


@dataclass(frozen=True, slots=True)
class Process:
    """A line of the system's table."""

    pid: int
    parent: int
    group: int
    state: str


class ServerProcess:
    """A server in a session of its own; what it writes goes into a file of the folder."""

    def __init__(self, folder: Path, *arguments: str) -> None:
        folder.mkdir(parents=True)
        self.folder, self.temporary = folder, folder / "tmp"
        self.temporary.mkdir()
        root = Path(__file__).parents[2]
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(root / "src"), str(root)]),
            "TMPDIR": str(self.temporary),
        }
        # Under nohup the trials, and what they start, would ignore SIGHUP.
        command = ["env", "--default-signal=HUP", sys.executable]
        command += ["-m", "smorm.cli.main", "serve", *arguments]
        with (folder / "output.txt").open("wb") as output:
            self.process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT,
                start_new_session=True, env=environment, cwd=folder,
            )  # fmt: skip
        self.port = 0
        self._seen: set[int] = set()

    def wait_until_serving(self) -> None:
        """Return once it has told its address; RuntimeError if it ends before."""
        address = re.compile(r"serving .* at http://\S+:(\d+)\s")
        wait_for(lambda: address.search(self.output) or self.process.poll() is not None,
                 START_SECONDS)  # fmt: skip
        found_address = address.search(self.output)
        if found_address is None:
            raise RuntimeError(f"smorm serve: {self.process.poll()}: {self.output[-2000:]}")
        self.port = int(found_address[1])

    @property
    def output(self) -> str:
        return (self.folder / "output.txt").read_text("utf-8", errors="replace")

    def processes(self) -> list[Process]:
        """All of its session, zombies too."""
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                # The name may hold spaces and brackets: what is read stands behind it.
                fields = (folder / "stat").read_text("utf-8", "replace").rpartition(")")[2].split()
                if int(fields[3]) == self.process.pid:
                    line = Process(int(folder.name), int(fields[1]), int(fields[2]), fields[0])
                    found.append(line)
                    self._seen.add(line.pid)
        return found

    def workers(self) -> list[int]:
        """Processes that hold weights: each leads a group."""
        return [
            line.pid
            for line in self.processes()
            if line.pid == line.group != self.process.pid and line.state != "Z"
        ]

    def descriptors(self) -> int:
        """How many files and sockets the server holds."""
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))

    def peak_bytes(self) -> int:
        """The most memory that the server held, without its workers."""
        text = Path(f"/proc/{self.process.pid}/status").read_text("ascii")
        return int(re.findall(r"VmHWM:\s+(\d+)", text)[0]) * 1024

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Send the signal and wait for the end; the exit code. TimeoutExpired: it did not end."""
        self.processes()
        self.process.send_signal(number)
        return self.process.wait(END_SECONDS)

    def kill(self) -> None:
        """End whatever is left of its session."""
        for line in self.processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(line.pid, signal.SIGKILL)
        self.process.wait()

    def left(self) -> Faults:
        """What is wrong once it has ended: what it left."""
        gone = wait_for(lambda: not self.processes(), 60.0)
        if not gone:
            yield Fault.ORPHAN, f"{len(self.processes())} processes of its session live on"
        # torch keeps a cache there for every process to come.
        if files := [
            str(path) for path in self.temporary.rglob("*") if "torchinductor_" not in str(path)
        ]:
            yield Fault.LITTER, f"temporary files: {', '.join(files[:5])}"
        shared = Path("/dev/shm")
        names = [path.name for path in shared.iterdir()] if shared.is_dir() else []
        for name in names:
            if any(re.search(rf"(?<!\d){pid}(?!\d)", name) for pid in self._seen):
                yield Fault.LITTER, f"shared memory: {name}"
        if "leaked" in self.output:
            yield Fault.LITTER, self.output[-600:]
        if self.port:
            try:
                socket.create_server(("127.0.0.1", self.port)).close()
            except OSError as error:
                yield Fault.LITTER, f"port {self.port}: {error}"

    def said(self, *texts: str) -> Faults:
        """What is wrong with its output: a traceback, or a user's text."""
        output = self.output
        for word in ("Traceback", "Exception in", "was never retrieved", "panicked at"):
            if word in output:
                yield Fault.TRACEBACK, output[output.index(word) :][:600]
                break
        for text in texts:
            if text in output:
                yield Fault.EXECUTION, f"a user's text in the output: {text!a}"


def wait_for(condition: Callable[[], object], seconds: float) -> bool:
    """Whether the condition came true in time."""
    until = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > until:
            return False
        time.sleep(0.02)
    return True


def rewards_file(name: str) -> str:
    """A function of this package, as the command line names it."""
    return f"function:{Path(__file__).with_name('rewards.py')}:{name}"


def ended_by(server: ServerProcess, number: int, code: Sequence[int] = (0,)) -> Faults:
    """Stop the server and say what was wrong with how it ended."""
    try:
        ended = server.stop(number)
    except subprocess.TimeoutExpired:
        yield Fault.HANG, f"{END_SECONDS:.0f} s after {signal.Signals(number).name}"
        server.kill()
        return
    if ended not in code:
        yield Fault.EXIT, f"{ended} after {signal.Signals(number).name}: {server.output[-300:]}"
    yield from server.left()
