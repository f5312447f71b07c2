"""How an experiment begins and ends on the command line."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from pathlib import Path

from smorm.errors import SmormError

SEEDS, JOBS = 3, 2


def make_parser(name: str, output: str = "") -> argparse.ArgumentParser:
    """`--data` and `--output` of `python -m experiments.NAME`."""
    parser = argparse.ArgumentParser(prog=f"python -m experiments.{name}")
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--output", type=Path, default=Path(output or f"results/{name}"))
    return parser


def make_run_parser(name: str) -> argparse.ArgumentParser:
    """The same for one that trains models: also `--work`, `--seeds` and `--jobs`."""
    parser = make_parser(name)
    parser.add_argument("--work", type=Path, default=Path(f"runs/{name}"))
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--jobs", type=int, default=JOBS)
    return parser


def one_thread_each() -> None:
    """Give each worker process one thread that does not spin."""
    # Workers read these when they import torch, so this comes before any of them starts.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def run_command(data: Path, work: Callable[[], None]) -> int:
    """Do the work if there is data, and return the exit code."""
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
    """Print a line at once, also into a pipe."""
    print(text, flush=True)
