"""How many tokens of a micro-batch fit a memory budget, and the budget that there is."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

import torch

from smorm.errors import ConfigError

KEPT_BACK = {"cpu": 0.45, "cuda": 0.1}
"""Share of a micro-batch's bytes that is added for what the count cannot see: an allocator keeps
freed memory in pieces that the next tensor does not fit. glibc keeps up to half as much again of
tensors below 32 MB, and nothing of larger ones; with `MALLOC_MMAP_THRESHOLD_=65536` it keeps
nothing at all, and the count is exact to 3 %, but every tensor costs its page faults."""
FREE_SHARE = 0.8
"""Without `memory_budget`: this share of what is free when the run starts may be used."""
CPU_MOST = 4096
"""On a CPU larger micro-batches are no faster: 2,048 tokens are within a few per cent of best."""
CUDA_MOST = 65_536
FEWEST = 64
_UNITS = {"": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12}
_UNITS |= {"kib": 2**10, "mib": 2**20, "gib": 2**30, "tib": 2**40}


@dataclass(frozen=True, slots=True)
class MemoryModel:
    """Bytes of a training step: `there` before it, `state` (gradients and moments), and
    `constant + per_token x tokens` while a micro-batch is computed, and a `spare` share of that."""

    there: int
    state: int
    constant: float
    per_token: float
    spare: float = KEPT_BACK["cuda"]

    def of(self, tokens: int) -> int:
        """Bytes with micro-batches of so many tokens."""
        batch = (self.constant + self.per_token * tokens) * (1 + self.spare)
        return int(self.there + self.state + batch)

    def tokens_within(self, budget: int) -> int:
        """The largest number of tokens that `budget` bytes hold; negative where none do."""
        left = (budget - self.there - self.state) / (1 + self.spare) - self.constant
        return int(left // self.per_token)


def largest_batch(need: MemoryModel, budget: int, device: torch.device) -> int:
    """Tokens that fit, at most what is of use, rounded down by up to an eighth, so that budgets
    that differ by a little give one number.

    Raises:
        ConfigError: fewer than 64 tokens fit.
    """
    fit = need.tokens_within(budget)
    if fit < FEWEST:
        raise ConfigError(
            f"training.memory_budget: {told(budget)} do not hold a micro-batch of {FEWEST} tokens, "
            f"which needs {told(need.of(FEWEST))}: give more, or use gradient_checkpointing, LoRA, "
            "or a smaller backbone"
        )
    step = max(8, 1 << (fit.bit_length() - 4))
    return min(fit // step * step, CPU_MOST if device.type == "cpu" else CUDA_MOST)


def parse_bytes(text: str) -> int:
    """`8GB`, `8 GiB`, `500MB` or plain bytes as a number.

    Raises:
        ConfigError: it is none of these, or nothing.
    """
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([a-zA-Z]*)\s*", text)
    unit = _UNITS.get(found[2].lower()) if found else None
    if found is None or unit is None or float(found[1]) <= 0:
        raise ConfigError(f"training.memory_budget: {text!r}: expected e.g. 8GB, 7.5GiB or 500MB")
    return int(float(found[1]) * unit)


def told(count: float) -> str:
    """Bytes in the user's words."""
    return f"{count / 1e9:.2f} GB" if count >= 1e8 else f"{count / 1e6:.1f} MB"


def free_bytes(device: torch.device) -> int:
    """What may still be allocated: on CUDA of the device, else of the machine or its container."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(free + cached)
    free = _available()
    for limit, used in (
        ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
        (
            "/sys/fs/cgroup/memory/memory.limit_in_bytes",
            "/sys/fs/cgroup/memory/memory.usage_in_bytes",
        ),
    ):
        most, now = _number_in(limit), _number_in(used)
        if most is not None and now is not None:
            free = min(free, max(0, most - now))
    return free


def _available() -> int:
    try:
        found = re.search(r"MemAvailable:\s+(\d+) kB", Path("/proc/meminfo").read_text("ascii"))
    except OSError:
        found = None
    if found:
        return int(found[1]) * 1024
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2  # no Linux: be careful


def _number_in(path: str) -> int | None:
    try:
        text = Path(path).read_text("ascii").strip()
    except OSError:
        return None
    return int(text) if text.isdigit() else None


def resident_bytes() -> int:
    """What this process holds in memory (RSS)."""
    try:
        pages = int(Path("/proc/self/statm").read_text("ascii").split()[1])
    except OSError:
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return pages * os.sysconf("SC_PAGE_SIZE")
