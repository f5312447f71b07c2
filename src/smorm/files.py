"""The one place that writes files: whole, or not at all.

A file or folder is written under a hidden name beside its target (`smorm.unfinished`), flushed to
the disk, and renamed. A reader therefore sees the old one or the new one, never a half-written one.
A folder is sealed by a manifest of SHA-256 sums, written last. What a target may be (a link, a
device) is decided in `smorm.outputs`. Permissions are what the umask leaves, whoever wrote."""

import contextlib
import ctypes
import difflib
import hashlib
import os
import shutil
import stat
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import orjson

from smorm import unfinished
from smorm.errors import CheckpointError, DataError, OutputError, SmormError
from smorm.limits import deeper_than, limit, read_limited, refusal
from smorm.outputs import OutputFile, output_folder
from smorm.outputs import is_stream as is_stream
from smorm.outputs import named_errors as named_errors
from smorm.outputs import refuse_unwritable as refuse_unwritable
from smorm.outputs import refuse_unwritable_folder as refuse_unwritable_folder
from smorm.unfinished import remove_folder as remove_folder
from smorm.unfinished import scratch_folder as scratch_folder

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
def atomic_file(path: Path | str) -> Iterator[BinaryIO]:
    """Give a stream to write into; its content becomes `path` only when all went well. A device or
    pipe gets the content then. `ConfigError` where the path is of no file, `OutputError` where it
    could not be written."""
    path = Path(path)
    output = OutputFile.at(path)
    with named_errors(path):
        if not output.is_stream:
            with _replaced(output.path) as hidden, hidden.open("wb") as stream:
                yield stream
            return
        with tempfile.TemporaryFile() as content:
            yield content
            content.seek(0)
            with output.open_stream() as stream:
                shutil.copyfileobj(content, stream)


@contextlib.contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """As `atomic_file`, for content that is written by path: give a hidden one beside `path`."""
    with named_errors(path), _replaced(OutputFile.at(path).path) as hidden:
        yield hidden


@contextlib.contextmanager
def _replaced(path: Path) -> Iterator[Path]:
    """A hidden file that takes the name of `path` in the end."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished.sweep(path.parent)
    hidden, mode = unfinished.new_file(path)
    try:
        yield hidden
        # It may be another file by now, with permissions of its own.
        _set_mode(hidden, mode)
        fsync_path(hidden)
        os.replace(hidden, path)
    except BaseException:
        unfinished.discard(hidden)
        raise
    fsync_path(path.parent)


def _set_mode(path: Path, mode: int) -> None:
    # Not every file system can change permissions, and there they are equal.
    if stat.S_IMODE(path.stat().st_mode) != mode:
        path.chmod(mode)


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
    """Read a JSON file; an error of that type where it is missing, too long, too deep or not
    JSON."""
    path = Path(path)
    try:
        value = orjson.loads(read_limited(path, "result_bytes", error_type))
    except FileNotFoundError as error:
        raise error_type(f"{path}: no such file") from error
    except OSError as error:
        raise error_type(f"{path}: cannot be read: {error.strerror}") from error
    except orjson.JSONDecodeError as error:
        raise error_type(f"{path}:{error.lineno}: not valid JSON: {error.msg}") from error
    # Whoever walks through it may do so by calls in calls.
    if deeper_than(value, limit("depth")):
        raise error_type(f"{path}: nested deeper: {refusal('depth')}")
    return value


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
def atomic_folder(target: Path | str, size: int = 0) -> Iterator[Path]:
    """Give a hidden sibling to write into; publish it as `target` only when all went well. Every
    file is flushed and `manifest.json` with the sums is written last; an older folder is swapped
    and removed after. On any error `target` is as it was. `OutputError`, at once where there is no
    room for `size` bytes; `ConfigError` where the path is of no folder."""
    target = Path(target)
    path = output_folder(target)
    refuse_unwritable_folder(target, size)
    with named_errors(target):
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished.sweep(path.parent)
        scratch = unfinished.new_folder(path)
        try:
            yield scratch
            _seal(scratch)
            _publish(scratch, path)
        except BaseException as error:
            unfinished.discard(scratch)
            if isinstance(error, OutputError):  # the user knows the target, not the scratch folder
                raise OutputError(str(error).replace(str(scratch), str(target))) from error
            raise


def _seal(folder: Path) -> None:
    """Give all files the permissions of new ones, flush them, and write the manifest."""
    new, mode = unfinished.new_file(folder / MANIFEST)
    new.unlink()
    sums: dict[str, str] = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.name != MANIFEST:
            # Libraries write temporary files first, readable by their owner alone.
            _set_mode(path, mode)
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
    unfinished.discard(old)


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
    """`target` is missing between them. Returns the folder that holds the old one, from which it
    comes back should this process be killed in between (`unfinished.sweep`)."""
    aside = unfinished.new_folder(target, ending=".old")
    os.rename(target, aside / target.name)
    try:
        os.rename(scratch, target)
    except OSError:
        os.rename(aside / target.name, target)
        aside.rmdir()
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
