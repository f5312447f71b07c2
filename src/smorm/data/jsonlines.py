"""Rows from JSON files, guarded: a hostile or damaged file gives one line, never a crash."""

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson

from smorm.data.census import BadRecord, Defect
from smorm.data.jsonvalues import STRING, Parser, Unfit, items_of_array
from smorm.data.streams import BOM, not_utf8, pass_blank_lines, unpacked
from smorm.errors import DataError
from smorm.limits import limit, refusal
from smorm.printing import PROBLEM, cut

Row = dict[str, Any]
Scanned = tuple[str, Row | BadRecord]
# A line with its number, or why it could not be read.
_Line = tuple[int, bytes | BadRecord]

MAX_RAW = 1000  # bytes of an overlong line that go into the quarantine
# What follows in an overlong line is passed over; of a line that never ends no more than this.
_MOST_PASSED = 1 << 32
# A line that ends with one of them is no whole object.
_OPEN_ENDS = (b"{", b"[", b",", b":")
SPLITS = frozenset((
    "data", "dev", "eval", "rows", "test", "train", "training", "val", "valid", "validation",
))  # fmt: skip


def scan_json(path: Path, split: str = "train") -> Iterator[Scanned]:
    """`(path:line, row)` of a JSON file, whatever it is called: JSON lines, objects printed over
    several lines, an array, or an object of splits, of which `split` is read (in the last two the
    number is the item's, from 1). A row that cannot be parsed or is over a limit is a `BadRecord`:
    orjson refuses NaN, infinity, lone surrogates and invalid UTF-8."""
    with unpacked(path) as stream:
        head = stream.peek(1).removeprefix(BOM).lstrip()
        first, _, rest = head.partition(b"\n")
        if head.startswith(b"[") and not (rest.strip() and _is_json(first)):
            parser = Parser()
            for number, item in items_of_array(path, stream):
                yield _parsed(path, number, item, parser)
            return
        # In a file of JSON lines a value is a record; a `.json` file may be one value.
        kind = "json" if ".json" in path.suffixes else "line"
        most = f"{kind}_bytes"
        parser = Parser("json_values" if kind == "json" else "row_values")
        lines = _lines(path, stream, most)
        if head.startswith(b"{") and first.rstrip().endswith(_OPEN_ENDS) and not _is_json(first):
            lines = _joined(path, lines, most)
        rows = (_parsed(path, number, line, parser) for number, line in lines)
        for where, row in rows:
            splits = None if isinstance(row, BadRecord) else _splits(row, split)
            columns = isinstance(row, dict) and _are_columns(row)
            # An object of splits or columns is the whole file; one of several is a row.
            second = next(rows, None) if splits or columns else None
            if splits and second is None:
                yield from _rows_of(path, splits, split)
                return
            if columns and second is None:
                problem = "the file is one object of columns, expected an object for each row"
                remedy = "in pandas to_json(FILE, orient='records', lines=True)"
                raise DataError(f"{path}: {problem}: {remedy}")
            yield where, row
            if second is not None:
                yield second
            break
        yield from rows


def _is_json(line: bytes) -> bool:
    try:
        orjson.loads(line)
    except orjson.JSONDecodeError:
        return False
    return True


def _lines(path: Path, stream: io.BufferedReader, name: str) -> Iterator[_Line]:
    """The lines that hold something, each within the limit of that name."""
    most = limit(name)
    number = 0
    # one byte over the limit shows that a line is longer
    while line := stream.readline(most + 1):
        number += 1
        if len(line) > most:
            raw = line[:MAX_RAW].decode("utf-8", errors="replace")
            yield (
                number,
                BadRecord(f"{path}:{number}", "line", Defect.LINE_TOO_LONG, refusal(name), raw),
            )
            _pass_line(path, stream, number, line)
            continue
        if number == 1:
            line = line.removeprefix(BOM)
        if line.strip():
            yield number, line
        else:
            number += pass_blank_lines(stream)


def _pass_line(path: Path, stream: io.BufferedReader, number: int, line: bytes) -> None:
    """Pass over the rest of a line in pieces, never held."""
    passed = 0
    while line and not line.endswith(b"\n"):
        if passed > _MOST_PASSED:
            raise DataError(f"{path}:{number}: line: it does not end within {passed:,} bytes")
        line = stream.readline(1 << 20)
        passed += len(line)


