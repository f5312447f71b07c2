"""One run at a time in a folder, or onto a file: a lock that the system releases with the process
that holds it."""

import contextlib
import errno
import fcntl
import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

from smorm.errors import ConfigError, OutputError
from smorm.files import is_stream, named_errors
from smorm.printing import get_logger
from smorm.stopping import defer, handled

log = get_logger(__name__)

LOCK = ".running"
_HELD: set[Path] = set()  # by this process: the system's locks keep out other processes only
_GUARD = threading.Lock()
_TAKEN = (errno.EACCES, errno.EAGAIN)


@contextlib.contextmanager
def only_run(folder: Path, key: str = "output.folder") -> Iterator[None]:
    """Hold a run's folder; ConfigError, which names the holder (and the configuration's `key`),
    where another run does. Folders that were made for the lock and stay empty are removed."""
    # Without links: one that leads to what is missing makes it.
    real = Path(os.path.realpath(folder))
    missing = [path for path in (real, *real.parents) if not path.exists()]
    try:
        with _held(real / LOCK, f"{key}: {folder.absolute()}"):
            yield
    finally:
        for made in missing:
            with contextlib.suppress(OSError):
                made.rmdir()


@contextlib.contextmanager
def only_writer(output: Path) -> Iterator[None]:
    """Hold a file that is to be written; ConfigError where another run does. A device or pipe is
    not held."""
    if is_stream(output):
        yield
        return
    output = output.absolute()
    with _held(output.with_name(f".{output.name}{LOCK}"), str(output)):
        yield


@contextlib.contextmanager
def _held(path: Path, what: str) -> Iterator[None]:
    with _GUARD:
        if path in _HELD:
            raise _in_use(what, f"process {os.getpid()}")
        descriptor = _take(path, what)
        _HELD.add(path)
    try:
        yield
    finally:
        # Not to be interrupted in the middle.
        with handled(), _GUARD, contextlib.suppress(OSError):
            defer()
            _HELD.discard(path)
            # Removed while it is held: whoever opened it before sees that it is gone (`_take`).
            path.unlink()
        os.close(descriptor)


def _take(path: Path, what: str) -> int:
    """A descriptor whose lock this process holds. A lock of a dead process is none: the file that
    it left is taken over."""
    # No link: what it leads to may be missing, or another's.
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
    while True:
        with named_errors(path):
            # In the loop: a run that ends may remove the folder just after it was made here.
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                descriptor = os.open(path, flags, 0o666)
            except FileNotFoundError:
                continue
        try:
            # A record lock belongs to the process: workers that it forked do not hold it.
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = os.read(descriptor, 200).decode(errors="replace").strip()
            os.close(descriptor)
            if error.errno in _TAKEN:
                raise _in_use(what, holder or "another process") from None
            log.warning("%s: this file system has no locks: start no second run there", path.parent)
            return os.open(path, os.O_RDWR)
        if _is_there(path, descriptor):
            _sign(path, descriptor)
            return descriptor
        os.close(descriptor)


def _sign(path: Path, descriptor: int) -> None:
    """Say in a lock who holds it; `OutputError`, and no lock is left, on a full disk."""
    try:
        with named_errors(path):
            os.ftruncate(descriptor, 0)
            os.write(descriptor, f"process {os.getpid()} on {socket.gethostname()}\n".encode())
    except OutputError:
        path.unlink()
        os.close(descriptor)
        raise


def _is_there(path: Path, descriptor: int) -> bool:
    """Whether the path still is the file that was opened: its last holder may have removed it."""
    try:
        return os.path.samestat(os.stat(path), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _in_use(what: str, holder: str) -> ConfigError:
    advice = "wait until it ends, stop it, or name another"
    return ConfigError(f"{what} is in use by another run, {holder}: {advice}")
