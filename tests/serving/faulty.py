"""A reward that fails as its items say: for tests of workers, which import it by its path."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from typing import Any

BROKEN: list[str] = []
"""Holds something once the process is of no use any more, as after an error of a device."""


def reward(prompts: list[Any], completions: list[Any]) -> list[float]:
    """The length of each answer, unless one asks for trouble."""
    texts = [completion[-1]["content"] for completion in completions]
    for text in texts:
        if "break" in text:
            BROKEN.append(text)
        if BROKEN:
            raise RuntimeError("the device is lost")
        if "child" in text:
            code = "import time; time.sleep(600)"
            child = subprocess.Popen([sys.executable, "-c", code])
            with open(text.partition(" ")[2], "w", encoding="ascii") as file:
                file.write(str(child.pid))
            time.sleep(600)
        if "raise" in text:
            raise RuntimeError("asked to raise")
        if "slow" in text:
            time.sleep(0.5)
        if "exit" in text:
            os._exit(9)
        if "stall" in text:
            time.sleep(60)
    return [float("nan") if "nan" in text else float(len(text)) for text in texts]
