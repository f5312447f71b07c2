"""Hidden names for what is not finished, so that what a killed process left can be removed.

Until it is whole, a file or folder is called `.NAME.smorm-SYSTEM-PID-START-RANDOM`, after the
process that writes it. Whoever writes into the same folder next removes those of dead processes.
SYSTEM stands for the host, its boot and its pid namespace: elsewhere a number means another
process, so that what another system left is removed only when nothing was written to it for a
day."""

import contextlib
import functools
import hashlib
import os
import re
import secrets
import shutil
import socket
import stat
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from smorm.errors import OutputError

ABANDONED_AFTER = 24 * 3600.0
"""Seconds without a write after which the unfinished work of another system counts as dead."""
_OWNER = re.compile(
    r"\.smorm-(?P<system>[0-9a-f]{8})-(?P<pid>[0-9]+)-(?P<start>[0-9]+)-[0-9a-f]{6}(?P<old>\.old)?$"
)
_LONGEST = 255  # bytes of a file's name
_NEVER_SEEN = 0  # in place of a start time, where the system does not tell it


def new_file(target: Path) -> tuple[Path, int]:
    """A new and empty hidden file beside `target`: its path, and its permissions, which are what
    the umask leaves of 0666."""
    while True:
        path = _hidden(target)
        with contextlib.suppress(FileExistsError):
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
            mode = stat.S_IMODE(os.fstat(descriptor).st_mode)
            os.close(descriptor)
            return path, mode


def new_folder(target: Path, *, mode: int = 0o777, ending: str = "") -> Path:
    """A new hidden folder beside `target`, with what the umask leaves of `mode`."""
    while True:
        path = _hidden(target, ending)
        with contextlib.suppress(FileExistsError):
            path.mkdir(mode)
            return path


def new_path(target: Path) -> Path:
    """A hidden name beside `target` that nothing has."""
    path = _hidden(target)
    while os.path.lexists(path):
        path = _hidden(target)
    return path


def _hidden(target: Path, ending: str = "") -> Path:
    pid = os.getpid()
    owner = f"{_system()}-{pid}-{_start_time(pid) or _NEVER_SEEN}-{secrets.token_hex(3)}"
    suffix = f".smorm-{owner}{ending}"
    # A long name is cut: the whole must fit a file's name too.
    name = os.fsencode(target.name)[: _LONGEST - len(suffix) - 1]
    return target.with_name(f".{name.decode(errors='ignore')}{suffix}")


def sweep(folder: Path) -> None:
    """Remove what dead processes left unfinished in a folder; errors are passed over."""
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            owner = _OWNER.search(entry.name)
            if owner is None or not _is_abandoned(owner, Path(entry.path)):
                continue
            if owner["old"]:
                _restore(Path(entry.path))
            discard(Path(entry.path))


def _restore(aside: Path) -> None:
    """Give a folder that was about to be replaced its name back, where no new one has taken it."""
    with contextlib.suppress(OSError):
        for old in aside.iterdir():
            if not os.path.lexists(aside.parent / old.name):
                old.rename(aside.parent / old.name)


def _is_abandoned(owner: re.Match[str], path: Path) -> bool:
    if owner["system"] == _system():
        alive = _is_alive(int(owner["pid"]), int(owner["start"]))
        if alive is not None:
            return not alive
    try:
        newest = max(entry.lstat().st_mtime for entry in (path, *path.rglob("*")))
    except OSError:  # it was finished, or removed by another process
        return False
    return time.time() - newest > ABANDONED_AFTER


def _is_alive(pid: int, start: int) -> bool | None:
    """Whether the process of that number is the one that began then; None where nothing tells."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        pass  # it is another user's
    began = _start_time(pid)
    if began is not None and start != _NEVER_SEEN:
        return began == start
    return None


def _start_time(pid: int) -> int | None:
    """When a process began, in clock ticks since the boot; 0 of one that has ended and waits for
    its parent, None where the system does not tell."""
    try:
        line = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return None
    # After the name, which may hold spaces and brackets: the state, and 19 fields on the start.
    fields = line.rpartition(b")")[2].split()
    return 0 if fields[0] in (b"Z", b"X") else int(fields[19])


@functools.cache
def _system() -> str:
    """Where the number of a process means the same one: host, boot and pid namespace."""
    facts = [socket.gethostname()]
    with contextlib.suppress(OSError):
        facts.append(Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii"))
        facts.append(os.readlink("/proc/self/ns/pid"))
    return hashlib.sha256("\n".join(facts).encode()).hexdigest()[:8]


def discard(path: Path) -> None:
    """Remove a file, a link or a folder; errors are passed over."""
    if os.path.isdir(path) and not os.path.islink(path):
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            path.unlink()


def remove_folder(folder: Path) -> None:
    """Remove a folder: in one step under its own name, so that no half of it is ever seen. Errors
    are passed over, and so is a folder that is not there."""
    hidden = new_path(folder)
    with contextlib.suppress(OSError):
        folder.rename(hidden)
        discard(hidden)


@contextlib.contextmanager
def scratch_folder(name: str) -> Iterator[Path]:
    """A folder among the system's temporary files (`TMPDIR`), for this user only, which is removed
    in the end. `OutputError` where there is no room for one."""
    try:
        target = Path(tempfile.gettempdir()) / name
        sweep(target.parent)
        folder = new_folder(target, mode=0o700)
    except OSError as error:
        problem = f"temporary files cannot be written ({error.strerror})"
        raise OutputError(f"{problem}: let TMPDIR name a folder with room for them") from None
    try:
        yield folder
    finally:
        discard(folder)
