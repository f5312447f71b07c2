"""Rows from JSON files, guarded: a hostile or damaged file gives one line, never a crash."""

import io
import itertools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson

from smorm.data.census import BadRecord, Defect
from smorm.data.streams import BOM, LIMITS, Limits, not_utf8, unpacked
from smorm.errors import DataError

Row = dict[str, Any]
Scanned = tuple[str, Row | BadRecord]
# A line with its number, or why it could not be read.
_Line = tuple[int, bytes | BadRecord]

MAX_RAW = 1000  # bytes of an overlong line that go into the quarantine
_STRING = re.compile(rb'"(?:[^"\\]|\\.)*"')
# A line that ends with one of them is no whole object.
_OPEN_ENDS = (b"{", b"[", b",", b":")
_SPLITS = frozenset((
    "data", "dev", "eval", "rows", "test", "train", "training", "val", "valid", "validation",
))  # fmt: skip


def scan_json(path: Path, split: str = "train", limits: Limits = LIMITS) -> Iterator[Scanned]:
    """`(path:line, row)` of a JSON file, whatever it is called: JSON lines, objects printed over
    several lines, an array, or an object of splits, of which `split` is read (in the last two the
    number is the item's, from 1). A row that cannot be parsed is a `BadRecord`: orjson refuses NaN,
    infinity, lone surrogates, invalid UTF-8 and nesting deeper than 1,024."""
    with unpacked(path, limits) as stream:
        head = stream.peek(1).removeprefix(BOM).lstrip()
        first, _, rest = head.partition(b"\n")
        if head.startswith(b"[") and not (rest.strip() and _is_json(first)):
            yield from _array(path, stream, limits)
            return
        # In a file of JSON lines a value is a record; a `.json` file may be one value.
        most = limits.array_bytes if ".json" in path.suffixes else limits.line_bytes
        lines = _lines(path, stream, most)
        if head.startswith(b"{") and first.rstrip().endswith(_OPEN_ENDS) and not _is_json(first):
            lines = _joined(path, lines, most)
        for number, line in lines:
            where, row = _parsed(path, number, line)
            splits = None if isinstance(row, BadRecord) else _splits(row, split)
            if splits is None:
                yield where, row
            else:
                yield from _rows_of(path, splits, split)


def _is_json(line: bytes) -> bool:
    try:
        orjson.loads(line)
    except orjson.JSONDecodeError:
        return False
    return True


def _array(path: Path, stream: io.BufferedReader, limits: Limits) -> Iterator[Scanned]:
    content = stream.read(limits.array_bytes + 1)
    if len(content) > limits.array_bytes:
        size = f"{limits.array_bytes:,} bytes"
        raise DataError(f"{path}: a JSON array of over {size}: write it as JSON lines")
    try:
        rows = orjson.loads(content.removeprefix(BOM))
    except orjson.JSONDecodeError as error:
        problem = not_utf8(path, content) or f"not valid JSON: {error.msg}"
        raise DataError(f"{path}:{error.lineno}: line: {problem}") from error
    for number, row in enumerate(rows, start=1):
        yield _checked(f"{path}:{number}", row)


def _lines(path: Path, stream: io.BufferedReader, most: int) -> Iterator[_Line]:
    """The lines that hold something, each of at most so many bytes."""
    for number in itertools.count(1):
        # one byte over the limit shows that a line is longer
        line = stream.readline(most + 1)
        if not line:
            return
        if len(line) > most:
            raw = line[:MAX_RAW].decode("utf-8", errors="replace")
            # the rest of it is passed over in pieces, never held
            while line and not line.endswith(b"\n"):
                line = stream.readline(most)
            yield number, _too_long(path, number, most, raw)
            continue
        if number == 1:
            line = line.removeprefix(BOM)
        if line.strip():
            yield number, line


def _too_long(path: Path, number: int, most: int, raw: str) -> BadRecord:
    problem = f"longer than {most:,} bytes, the most that is read of one record"
    return BadRecord(f"{path}:{number}", "line", Defect.LINE_TOO_LONG, problem, raw)


def _joined(path: Path, lines: Iterator[_Line], most: int) -> Iterator[_Line]:
    """Objects printed over several lines, each as one line under its first line's number."""
    block: list[bytes] = []
    start = depth = size = 0
    for number, line in lines:
        if isinstance(line, BadRecord):
            yield number, line
            continue
        # Of indented objects the next one begins in the first column, whatever is wrong with this.
        if line.startswith(b"{") and len(block) > 1 and block[1][:1].isspace():
            yield start, b"".join(block)
            block, depth, size = [], 0, 0
        start = start if block else number
        block.append(line)
        size += len(line)
        if size > most:
            raise _too_long(path, start, most, block[0].decode("utf-8", errors="replace"))
        # Strings of valid JSON hold no line break.
        plain = _STRING.sub(b"", line)
        depth += sum(map(plain.count, (b"{", b"["))) - sum(map(plain.count, (b"}", b"]")))
        if depth <= 0:
            yield start, b"".join(block)
            block, depth, size = [], 0, 0
    if block:
        yield start, b"".join(block)


def _parsed(path: Path, number: int, line: bytes | BadRecord) -> Scanned:
    where = f"{path}:{number}"
    if isinstance(line, BadRecord):
        return where, line
    try:
        return _checked(where, orjson.loads(line))
    except orjson.JSONDecodeError as error:
        defect, problem = Defect.NOT_JSON, f"not valid JSON: {error.msg} at column {error.colno}"
        if encoding := not_utf8(path, line):
            defect, problem = Defect.NOT_UTF8, encoding
        raw = line.decode("utf-8", errors="replace").rstrip("\r\n")
        return where, BadRecord(where, "line", defect, problem, raw)


def _rows_of(path: Path, splits: dict[str, list[Any]], split: str) -> Iterator[Scanned]:
    """Of an object of splits the rows of one of them."""
    if split == "train" and len(splits) == 1:
        # A single list is the training data, unless its name says another thing.
        (name,) = splits
        split = split if name.startswith(("test", "val")) else name
    if split not in splits:
        raise DataError(f"{path}: no split {split!r}; it has: {', '.join(splits)}")
    for number, item in enumerate(splits[split], start=1):
        yield _checked(f"{path}:{number}", item)


def _splits(row: Row, split: str) -> dict[str, list[Any]] | None:
    """The lists of rows in an object; None where it is a row itself."""
    if split not in row and not row.keys() <= _SPLITS:
        return None
    lists = {name: rows for name, rows in row.items() if _holds_rows(rows)}
    # By their names alone: a row too may be a list of objects under one name (`responses`).
    if split in lists or (lists.keys() == row.keys() and row.keys() <= _SPLITS):
        return lists or None
    return None


def _holds_rows(value: object) -> bool:
    if not isinstance(value, list) or not value or not isinstance(value[0], dict):
        return False
    # Messages are a part of a row.
    return "role" not in value[0] and "from" not in value[0]


def _checked(where: str, row: object) -> Scanned:
    if isinstance(row, dict):
        return where, row
    raw = orjson.dumps(row).decode()
    problem = f"{type(row).__name__}, expected an object with named fields"
    return where, BadRecord(where, "line", Defect.NOT_AN_OBJECT, problem, raw)