def _joined(path: Path, lines: Iterator[_Line], name: str) -> Iterator[_Line]:
    """Objects printed over several lines, each as one line under its first line's number."""
    most = limit(name)
    block, count = bytearray(), 0
    start = depth = 0
    indented = False
    for number, line in lines:
        if isinstance(line, BadRecord):
            yield number, line
            continue
        # Of indented objects the next one begins in the first column, whatever is wrong with this.
        if line.startswith(b"{") and indented:
            yield start, bytes(block)
            block, count, depth, indented = bytearray(), 0, 0, False
        start = start if block else number
        block += line
        count += 1
        if count == 2:
            indented = line[:1].isspace()
        if len(block) > most:
            raw = block[:MAX_RAW].decode("utf-8", errors="replace")
            raise BadRecord(f"{path}:{start}", "line", Defect.LINE_TOO_LONG, refusal(name), raw)
        # Strings of valid JSON hold no line break.
        plain = STRING.sub(b"", line)
        depth += sum(map(plain.count, (b"{", b"["))) - sum(map(plain.count, (b"}", b"]")))
        if depth <= 0:
            yield start, bytes(block)
            block, count, depth, indented = bytearray(), 0, 0, False
    if block:
        yield start, bytes(block)


def _parsed(path: Path, number: int, line: bytes | BadRecord, parser: Parser) -> Scanned:
    where = f"{path}:{number}"
    if isinstance(line, BadRecord):
        return where, line
    try:
        return _checked(where, parser.parse(line))
    except orjson.JSONDecodeError as error:
        problem = f"not valid JSON: {error.msg} at column {error.colno}{_remedy(line, error)}"
        defect = Defect.NOT_JSON
        if encoding := not_utf8(path, line):
            defect, problem = Defect.NOT_UTF8, encoding
    except Unfit as unfit:
        defect, problem = unfit.defect, unfit.problem
    raw = line.decode("utf-8", errors="replace").rstrip("\r\n")
    return where, BadRecord(where, "line", defect, problem, raw)


def _remedy(line: bytes, error: orjson.JSONDecodeError) -> str:
    """What writes such a line, and what to do; nothing where it is not known."""
    rest = error.doc[error.pos :]
    if rest.startswith(("NaN", "Infinity", "-Infinity")):
        return "; JSON has no NaN and no infinity: write null"
    if rest.startswith(("'", "None", "True", "False")):
        return "; Python prints objects so: write them by json.dumps"
    if rest.strip() == "," or (not rest and line.rstrip().endswith(b",")):
        return "; a comma stands behind the object: leave it out, or write a whole array"
    if "\r" in error.doc.rstrip("\r\n"):
        return "; where lines end in a carriage return alone, write line breaks (tr '\\r' '\\n')"
    return ""


def _rows_of(path: Path, splits: dict[str, list[Any]], split: str) -> Iterator[Scanned]:
    """Of an object of splits the rows of one of them."""
    if split == "train" and len(splits) == 1:
        # A single list is the training data, unless its name says another thing.
        (name,) = splits
        split = split if name.startswith(("test", "val")) else name
    if split not in splits:
        has = cut(", ".join(splits), PROBLEM)
        raise DataError(f"{path}: no split {split!r}; it has: {has}")
    for number, item in enumerate(splits[split], start=1):
        yield _checked(f"{path}:{number}", item)


def _splits(row: Row, split: str) -> dict[str, list[Any]] | None:
    """The lists of rows in an object; None where it is a row itself."""
    if split not in row and not row.keys() <= SPLITS:
        return None
    if len(row) == 1:
        (inside,) = row.values()
        # `{"data": {"train": [...], "test": [...]}}`
        if isinstance(inside, dict) and inside.keys() <= SPLITS:
            row = inside
    lists = {name: rows for name, rows in row.items() if _holds_rows(rows)}
    # By their names alone: a row too may be a list of objects under one name (`responses`).
    if split in lists or (lists.keys() == row.keys() and row.keys() <= SPLITS):
        return lists or None
    return None


def _holds_rows(value: object) -> bool:
    if not isinstance(value, list) or not value or not isinstance(value[0], dict):
        return False
    # Messages are a part of a row.
    return "role" not in value[0] and "from" not in value[0]


def _are_columns(row: Row) -> bool:
    """Whether an object is a table as pandas writes it: for each column its values, in a list or by
    their numbers."""
    values = list(row.values())
    if len(values) < 2:
        return False
    if all(isinstance(value, list) and value for value in values):
        lengths = {len(value) for value in values}
        return len(lengths) == 1 and any(isinstance(value[0], str) for value in values)
    if not all(isinstance(value, dict) and value for value in values):
        return False
    numbers = {str(number) for number in range(len(values[0]))}
    return all(value.keys() == numbers for value in values)


def _checked(where: str, row: object) -> Scanned:
    if isinstance(row, dict):
        return where, row
    raw = orjson.dumps(row).decode()
    problem = f"{type(row).__name__}, expected an object with named fields"
    return where, BadRecord(where, "line", Defect.NOT_AN_OBJECT, problem, raw)
