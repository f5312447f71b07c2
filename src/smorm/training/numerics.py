"""What decides the last bits of a run on a CPU besides its configuration and data.

Sums are split among threads, and libraries choose kernels by the processor and by settings of
theirs. All of it is recorded in every checkpoint; a run that goes on takes the same number of
threads, or is refused, and says what else is different."""

import functools
import os
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from smorm.config import Config
from smorm.errors import CheckpointError
from smorm.model.device import pick_device
from smorm.model.store import versions
from smorm.printing import get_logger
from smorm.training.distributed.ranks import current

log = get_logger(__name__)

Recorded = tuple[Path, Mapping[str, Any]]
"""A checkpoint, and what `describe` gave where it was written (nothing in older versions)."""

# The first that is set decides how many threads torch begins with.
_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")
# With them torch, MKL and oneDNN choose other kernels, or round otherwise.
_KERNELS = (
    "ATEN_CPU_CAPABILITY", "DNNL_DEFAULT_FPMATH_MODE", "DNNL_MAX_CPU_ISA", "MKL_CBWR",
    "MKL_DYNAMIC", "MKL_ENABLE_INSTRUCTIONS", "OMP_DYNAMIC", "ONEDNN_DEFAULT_FPMATH_MODE",
    "ONEDNN_MAX_CPU_ISA",
)  # fmt: skip
_ACCEPT = "training.accept_other_bits=true"


def describe() -> dict[str, Any]:
    """What decides the bits of this process, as it is recorded."""
    return {
        "ranks": current().world,
        "parallel": _parallel(),
        "threads": torch.get_num_threads(),
        "processor": _processor(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "settings": {name: os.environ[name] for name in _KERNELS if name in os.environ},
        "versions": versions(),
    }


def _parallel() -> str:
    return "sharded" if current().sharded else "replicated"


@functools.cache
def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    for line in lines:
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def settle_threads(config: Config, recorded: Recorded | None) -> None:
    """Set the number of threads: that of the configuration, else that of the checkpoint that the
    run goes on from. CheckpointError where the configuration or the environment asks for another
    number than the checkpoint was computed with."""
    training = config.training
    threads = training.threads or torch.get_num_threads()
    # On another device the order of sums is not fixed, whatever the threads.
    on_cpu = pick_device(training.device, "training.device").type == "cpu"
    if recorded is not None and on_cpu:
        checkpoint, before = recorded
        ranks = before.get("ranks", 1)
        if before.get("parallel", _parallel()) != _parallel():
            log.warning("%s was computed by %s ranks, now they are %s: the last bits differ from "
                        "those of an uninterrupted run",
                        checkpoint, before["parallel"], _parallel())  # fmt: skip
        if ranks != current().world:
            log.warning("%s was computed by %d rank(s), now there are %d: the last bits differ "
                        "from those of an uninterrupted run",
                        checkpoint, ranks, current().world)  # fmt: skip
        elif "threads" in before:
            threads = _threads(config, checkpoint, before["threads"])
        else:
            log.warning("%s does not say how many threads computed it: with others than %d "
                        "the last bits differ", checkpoint, threads)  # fmt: skip
        _report_changes(checkpoint, before)
    # Also where it is what torch has: once it is set, MKL takes no smaller number by itself.
    torch.set_num_threads(threads)


def _threads(config: Config, checkpoint: Path, recorded: int) -> int:
    training, now = config.training, torch.get_num_threads()
    request, threads = "", recorded
    if training.threads is not None:
        request, threads = f"training.threads={training.threads}", training.threads
    else:
        names = [name for name in _THREADS if name in os.environ]
        if names:
            request, threads = f"{names[0]}={os.environ[names[0]]}", now
    if threads != recorded:
        problem = (
            f"{checkpoint}: was computed with {recorded} threads, and {request} asks for {threads}"
        )
        if not training.accept_other_bits:
            raise CheckpointError(
                f"{problem}, which gives other last bits: training.threads={recorded} goes on with "
                f"the same, {_ACCEPT} with {threads}"
            )
        log.warning("%s: the last bits differ from those of an uninterrupted run", problem)
    elif threads != now:
        log.info("threads: %d, as in %s (this process began with %d)", threads, checkpoint, now)
    return threads


def _report_changes(checkpoint: Path, before: Mapping[str, Any]) -> None:
    earlier, now = _flat(before), _flat(describe())
    changes = [
        f"{name} {earlier[name]} (now {now[name]})"
        for name in now
        if name in earlier and earlier[name] != now[name]
    ]
    if changes:
        log.warning("%s was computed with %s: the last bits may differ from those of an "
                    "uninterrupted run", checkpoint, ", ".join(changes))  # fmt: skip


def _flat(record: Mapping[str, Any]) -> dict[str, Any]:
    """By name, but for the threads; a setting that the environment does not have is `unset`."""
    flat = {name: record[name] for name in ("processor", "instructions") if name in record}
    if "settings" in record:
        flat |= dict.fromkeys(_KERNELS, "unset") | record["settings"]
    flat |= record.get("versions", {})
    return flat
