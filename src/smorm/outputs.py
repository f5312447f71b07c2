"""What stands where an output is to be written, found out before the work begins.

Links are followed: the file or folder that they lead to gets the new content, and they stay. A
device, a pipe or an open descriptor (`/dev/stdout`) is written into, since it cannot be
replaced."""

import contextlib
import errno
import fcntl
import os
import re
import shutil
import stat
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from safetensors import SafetensorError

from smorm.errors import ConfigError, OutputError

_BLOCK = bytes(4096)
_NO_PATHS = {
    errno.ELOOP: "its links lead in a circle; name a file or folder",
    errno.ENAMETOOLONG: "this name is too long",
}
_MOST_LINKS = 40  # as Linux has it
_DESCRIPTOR = re.compile(r"/proc/(?P<pid>\d+)(/task/\d+)?/fd/(?P<number>\d+)")
# Named pipes, open from the check on: who reads one takes a closing for the end.
_PIPES: dict[Path, int] = {}
_NO_OUTPUTS = ((stat.S_ISDIR, "folder"), (stat.S_ISBLK, "disk"), (stat.S_ISSOCK, "socket"))


@contextlib.contextmanager
def named_errors(path: Path) -> Iterator[None]:
    """Turn an operating system error (a library's too) into one line that names the target."""
    # Raised behind the handlers: the user gets one line, and no chain of tracebacks.
    try:
        yield
        return
    except OSError as error:
        reason = error.strerror or str(error)
    except SafetensorError as error:
        reason = str(error)
    problem = f"could not be written: {reason}. What was there before is untouched."
    raise OutputError(f"{path}: {problem}")


@dataclass(frozen=True, slots=True)
class OutputFile:
    """Where the content of an output file goes.

    Attributes:
        path: without links, to be replaced; of a stream as it was given.
        is_stream: a device or pipe, into which the content is written.
        descriptor: of a stream that this process has open already."""

    path: Path
    is_stream: bool = False
    descriptor: int | None = None

    @classmethod
    def at(cls, path: Path) -> "OutputFile":
        """`ConfigError` where links lead in a circle, or to what cannot be a file."""
        mode = _mode(path)
        descriptor = _descriptor(path)
        if descriptor is not None:
            return cls(path, is_stream=True, descriptor=descriptor)
        for is_kind, kind in _NO_OUTPUTS:
            if is_kind(mode):
                raise ConfigError(f"{path}: is a {kind}; name a file")
        if stat.S_ISCHR(mode) or stat.S_ISFIFO(mode):
            return cls(path, is_stream=True)
        return cls(_without_links(path))

    def open_stream(self) -> BinaryIO:
        """The stream of a device or pipe; OSError for a named pipe that nobody reads."""
        if self.descriptor is not None:
            # What was printed before comes before.
            sys.stdout.flush()
            return os.fdopen(os.dup(self.descriptor), "wb")
        if self.path.is_fifo():
            _open_pipe(self.path)
            descriptor = _PIPES.pop(self.path)
            os.set_blocking(descriptor, True)
            return os.fdopen(descriptor, "wb")
        return os.fdopen(os.open(self.path, os.O_WRONLY | os.O_NOCTTY | os.O_CLOEXEC), "wb")

    def refuse_unwritable(self, size: int) -> None:
        """OSError where no file of `size` bytes can be written."""
        if not self.is_stream:
            _try_folder(self.path.parent, size)
        elif self.descriptor is not None:
            if fcntl.fcntl(self.descriptor, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
                raise OSError(errno.EBADF, "it is open for reading only")
            # Nothing, as bytes: a full device refuses it nevertheless.
            os.write(self.descriptor, b"")
        elif self.path.is_fifo():
            _open_pipe(self.path)
        else:
            with self.open_stream() as stream:
                os.write(stream.fileno(), b"")


def _open_pipe(path: Path) -> None:
    """Open a named pipe once; OSError at once, in place of waiting, where nobody reads it."""
    if path in _PIPES:
        return
    try:
        _PIPES[path] = os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if error.errno == errno.ENXIO:
            raise OSError(errno.ENXIO, "nobody reads this pipe") from None
        raise


def is_stream(path: Path) -> bool:
    """Whether an output is a device or pipe, beside which no other file can be written."""
    return OutputFile.at(path).is_stream


def output_folder(target: Path) -> Path:
    """The path of an output folder without links; `ConfigError` where no folder can get it."""
    mode = _mode(target)
    if mode and not stat.S_ISDIR(mode):
        raise ConfigError(f"{target}: is no folder; name a folder")
    path = _without_links(target)
    # Such a folder cannot be renamed, and would not be replaced in the end.
    if os.path.ismount(path):
        raise ConfigError(f"{target}: a file system is mounted there; name a folder in it")
    return path


def refuse_unwritable(path: Path, size: int = 0) -> None:
    """Find out before long work whether a file (of `size` bytes) can be written: `ConfigError`
    where the path cannot be a file's, `OutputError` without permission or room."""
    output = OutputFile.at(path)
    with named_errors(path):
        output.refuse_unwritable(size)


def refuse_unwritable_folder(target: Path, size: int = 0) -> None:
    """As `refuse_unwritable`, of a folder that is to be written whole."""
    path = output_folder(target)
    with named_errors(target):
        _try_folder(path.parent, size)


def _try_folder(folder: Path, size: int) -> None:
    """OSError where no file can be made in a folder, which may be missing yet."""
    while not os.path.lexists(folder):
        folder = folder.parent
    # Without a name where the system can: a process that is killed now leaves nothing.
    with tempfile.TemporaryFile(dir=folder, buffering=0) as stream:
        stream.write(_BLOCK)
    free = shutil.disk_usage(folder).free
    if free < size:
        needed = f"{size / 1e6:,.0f} MB are needed, and {free / 1e6:,.0f} MB are free"
        raise OSError(errno.ENOSPC, needed)


def _mode(path: Path) -> int:
    """Kind and permissions of what a path leads to; 0 where nothing is there."""
    try:
        return path.stat().st_mode
    except OSError as error:
        if error.errno in _NO_PATHS:
            raise ConfigError(f"{path}: {_NO_PATHS[error.errno]}") from None
        return 0  # missing; whatever else is wrong is said when it is written


def _without_links(path: Path) -> Path:
    return Path(os.path.realpath(path))


def _descriptor(path: Path) -> int | None:
    """The number of an open file of this process, where a path such as /dev/stdout leads to one."""
    # Link by link: the last one leads on to the file that a shell has opened, which must not be
    # replaced under its feet.
    for _ in range(_MOST_LINKS):
        link = _without_links(path.parent) / path.name
        match = _DESCRIPTOR.fullmatch(str(link))
        if match and int(match["pid"]) == os.getpid():
            return int(match["number"])
        if not os.path.islink(link):  # (False where that cannot be seen)
            return None
        path = link.parent / os.readlink(link)
    return None
