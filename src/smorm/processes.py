"""Worker processes that do not outlive the one that began them."""

from __future__ import annotations

import os
import threading
from multiprocessing import parent_process


def end_with_parent() -> None:
    """Let this process end when the one that began it does; an initializer of process pools.

    A killed parent closes nothing that its other children hold: they would wait for jobs forever.
    """
    parent = parent_process()

    def watch() -> None:
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
