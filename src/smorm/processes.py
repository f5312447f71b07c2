"""Worker processes that end with the process that started them."""

import os
import threading
from multiprocessing import parent_process


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
