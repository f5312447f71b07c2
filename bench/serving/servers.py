"""Servers as processes, each with all that it starts: their address, CPU time and memory."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import httpx2

from bench.machine import MIB

START_SECONDS = 300.0
_END_SECONDS = 20.0
_TICK = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")
ROOT = Path(__file__).resolve().parents[2]


class Server:
    """A process group that answers at `url`."""

    def __init__(self, name: str, process: subprocess.Popen[str], url: str) -> None:
        self.name, self.process, self.url = name, process, url

    def pids(self) -> list[int]:
        """The process and all that come from it."""
        children: dict[int, list[int]] = {}
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                with contextlib.suppress(OSError):
                    fields = _stat(int(entry.name))
                    children.setdefault(int(fields[1]), []).append(int(entry.name))
        tree = [self.process.pid]
        for pid in tree:
            tree += children.get(pid, [])
        return tree

    def cpu(self) -> float:
        """Seconds of CPU time of all its processes that live."""
        ticks = 0
        for pid in self.pids():
            with contextlib.suppress(OSError):
                fields = _stat(pid)
                ticks += int(fields[11]) + int(fields[12])
        return ticks / _TICK

    def rss_mib(self) -> float:
        """Resident memory of all its processes; what they share is counted in each."""
        pages = 0
        for pid in self.pids():
            with contextlib.suppress(OSError):
                pages += int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1])
        return pages * _PAGE / MIB

    def pause(self) -> None:
        """Stop its processes, so that nothing of it runs in the turn of others."""
        for pid in self.pids():
            os.kill(pid, signal.SIGSTOP)

    def resume(self) -> None:
        """Let its processes go on."""
        for pid in self.pids():
            os.kill(pid, signal.SIGCONT)

    def metric(self, name: str) -> float:
        """A counter of `/metrics`, all its labels together."""
        page = httpx2.get(f"{self.url}/metrics", timeout=30).text
        pattern = rf"^{name}(?:\{{[^}}]*\}})? (\S+)$"
        return sum(float(value) for value in re.findall(pattern, page, re.MULTILINE))


def _stat(pid: int) -> list[str]:
    """Fields of /proc/PID/stat from the third on: the second may hold spaces."""
    text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    return text[text.rindex(")") + 2 :].split()


@contextlib.contextmanager
def started(
    name: str, command: Sequence[str], url: str | None, log: Path, ready: str, **environment: str
) -> Iterator[Server]:
    """A server until the block ends. `url`: None where its first line of output names it; `ready`:
    the path that answers 200 once it serves.

    Raises:
        RuntimeError: it ended, or did not answer in five minutes; with the end of its log."""
    path = f"{ROOT / 'src'}{os.pathsep}{ROOT}"
    with log.open("w", encoding="utf-8") as stream:
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE if url is None else stream, stderr=stream, text=True,
            env={**os.environ, "PYTHONPATH": path, **environment}, start_new_session=True,
        )  # fmt: skip
        try:
            if url is None:
                assert process.stdout is not None
                line = re.search(r"http://\S+", process.stdout.readline())
                url = line[0] if line else ""
            server = Server(name, process, url)
            _wait(server, ready, log)
            yield server
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGCONT)
                os.killpg(process.pid, signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(_END_SECONDS)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            if process.stdout is not None:
                process.stdout.close()


def _wait(server: Server, ready: str, log: Path) -> None:
    until = time.monotonic() + START_SECONDS
    while server.process.poll() is None and time.monotonic() < until and server.url:
        with contextlib.suppress(httpx2.HTTPError):
            if httpx2.get(server.url + ready, timeout=5).status_code == 200:
                return
        time.sleep(0.2)
    tail = log.read_text(encoding="utf-8", errors="replace")[-2000:]
    raise RuntimeError(f"{server.name} did not start: {tail}")


def smorm_server(
    folder: Path, log: Path, *options: str
) -> contextlib.AbstractContextManager[Server]:
    """`smorm serve` on a model folder."""
    command = [sys.executable, "-m", "smorm.cli.main", "serve", f"model={folder}", "--port", "0",
               *options]  # fmt: skip
    return started("smorm", command, None, log, "/readyz")


def plain_server(folder: Path, port: int, log: Path) -> contextlib.AbstractContextManager[Server]:
    """FastAPI around transformers' classifier, one request at a time."""
    command = [sys.executable, "-m", "bench.serving.plain_server", str(folder), str(port)]
    return started("plain", command, f"http://127.0.0.1:{port}", log, "/health")


def litserve_server(
    python: str, folder: Path, port: int, log: Path
) -> contextlib.AbstractContextManager[Server]:
    """LitServe's batching around the same classifier, by an interpreter that has LitServe."""
    command = [python, "-m", "bench.serving.litserve_server", str(folder), str(port)]
    return started("litserve", command, f"http://127.0.0.1:{port}", log, "/health")


def vllm_server(
    binary: str, folder: Path, port: int, log: Path
) -> contextlib.AbstractContextManager[Server]:
    """vLLM's own server on the CPU."""
    command = [binary, "serve", str(folder), "--host", "127.0.0.1", "--port", str(port),
               "--runner", "pooling", "--dtype", "float32", "--enforce-eager",
               "--served-model-name", "model"]  # fmt: skip
    return started(
        "vllm", command, f"http://127.0.0.1:{port}", log, "/health", PYTHONPATH="",
        VLLM_CPU_KVCACHE_SPACE="1", VLLM_CPU_OMP_THREADS_BIND="nobind",
    )  # fmt: skip


def free_port() -> int:
    """A port that was free a moment ago."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
    return port
