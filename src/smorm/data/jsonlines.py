"""Rows from JSON files, guarded: a hostile or damaged file gives one line, never a crash."""

import gzip
import zlib
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from smorm.data.census import BadRecord, Defect
from smorm.errors import DataError

Row = dict[str, Any]
Scanned = tuple[str, Row | BadRecord]

BOM = b"\xef\xbb\xbf"
MAX_RAW = 1000  # bytes of an overlong line that go into the quarantine


@dataclass(frozen=True, slots=True)
class Limits:
    """Sizes beyond which a file is refused rather than read into memory (bytes, and a ratio)."""

    line_bytes: int = 32 << 20
    array_bytes: int = 1 << 30
    gzip_ratio: int = 256
    gzip_free_bytes: int = 64 << 20  # the ratio counts only beyond this much unpacked


LIMITS = Limits()


class _Stream:
    def __init__(self, path: Path, limits: Limits):
        self.path, self.limits, self.unpacked = path, limits, 0
        self.size = path.stat().st_size
        # by its first bytes: a name can be wrong
        with path.open("rb") as head:
            self.packed = head.read(2) == b"\x1f\x8b"
        opener: Any = open
        if self.packed:
            opener = gzip.open
        self.stream = opener(path, "rb")

    def line(self, at_most: int) -> bytes:
        return self._counted(self.stream.readline(at_most))

    def read_all(self, at_most: int) -> bytes:
        """All bytes, or some more than `at_most` where there are more."""
        content = bytearray()
        while len(content) <= at_most and (block := self.stream.read(1 << 20)):
            content += self._counted(block)
        return bytes(content)

    def close(self) -> None:
        self.stream.close()

    def _counted(self, block: bytes) -> bytes:
        self.unpacked += len(block)
        ratio = self.limits.gzip_ratio
        if self.packed and self.unpacked > max(self.limits.gzip_free_bytes, self.size * ratio):
            bomb = f"unpacks to more than {ratio} times its size: refused as a gzip bomb"
            raise DataError(f"{self.path}: {bomb}; unpack it yourself if you trust it")
        return block


def scan_json(path: Path, limits: Limits = LIMITS) -> Iterator[Scanned]:
    """`(path:line, row)` of a JSONL file, or of a JSON file that holds JSON lines or an array (the
    number is the item's, from 1); gzip or plain. A row that cannot be parsed is a `BadRecord`:
    orjson refuses NaN, infinity, lone surrogates, invalid UTF-8 and nesting deeper than 1,024."""
    try:
        with closing(_Stream(path, limits)) as stream:
            if path.name.removesuffix(".gz").endswith(".json") and _is_array(path, limits):
                yield from _array(path, stream, limits)
            else:
                yield from _lines(path, stream, limits)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        problem = f"the gzip file is cut short or damaged ({error}): fetch it again"
        raise DataError(f"{path}: {problem}") from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from error


def _is_array(path: Path, limits: Limits) -> bool:
    with closing(_Stream(path, limits)) as stream:
        while line := stream.line(1 << 16):
            if start := line.removeprefix(BOM).strip():
                return start.startswith(b"[")
    return False


def _array(path: Path, stream: _Stream, limits: Limits) -> Iterator[Scanned]:
    content = stream.read_all(limits.array_bytes).removeprefix(BOM)
    if len(content) > limits.array_bytes:
        size = f"{limits.array_bytes:,} bytes"
        raise DataError(f"{path}: a JSON array of over {size}: write it as JSON lines")
    try:
        rows = orjson.loads(content)
    except orjson.JSONDecodeError as error:
        raise DataError(f"{path}:{error.lineno}: line: not valid JSON: {error.msg}") from error
    for number, row in enumerate(rows, start=1):
        yield _checked(f"{path}:{number}", row)


def _lines(path: Path, stream: _Stream, limits: Limits) -> Iterator[Scanned]:
    number = 0
    # one byte over the limit shows that a line is longer
    while line := stream.line(limits.line_bytes + 1):
        number += 1
        where = f"{path}:{number}"
        if len(line) > limits.line_bytes:
            raw = line[:MAX_RAW].decode("utf-8", errors="replace")
            # the rest of it is passed over in pieces, never held
            while line and not line.endswith(b"\n"):
                line = stream.line(limits.line_bytes)
            limit = f"{limits.line_bytes:,} bytes, the most that is read of one record"
            yield where, BadRecord(where, "line", Defect.LINE_TOO_LONG, f"longer than {limit}", raw)
            continue
        if number == 1:
            line = line.removeprefix(BOM)
        if not line.strip():
            continue
        try:
            yield _checked(where, orjson.loads(line))
        except orjson.JSONDecodeError as error:
            problem = f"not valid JSON: {error.msg} at column {error.colno}"
            if line.startswith((b"\xff\xfe", b"\xfe\xff")):
                problem = "the file is UTF-16, expected UTF-8"
            raw = line.decode("utf-8", errors="replace").rstrip("\r\n")
            yield where, BadRecord(where, "line", Defect.NOT_JSON, problem, raw)


def _checked(where: str, row: object) -> Scanned:
    if isinstance(row, dict):
        return where, row
    raw = orjson.dumps(row).decode()
    problem = f"{type(row).__name__}, expected an object with named fields"
    return where, BadRecord(where, "line", Defect.NOT_AN_OBJECT, problem, raw)
