"""The C heap of a CPU process: keep freed memory.

A training step frees some hundred megabytes and allocates them again. glibc returns large freed
blocks to the system, and the system hands them out page by page, each filled with zeros: some
twenty thousand page faults a step, a fifth of a step's time. With these settings the process holds
on to its peak, which it reaches every step anyway.
"""

import ctypes
import functools
import os
import platform

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX = -1, -2, -4  # M_... of malloc.h
_GROWTH = 64 << 20
"""Bytes that the heap grows by at least."""
_GLIBC_SETTINGS = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_TOP_PAD_", "MALLOC_MMAP_MAX_")


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
