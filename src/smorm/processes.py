"""Worker processes: how they start, and that they end with the process that started them."""

import os
import sys
import threading
from multiprocessing import get_context, parent_process, resource_tracker
from multiprocessing.context import ForkServerContext, SpawnContext
from multiprocessing.forkserver import ensure_running

from smorm.stopping import blocked


def worker_context(*modules: str) -> ForkServerContext | SpawnContext:
    """How worker processes start that will need `modules`: where it can be, one process imports
    them once, and every worker of every pool is a fork of it. Those never see a stop signal, unless
    they unblock one: who started them ends them."""
    import torch

    # Importing torch and transformers takes a core 5 seconds. The process that does it has started
    # no thread and used no device. CUDA does not survive a fork, not even once it was looked for,
    # and macOS's own libraries do not either: there each worker imports for itself.
    if sys.platform != "linux" or torch.cuda.is_available():
        return get_context("spawn")
    context = get_context("forkserver")
    context.set_forkserver_preload(list(modules))
    # Now, and not with the first worker: the process passes on to its forks what it has blocked.
    # The tracker first: its start unblocks signals.
    resource_tracker.ensure_running()
    with blocked():
        ensure_running()
    return context


def end_with_parent() -> None:
    """Let this process end when its parent does; an initializer of process pools."""
    # A killed parent closes no pipe that its other children hold too, so a worker would wait for
    # jobs forever.
    parent = parent_process()
    if parent is None:
        return

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
