"""Rows from CSV files: the first line names the columns, every value is text, an empty one null."""

import csv
import io
from collections.abc import Iterator
from pathlib import Path

from smorm.data.census import BadRecord, Defect
from smorm.data.jsonlines import Scanned
from smorm.data.streams import BOM, LIMITS, Limits, not_utf8, unpacked
from smorm.errors import DataError

# pandas writes its index first, without a name.
_UNNAMED = "index"


def scan_csv(path: Path, limits: Limits = LIMITS) -> Iterator[Scanned]:
    """`(path:line, row)`, where the line is the row's first one. A row with more or fewer values
    than there are columns, or that is not UTF-8, is a `BadRecord`."""
    # The limit is the process's own; its default would refuse a long answer.
    csv.field_size_limit(limits.line_bytes)
    with unpacked(path, limits) as stream:
        reader = csv.reader(_lines(path, stream, limits.line_bytes), strict=True)
        line = 1
        names: list[str] = []
        try:
            for values in reader:
                if names and values:
                    yield _row(path, line, names, values)
                elif values:
                    names = _columns(path, values)
                line = reader.line_num + 1
        except csv.Error as error:
            problem = f"{error}; from line {line} on it is not readable as CSV"
            raise DataError(f"{path}:{reader.line_num}: {problem}") from error


def _lines(path: Path, stream: io.BufferedReader, most: int) -> Iterator[str]:
    number = 0
    while line := stream.readline(most + 1):
        number += 1
        if len(line) > most:
            raise DataError(f"{path}:{number}: line: longer than {most:,} bytes")
        if number == 1:
            line = line.removeprefix(BOM)
        # What is not UTF-8 is found again in its row.
        yield line.decode("utf-8", errors="surrogateescape")


def _columns(path: Path, values: list[str]) -> list[str]:
    if problem := not_utf8(path, _content(values)):
        raise DataError(f"{path}:1: {problem}")
    names = [name.strip() or _UNNAMED for name in values]
    for separator in (";", "\t"):
        if len(names) == 1 and separator in names[0]:
            problem = f"its columns are separated by {separator!r}, expected commas"
            raise DataError(f"{path}:1: {problem}: write it again with commas")
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise DataError(f"{path}:1: columns of the same name: {', '.join(twice)}")
    return names


def _row(path: Path, line: int, names: list[str], values: list[str]) -> Scanned:
    where = f"{path}:{line}"
    content = _content(values)
    raw = content.decode("utf-8", errors="replace")
    if problem := not_utf8(path, content):
        return where, BadRecord(where, "line", Defect.NOT_UTF8, problem, raw)
    if len(values) != len(names):
        problem = f"{len(values)} values, expected {len(names)} (a comma in a text needs quotes)"
        return where, BadRecord(where, "line", Defect.WRONG_COUNT, problem, raw)
    return where, {name: value or None for name, value in zip(names, values, strict=True)}


def _content(values: list[str]) -> bytes:
    """The values as the file has them, but for their quotes."""
    return ",".join(values).encode("utf-8", errors="surrogateescape")
