"""A function reward that fails as its items say. It runs in the server's worker."""

from __future__ import annotations

import os
import signal
import sys
import time
from typing import Any

FAULTS = (
    "raise", "memory", "nan", "infinite", "none", "short", "exit", "sys-exit", "segfault", "abort",
    "oom-kill", "stall", "broken",
)  # fmt: skip
"""What an answer may ask for, as `fault:NAME`."""
_broken = False


def reward(prompts: list[Any], completions: list[Any]) -> list[Any]:
    """The length of each answer, unless one asks for trouble."""
    global _broken
    texts = [completion[-1]["content"] for completion in completions]
    values: list[Any] = [float(len(text)) for text in texts]
    for index, text in enumerate(texts):
        fault, _, seconds = text.removeprefix("fault:").partition(" ")
        if not text.startswith("fault:"):
            continue
        if fault == "raise":
            raise RuntimeError("asked to raise")
        if fault == "memory":
            bytearray(1 << 62)  # a real MemoryError
        if fault in ("nan", "infinite", "none"):
            values[index] = {"nan": float("nan"), "infinite": float("inf"), "none": None}[fault]
        if fault == "short":
            return values[:-1]
        if fault == "exit":
            os._exit(9)
        if fault == "sys-exit":
            sys.exit("asked to exit")
        if fault in ("segfault", "abort", "oom-kill"):
            number = {"segfault": signal.SIGSEGV, "abort": signal.SIGABRT,
                      "oom-kill": signal.SIGKILL}[fault]  # fmt: skip
            os.kill(os.getpid(), number)
        if fault == "stall":
            time.sleep(float(seconds))
        if fault == "broken":
            _broken = True
    if _broken:
        raise RuntimeError("of no use any more")
    return values
