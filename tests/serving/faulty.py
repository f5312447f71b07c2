"""A reward that fails as its items say: for tests of workers, which import it by its path."""

from __future__ import annotations

import os
import time


def reward(prompt: str, response: str) -> float:
    """The response's length, unless it asks for trouble."""
    if "raise" in response:
        raise RuntimeError("asked to raise")
    if "exit" in response:
        os._exit(9)
    if "stall" in response:
        time.sleep(60)
    if "nan" in response:
        return float("nan")
    return float(len(response))
