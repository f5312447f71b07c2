"""How an experiment begins and ends on the command line."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from pathlib import Path

from smorm.errors import SmormError

SEEDS, JOBS = 3, 2


def parser_of(name: str) -> argparse.ArgumentParser:
    """`--data` and `--output` of `python -m experiments.NAME`."""
    parser = argparse.ArgumentParser(prog=f"python -m experiments.{name}")
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--output", type=Path, default=Path(f"results/{name}"))
    return parser


def parser_of_runs(name: str) -> argparse.ArgumentParser:
    """The same of one that trains models: also `--work`, `--seeds` and `--jobs`."""
    parser = parser_of(name)
    parser.add_argument("--work", type=Path, default=Path(f"runs/{name}"))
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--jobs", type=int, default=JOBS)
    return parser


def one_thread_each() -> None:
    """Worker processes read this when they import torch: one thread each, and no spinning."""
    for name, value in (("OMP_NUM_THREADS", "1"), ("OMP_WAIT_POLICY", "PASSIVE")):
        os.environ.setdefault(name, value)


def carried_out(data: Path, work: Callable[[], None]) -> int:
    """Do the work where there is data; the exit code."""
    if not data.is_dir():
        say(f"skipped: no data folder at {data} (name it with --data)")
        return 0
    try:
        work()
    except SmormError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


def say(text: str) -> None:
    """A line, now."""
    print(text, flush=True)
