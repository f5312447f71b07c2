"""The bytes of a data file: plain, gzip or zstd, unpacked under guard, in UTF-8 and no other
encoding."""

import gzip
import io
import re
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from smorm.errors import DataError
from smorm.file_kinds import HEAD, other_kind
from smorm.limits import limit, refusal

BOM = b"\xef\xbb\xbf"
# By its first bytes: a name can be wrong.
_MAGIC = {b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd"}
_BUFFER = 1 << 20
# The longer marks first: that of UTF-32 begins with one of UTF-16.
_MARKS = {
    b"\xff\xfe\0\0": "UTF-32", b"\0\0\xfe\xff": "UTF-32",
    b"\xff\xfe": "UTF-16", b"\xfe\xff": "UTF-16",
}  # fmt: skip


class _Counted(io.RawIOBase):
    """What a packed file unpacks to; refused where it is a bomb."""

    def __init__(self, path: Path, packing: str):
        self._path, self._packing = path, packing
        # Repeated rows shrink more by zstd than by gzip, whose window is 32 KiB.
        self._limit = f"{packing}_ratio"
        # The ratios count only beyond this much.
        self._most = max(limit("unpacked_bytes"), path.stat().st_size * limit(self._limit))
        self._count = 0
        self._stream = _opened(path, packing)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        count: int = self._stream.readinto(buffer)
        self._count += count
        if self._count > self._most:
            problem = f"refused as a {self._packing} bomb: unpacks to {refusal(self._limit)}"
            raise DataError(f"{self._path}: {problem}")
        return count

    def close(self) -> None:
        self._stream.close()
        super().close()


def _opened(path: Path, packing: str) -> Any:
    if packing == "gzip":
        return gzip.open(path, "rb")
    import pyarrow

    return pyarrow.input_stream(str(path), compression="zstd")


@contextmanager
def unpacked(path: Path) -> Iterator[io.BufferedReader]:
    """The content of a file; `DataError` where it cannot be read, is damaged, a bomb, in UTF-16
    or UTF-32, or of another kind than its name says."""
    packing = ""
    try:
        with path.open("rb") as file:
            head = file.read(4)
        packing = next((kind for magic, kind in _MAGIC.items() if head.startswith(magic)), "")
        with io.BufferedReader(_raw(path, packing), _BUFFER) as stream:
            _refuse_encoding(path, stream.peek(HEAD)[:4])
            refuse_other_kinds(path, stream.peek(HEAD)[:HEAD].removeprefix(BOM))
            yield stream
    except (EOFError, zlib.error) as error:
        raise DataError(f"{path}: {_damaged(packing, error)}") from error
    except OSError as error:
        # The libraries' own errors of a damaged file have no number of the system's.
        problem = f"cannot be read: {error.strerror or error}"
        if packing and error.errno is None:
            problem = _damaged(packing, error)
        raise DataError(f"{path}: {problem}") from error


def _raw(path: Path, packing: str) -> Any:
    if packing:
        return _Counted(path, packing)
    return path.open("rb", buffering=0)


def _damaged(packing: str, error: Exception) -> str:
    return f"the {packing} file is cut short or damaged ({error}): fetch it again"


def _refuse_encoding(path: Path, head: bytes) -> None:
    encoding = next((name for magic, name in _MARKS.items() if head.startswith(magic)), "")
    # Without a mark most bytes of its first characters are zero.
    if not encoding and head.count(b"\0") == 3:
        encoding = "UTF-32"
    if not encoding and len(head) > 1 and head[:2].count(b"\0") == 1:
        encoding = "UTF-16"
    if encoding:
        raise DataError(
            f"{path}: the file is {encoding}, expected UTF-8: {_remedy(path, encoding)}"
        )


def refuse_other_kinds(path: Path, head: bytes) -> None:
    """`DataError` where a file begins as other kinds do: a web page, a pointer, an archive."""
    if kind := other_kind(head):
        raise DataError(f"{path}: the file is {kind}")


# A run of blank lines, to the end of its last one.
_BLANK = re.compile(rb"[ \t\r\n]*\n")


def pass_blank_lines(stream: io.BufferedReader) -> int:
    """Pass over blank lines that begin here, many at a time; how many they were."""
    count = 0
    while match := _BLANK.match(stream.peek(1)):
        count += stream.read(match.end()).count(b"\n")
    return count


def not_utf8(path: Path, content: bytes) -> str | None:
    """What is wrong with content that is not UTF-8, and what to do; None where it is."""
    try:
        content.decode()
    except UnicodeDecodeError as error:
        column = error.start - content.rfind(b"\n", 0, error.start)
        problem = f"byte 0x{content[error.start]:02X} at column {column} is not UTF-8"
        return f"{problem}: {_remedy(path, 'CP1252')}, or whatever its encoding is"
    return None


def _remedy(path: Path, encoding: str) -> str:
    return f"convert the file (iconv -f {encoding} -t UTF-8 {path.name} > utf8_{path.name})"
