"""The device that a model runs on, and the C heap of a CPU process."""

import ctypes
import functools
import os
import platform

import torch

from smorm.errors import ConfigError

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX = -1, -2, -4  # M_... of malloc.h
_GROWTH = 64 << 20
"""Bytes that the heap grows by at least."""
_GLIBC_SETTINGS = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_TOP_PAD_", "MALLOC_MMAP_MAX_")


def pick_device(name: str, key: str = "device") -> torch.device:
    """The device of that name; `auto` is CUDA where there is one. A `ConfigError` names `key`."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        # The first sentence; torch goes on with a page about compilation.
        reason = str(error).splitlines()[0].partition(". This could be")[0]
        raise ConfigError(f"{key}: {name!r} cannot be used: {reason}") from error
    return device


def seed_generators(seed: int, device: torch.device) -> None:
    """Seed what draws random numbers on this device. `torch.manual_seed` also asks every kind of
    accelerator that is not there, which takes as long as a small forward pass."""
    if device.type == "cpu":
        torch.default_generator.manual_seed(seed)
    else:
        torch.manual_seed(seed)


@functools.cache
def keep_freed_memory() -> bool:
    """Let glibc keep freed memory in this process; returns whether it does. Nothing is set where
    there is no glibc, or where the environment decides: `SMORM_KEEP_MEMORY=0`, or glibc's own
    `MALLOC_..._`."""
    if os.environ.get("SMORM_KEEP_MEMORY") == "0" or platform.libc_ver()[0] != "glibc":
        return False
    if any(name in os.environ for name in _GLIBC_SETTINGS):
        return False
    # No mapped blocks, which are always returned; no trimming below 2 GiB; growth in large steps.
    mallopt = ctypes.CDLL(None).mallopt
    settings = ((_MMAP_MAX, 0), (_TRIM_THRESHOLD, 2**31 - 1), (_TOP_PAD, _GROWTH))
    accepted = [mallopt(option, value) for option, value in settings]
    return all(accepted)
