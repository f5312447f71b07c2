"""Worker processes: how they start, and that they end with the process that started them."""

import os
import sys
import threading
from multiprocessing import get_context, parent_process
from multiprocessing.context import BaseContext


def worker_context(*modules: str) -> BaseContext:
    """How worker processes start that will need `modules`: where it can be, one process imports
    them once, and every worker of every pool is a fork of it."""
    import torch

    # Importing torch and transformers takes a core 5 seconds. The process that does it has started
    # no thread and used no device. CUDA does not survive a fork, not even once it was looked for,
    # and macOS's own libraries do not either: there each worker imports for itself.
    if sys.platform != "linux" or torch.cuda.is_available():
        return get_context("spawn")
    context = get_context("forkserver")
    context.set_forkserver_preload(list(modules))
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
