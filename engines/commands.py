"""smorm's own commands, as users run them."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass

SMORM = (sys.executable, "-m", "smorm.cli.main")


@dataclass(frozen=True, slots=True)
class Ended:
    """How a command ended."""

    code: int
    output: str  # of both streams


def run_smorm(*words: object, codes: Sequence[int] = (0,)) -> Ended:
    """Run `smorm WORDS` to its end; RuntimeError where its exit code is none of `codes`."""
    done = subprocess.run(
        [*SMORM, *map(str, words)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        check=False,
    )  # fmt: skip
    if done.returncode not in codes:
        raise RuntimeError(f"smorm {words[0]} ended with {done.returncode}: {done.stdout[-2000:]}")
    return Ended(done.returncode, done.stdout)
