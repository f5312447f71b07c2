"""Trainings by several real processes, which meet over loopback (gloo)."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from smorm.cli.main import main
from smorm.processes import worker_context
from smorm.stopping import SIGNALS

PRELOADED = ("smorm.cli.main", "smorm.training.loop", "transformers.models.llama.modeling_llama")


def in_ranks(
    world: int, function: Callable[..., None], folder: Path, *arguments: Any, timeout: float = 240
) -> list[int]:
    """Call `function(*arguments)` in so many processes; their exit codes by rank. What they print
    is in `folder/rank-N.txt`."""
    context = worker_context(*PRELOADED)
    folder.mkdir(parents=True, exist_ok=True)
    store = folder / f"store-{len(list(folder.glob('store-*')))}"
    processes = [
        context.Process(target=_rank, args=(rank, world, store, function, arguments))
        for rank in range(world)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(timeout)
    codes = [process.exitcode for process in processes]
    for process in processes:
        process.kill()
        process.join()
    assert None not in codes, "a rank has not ended"
    return [int(code or 0) for code in codes]


def _rank(
    rank: int, world: int, store: Path, function: Callable[..., None], arguments: tuple[Any, ...]
) -> None:
    output = os.open(store.parent / f"rank-{rank}.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(output, 1)
    os.dup2(output, 2)
    # Streams anew: the ones that were there may lead elsewhere.
    sys.stdout = os.fdopen(1, "w", buffering=1, encoding="utf-8", closefd=False)
    sys.stderr = os.fdopen(2, "w", buffering=1, encoding="utf-8", closefd=False)
    for number in SIGNALS:
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
    torch.set_num_threads(1)
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(world)}
    os.environ |= {"LOCAL_RANK": str(rank), "LOCAL_WORLD_SIZE": str(world)}
    # A file in place of a port, which another test could take.
    method = f"file://{store}"
    dist.init_process_group("gloo", init_method=method, rank=rank, world_size=world)
    function(*arguments)
    dist.destroy_process_group()


def train(*words: str) -> None:
    """`smorm train WORDS` in each rank."""
    sys.argv = ["smorm", "train", *words]
    main()
