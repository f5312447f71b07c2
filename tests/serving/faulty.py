"""A reward that fails as its items say: for tests of workers, which import it by its path."""

from __future__ import annotations

import os
import time
from typing import Any


def reward(prompts: list[Any], completions: list[Any]) -> list[float]:
    """The length of each answer, unless one asks for trouble."""
    texts = [completion[-1]["content"] for completion in completions]
    for text in texts:
        if "raise" in text:
            raise RuntimeError("asked to raise")
        if "exit" in text:
            os._exit(9)
        if "stall" in text:
            time.sleep(60)
    return [float("nan") if "nan" in text else float(len(text)) for text in texts]
