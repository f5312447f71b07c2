"""One run at a time in a folder: a lock that the system releases with the process that holds it."""

import contextlib
import errno
import fcntl
import logging
import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

from smorm.errors import ConfigError
from smorm.files import named_errors

log = logging.getLogger(__name__)

LOCK = ".running"
_HELD: set[Path] = set()  # by this process: the system's locks keep out other processes only
_GUARD = threading.Lock()
_TAKEN = (errno.EACCES, errno.EAGAIN)


@contextlib.contextmanager
def only_run(folder: Path) -> Iterator[None]:
    """Hold a run's folder; ConfigError, which names the holder, where another run does. Folders
    that were made for the lock and stay empty are removed."""
    folder = folder.absolute()
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    with named_errors(folder):
        # Of a link to what is missing, the folder that it leads to.
        Path(os.path.realpath(folder)).mkdir(parents=True, exist_ok=True)
    path = folder / LOCK
    with _GUARD:
        if path in _HELD:
            raise _in_use(folder, f"process {os.getpid()}")
        descriptor = _take(path)
        _HELD.add(path)
    try:
        yield
    finally:
        with _GUARD, contextlib.suppress(OSError):
            _HELD.discard(path)
            # Removed while it is held: whoever opened it before sees that it is gone (`_take`).
            path.unlink()
        os.close(descriptor)
        for made in missing:
            with contextlib.suppress(OSError):
                made.rmdir()


def _take(path: Path) -> int:
    """A descriptor whose lock this process holds. A lock of a dead process is none: the file that
    it left is taken over."""
    while True:
        with named_errors(path):
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            # A record lock belongs to the process: workers that it forked do not hold it.
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = os.read(descriptor, 200).decode(errors="replace").strip()
            os.close(descriptor)
            if error.errno in _TAKEN:
                raise _in_use(path.parent, holder or "another process") from None
            log.warning("%s: this file system has no locks: start no second run there", path.parent)
            return os.open(path, os.O_RDWR)
        if _is_there(path, descriptor):
            os.ftruncate(descriptor, 0)
            os.write(descriptor, f"process {os.getpid()} on {socket.gethostname()}\n".encode())
            return descriptor
        os.close(descriptor)


def _is_there(path: Path, descriptor: int) -> bool:
    """Whether the path still is the file that was opened: its last holder may have removed it."""
    try:
        return os.path.samestat(os.stat(path), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _in_use(folder: Path, holder: str) -> ConfigError:
    advice = "wait until it ends, stop it, or name another folder"
    return ConfigError(f"output.folder: {folder} is in use by another run, {holder}: {advice}")
