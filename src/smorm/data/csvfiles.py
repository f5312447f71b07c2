"""Rows from CSV files: the first line names the columns, every value is text, an empty one null.
Columns are separated by commas, or by the semicolons, tabs or bars of a first line without a
comma."""

import csv
import io
import itertools
from collections.abc import Iterator
from pathlib import Path

from smorm.data.census import BadRecord, Defect
from smorm.data.jsonlines import Scanned
from smorm.data.streams import BOM, not_utf8, pass_blank_lines, unpacked
from smorm.errors import DataError
from smorm.limits import limit, refusal
from smorm.printing import PROBLEM, cut

# pandas writes its index first, without a name.
_UNNAMED = "index"


def scan_csv(path: Path) -> Iterator[Scanned]:
    """`(path:line, row)`, where the line is the row's first one. A row with more or fewer values
    than there are columns, or that is not UTF-8, is a `BadRecord`."""
    # The limit is the process's own; its default would refuse a long answer.
    csv.field_size_limit(limit("line_bytes"))
    with unpacked(path) as stream:
        lines = _Lines(path, stream)
        header = next(lines, "")
        separator = _separator(header)
        reader = csv.reader(
            itertools.chain([header], lines),
            strict=True,
            delimiter=separator,
            # A file that has blanks there has them before the quotes of its texts too.
            skipinitialspace=f"{separator} " in header,
        )
        names: list[str] = []
        try:
            for values in reader:
                if names and values:
                    yield _row(path, lines.first, names, values)
                elif values:
                    names = _columns(path, values)
                lines.row_bytes = 0
        except csv.Error as error:
            problem = f"{_problem(error)}; from line {lines.first} on it is not readable as CSV"
            raise DataError(f"{path}:{lines.number}: {problem}") from error


def _problem(error: csv.Error) -> str:
    """The library's words, with what to do where they do not say it."""
    text = str(error)
    if "new-line character" in text:
        return "a carriage return outside of quotes; lines end in line breaks (tr '\\r' '\\n')"
    if "expected after" in text:
        return f"{text} (a quote in a quoted text is written twice)"
    return text


def _separator(header: str) -> str:
    # A comma in a name is no sign of anything else: names of columns are plain.
    for separator in (";", "\t", "|"):
        if separator in header and "," not in header:
            return separator
    return ","


class _Lines:
    """Lines of a CSV file as text: `first` is the row's first line, `number` the last one read. A
    row, which may have many lines, is refused where it is over the limit of one line."""

    def __init__(self, path: Path, stream: io.BufferedReader) -> None:
        self._path, self._stream, self._most = path, stream, limit("line_bytes")
        self.number = self.first = self.row_bytes = 0

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line = self._stream.readline(self._most + 1)
        if not self.row_bytes and not line.strip():
            # Between rows blank lines say nothing, and they may be many.
            self.number += bool(line) + pass_blank_lines(self._stream)
            line = self._stream.readline(self._most + 1)
        if not line:
            raise StopIteration
        self.number += 1
        if not self.row_bytes:
            self.first = self.number
        self.row_bytes += len(line)
        if self.row_bytes > self._most:
            raise DataError(f"{self._path}:{self.first}: line: {refusal('line_bytes')}")
        if self.number == 1:
            line = line.removeprefix(BOM)
        # What is not UTF-8 is found again in its row.
        return line.decode("utf-8", errors="surrogateescape")


def _columns(path: Path, values: list[str]) -> list[str]:
    if problem := not_utf8(path, _content(values)):
        raise DataError(f"{path}:1: {problem}")
    if len(values) > limit("columns"):
        raise DataError(f"{path}:1: {refusal('columns', len(values))}")
    names = [name.strip() or _UNNAMED for name in values]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise DataError(f"{path}:1: columns of the same name: {cut(', '.join(twice), PROBLEM)}")
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
