"""Real servers in processes of their own, until a `with` block ends."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import httpx2

from engines.commands import SMORM

START_SECONDS = 1800.0  # vLLM imports for a minute of CPU time, and a shared machine gives little
STOP_SECONDS = 60.0
# One thread, no telemetry, no hub; the memory of the cache, which no conversation here fills.
VLLM_VARIABLES = {
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_ENGINE_READY_TIMEOUT_S": str(int(START_SECONDS)),
    "HF_HUB_OFFLINE": "1",
    "OMP_NUM_THREADS": "1",
}


@dataclass(frozen=True, slots=True)
class Server:
    """A running server: its address, its process and what it wrote."""

    url: str
    process: int
    log: Path


@contextlib.contextmanager
def vllm_server(
    binary: Path, export: Path, log: Path, *, options: Sequence[str] = ()
) -> Iterator[Server]:
    """`vllm serve EXPORT` in float32 on the CPU; RuntimeError where it does not start."""
    port = free_port()
    command = [
        str(binary), "serve", str(export), "--host", "127.0.0.1", "--port", str(port),
        "--runner", "pooling", "--dtype", "float32", "--enforce-eager", *options,
    ]  # fmt: skip
    with run_server(command, port, "/health", log, VLLM_VARIABLES) as server:
        yield server


@contextlib.contextmanager
def smorm_server(model: Path, view: str, log: Path) -> Iterator[Server]:
    """`smorm serve MODEL --view V`; RuntimeError where it does not start."""
    port = free_port()
    command = [*SMORM, "serve", str(model), "--view", view, "--port", str(port)]
    with run_server(command, port, "/readyz", log, {}) as server:
        yield server


def free_port() -> int:
    """A port of this machine that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextlib.contextmanager
def run_server(
    command: Sequence[str], port: int, ready: str, log: Path, variables: Mapping[str, str]
) -> Iterator[Server]:
    """A command that listens on a port, once its page `ready` answers 200, with variables of its
    own; RuntimeError where it ends before, or does not answer in time."""
    url = f"http://127.0.0.1:{port}"
    with log.open("wb") as output:
        # A session of its own: vLLM's engine is a child, and both are ended together.
        process = subprocess.Popen(
            command, stdout=output, stderr=subprocess.STDOUT, start_new_session=True,
            env={**os.environ, **variables},
        )  # fmt: skip
    try:
        _wait_until_ready(process, url + ready, log)
        yield Server(url, process.pid, log)
    finally:
        _stop(process)


def _wait_until_ready(process: subprocess.Popen[bytes], page: str, log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    with httpx2.Client(timeout=10) as client:
        while time.monotonic() < deadline:
            if process.poll() is not None:
                raise RuntimeError(f"ended with {process.returncode}: {error_in(log)}")
            with contextlib.suppress(httpx2.TransportError):
                if client.get(page).status_code == 200:
                    return
            time.sleep(0.5)
    raise RuntimeError(f"not ready after {START_SECONDS:.0f} s: {error_in(log)}")


def error_in(log: Path) -> str:
    """The first error that a log names, else its last line."""
    lines = log.read_text("utf-8", errors="replace").splitlines()
    for line in lines:
        # `ValueError: ...`, behind a logger's prefix or not.
        if found := re.search(r"\b[A-Z]\w*(Error|Exception): .*", line):
            return found.group()[:300]
    return lines[-1][:300] if lines else "it wrote nothing"


def _stop(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(STOP_SECONDS)
    # Whatever is left of its session: an engine may outlive the server that started it.
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
