"""The one place that writes files: whole, or not at all.

A file or folder is written under a temporary name beside its target, flushed to the disk, and
renamed. A reader therefore sees the old one or the new one, never a half-written one. A folder is
sealed by a manifest of SHA-256 sums, written last."""

import contextlib
import ctypes
import difflib
import hashlib
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import orjson
from safetensors import SafetensorError

from smorm.errors import CheckpointError, ConfigError, DataError, OutputError, SmormError
from smorm.limits import read_limited

MANIFEST = "manifest.json"
_AT_FDCWD, _RENAME_EXCHANGE = -100, 2  # of fcntl.h and linux/fs.h


def fsync_path(path: Path) -> None:
    """Flush a file or folder to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


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


def refuse_unwritable(path: Path) -> None:
    """Find out before long work whether a file can be written there."""
    if path.is_dir():
        raise ConfigError(f"{path}: is a folder; name a file")
    with named_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=path.parent).close()


@contextlib.contextmanager
def atomic_file(path: Path | str) -> Iterator[BinaryIO]:
    """Give a stream to write into; its content becomes `path` only when all went well.
    `ConfigError` where the path is a folder, `OutputError` where the file could not be written."""
    path = Path(path)
    refuse_unwritable(path)  # now, and not when the finished file is to take its name
    with named_errors(path):
        descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        try:
            with os.fdopen(descriptor, "wb") as stream:
                yield stream
                stream.flush()
                os.fsync(stream.fileno())
            # A temporary file is readable by its owner alone.
            os.chmod(name, 0o644)
            os.replace(name, path)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(name)
            raise
        fsync_path(path.parent)


def write_bytes(path: Path | str, content: bytes) -> None:
    """Write a file whole or not at all; errors are those of `atomic_file`."""
    with atomic_file(path) as stream:
        stream.write(content)


def write_text(path: Path | str, content: str) -> None:
    """Write a text file (UTF-8) whole or not at all."""
    write_bytes(path, content.encode("utf-8"))


def write_json(path: Path | str, value: Any) -> None:
    """Write indented JSON whole or not at all. NaN and infinity are written as null."""
    # NumPy numbers as they are: nearly every result holds some.
    options = orjson.OPT_INDENT_2 | orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_APPEND_NEWLINE
    write_bytes(path, orjson.dumps(value, option=options, default=_path_as_text))


def _path_as_text(value: Any) -> str:
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"cannot write {type(value).__name__} as JSON")


def read_json(path: Path | str, error_type: type[SmormError] = DataError) -> Any:
    """Read a JSON file; an error of that type where it is missing, too long or is not JSON."""
    path = Path(path)
    try:
        return orjson.loads(read_limited(path, "result_bytes", error_type))
    except FileNotFoundError as error:
        raise error_type(f"{path}: no such file") from error
    except OSError as error:
        raise error_type(f"{path}: cannot be read: {error.strerror}") from error
    except orjson.JSONDecodeError as error:
        raise error_type(f"{path}:{error.lineno}: not valid JSON: {error.msg}") from error


def nearest_name(path: Path) -> Path | None:
    """The existing path nearest to a missing one, for an error's hint."""
    # up to the first folder that is there: any name of the path may be the misspelt one
    folder = path.parent
    while not folder.is_dir() and folder != folder.parent:
        path, folder = folder, folder.parent
    try:
        names = [entry.name for entry in folder.iterdir()]
    except OSError:
        return None
    near = difflib.get_close_matches(path.name, names, n=1)
    return folder / near[0] if near else None


def sha256(path: Path | str) -> str:
    """SHA-256 of a file, as hex."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def fingerprint(value: Any) -> str:
    """Short stable hash (16 hex digits) of any JSON-like value."""
    plain = orjson.dumps(value, option=orjson.OPT_SORT_KEYS | orjson.OPT_SERIALIZE_NUMPY)
    return hashlib.sha256(plain).hexdigest()[:16]


@contextlib.contextmanager
def atomic_folder(target: Path | str) -> Iterator[Path]:
    """Give a temporary sibling to write into; publish it as `target` only when all went well. Every
    file is flushed and `manifest.json` with the sums is written last; an older folder is swapped
    and removed after. On any error (`OutputError`) `target` is as it was."""
    target = Path(target)
    with named_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
        try:
            yield scratch
            _seal(scratch)
            _publish(scratch, target)
        except BaseException as error:
            shutil.rmtree(scratch, ignore_errors=True)
            if isinstance(error, OutputError):  # the user knows the target, not the scratch folder
                raise OutputError(str(error).replace(str(scratch), str(target))) from error
            raise


def _seal(folder: Path) -> None:
    os.chmod(folder, 0o755)
    sums: dict[str, str] = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.name != MANIFEST:
            fsync_path(path)
            sums[path.relative_to(folder).as_posix()] = sha256(path)
    # Last: a folder that has its manifest has everything.
    write_json(folder / MANIFEST, {"sha256": sums})
    fsync_path(folder)


def _publish(scratch: Path, target: Path) -> None:
    old = scratch
    if not target.exists():
        os.rename(scratch, target)
    elif not _exchange(scratch, target):
        old = _replace_in_two_steps(scratch, target)
    fsync_path(target.parent)
    shutil.rmtree(old, ignore_errors=True)


def _exchange(first: Path, second: Path) -> bool:
    """Swap two folders in one step, so that neither is ever missing; False where that fails."""
    # Python has no function for it. Linux has renameat2, and not every file system takes it.
    if sys.platform != "linux":
        return False
    renameat2 = getattr(ctypes.CDLL(None), "renameat2", None)
    if renameat2 is None:
        return False
    paths = (_AT_FDCWD, bytes(first), _AT_FDCWD, bytes(second))
    return bool(renameat2(*paths, _RENAME_EXCHANGE) == 0)


def _replace_in_two_steps(scratch: Path, target: Path) -> Path:
    """`target` is missing between them. Returns the folder that holds the old one."""
    aside = Path(tempfile.mkdtemp(prefix=f".{target.name}.old.", dir=target.parent))
    os.rename(target, aside / "old")
    try:
        os.rename(scratch, target)
    except OSError:
        os.rename(aside / "old", target)
        raise
    return aside


def is_sealed(folder: Path | str) -> bool:
    """Whether a folder has its manifest, and so was written whole (no sum is computed)."""
    return (Path(folder) / MANIFEST).is_file()


def verify_folder(folder: Path | str) -> None:
    """Check every file of a sealed folder against its manifest."""
    folder = Path(folder)
    if not is_sealed(folder):
        raise CheckpointError(f"{folder}: {MANIFEST} is missing: it was never written whole")
    for name, expected in _sums(folder).items():
        path = folder / name
        if not path.is_file():
            raise CheckpointError(f"{path}: listed in {MANIFEST} but missing")
        if sha256(path) != expected:
            raise CheckpointError(f"{path}: its SHA-256 differs from {MANIFEST}: it is damaged")


def _sums(folder: Path) -> dict[str, str]:
    try:
        sums = read_json(folder / MANIFEST)["sha256"]
        return {str(name): str(expected) for name, expected in sums.items()}
    except (DataError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{folder / MANIFEST}: it is damaged") from error
