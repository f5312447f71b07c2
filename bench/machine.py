"""The machine that figures are taken on, and processes whose memory is measured.

Nothing here imports torch before it is needed: `bench.check` measures a process without it."""

from __future__ import annotations

import json
import os
import platform
import resource
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

MIB = 1 << 20
_PACKAGES = ("torch", "transformers", "trl", "smorm")
_FLAGS = ("avx2", "avx512f", "avx512_bf16", "amx_bf16", "avx512_vnni")


def describe() -> dict[str, Any]:
    """Processor, versions and load at the start; no host names and no paths."""
    import torch

    model, flags = _processor()
    machine: dict[str, Any] = {
        "cpu": model,
        "cores": None,
        "flags": [flag for flag in _FLAGS if flag in flags],
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in _PACKAGES},
        "threads": torch.get_num_threads(),
        "omp_wait_policy": os.environ.get("OMP_WAIT_POLICY"),
        "load_at_start": None,
    }
    if hasattr(os, "sched_getaffinity"):
        machine["cores"] = len(os.sched_getaffinity(0))
    if hasattr(os, "getloadavg"):
        machine["load_at_start"] = round(os.getloadavg()[0], 2)
    return machine


def peak_rss(children: bool = False) -> int:
    """The most resident memory of this process in bytes, or of the largest child waited for."""
    status = Path("/proc/self/status")
    # getrusage counts what the parent had when it started this process; VmHWM does not.
    if status.is_file() and not children:
        for line in status.read_text(encoding="ascii").splitlines():
            if line.startswith("VmHWM"):
                return int(line.split()[1]) * 1024
    who = resource.RUSAGE_CHILDREN if children else resource.RUSAGE_SELF
    peak = resource.getrusage(who).ru_maxrss
    # macOS counts bytes, Linux KiB
    return peak if sys.platform == "darwin" else peak * 1024


def json_of_process(module: str, *arguments: str, **environment: str) -> dict[str, Any]:
    """The JSON object that a module prints last, run as a command in a process of its own.

    Raises:
        RuntimeError: it failed; its messages are on stderr."""
    command = [sys.executable, "-m", module, *arguments]
    # stderr passes through: progress is seen while a long measurement runs
    done = subprocess.run(
        command, stdout=subprocess.PIPE, text=True, env={**os.environ, **environment}, check=False
    )
    if done.returncode:
        raise RuntimeError(f"{' '.join(command[1:])} ended with exit code {done.returncode}")
    content: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return content


def _processor() -> tuple[str, set[str]]:
    """The processor's name and flags, from /proc/cpuinfo where there is one."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine(), set()
    fields: dict[str, str] = {}
    for line in lines:
        key, _, value = line.partition(":")
        fields.setdefault(key.strip(), value.strip())
    return fields.get("model name", platform.machine()), set(fields.get("flags", "").split())


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
