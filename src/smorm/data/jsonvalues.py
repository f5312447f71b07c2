"""JSON from a file that somebody else made: each value parsed under limits, arrays in pieces."""

import io
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson

from smorm.data.census import BadRecord, Defect
from smorm.data.streams import BOM
from smorm.limits import deeper_than, limit, refusal
from smorm.printing import brief

# Possessive, so that no string makes the engine remember each of its characters.
STRING = re.compile(rb'"(?:[^"\\]++|\\.)*+"', re.DOTALL)
# Up to a bracket outside of strings; between the items of an array up to a comma too.
_TO_BRACKET = re.compile(rb'(?:[^"\[\]{}]++|"(?:[^"\\]++|\\.)*+")*+[\[\]{}]', re.DOTALL)
_TO_COMMA = re.compile(rb'(?:[^"\[\]{},]++|"(?:[^"\\]++|\\.)*+")*+[\[\]{},]', re.DOTALL)
_CHUNK = 1 << 20
_EACH, _EVERY = 1000, 16  # rows in which a key is looked for that stands twice


class Unfit(ValueError):  # noqa: N818  (a state of one value, which its reader names)
    """Valid JSON that is not taken: `defect`, and `problem` in words."""

    def __init__(self, defect: Defect, problem: str) -> None:
        super().__init__(problem)
        self.defect, self.problem = defect, problem


class Parser:
    """Parses texts of one value each; `values` is the name of the limit of their values."""

    def __init__(self, values: str = "row_values") -> None:
        self._values, self._most_values = values, limit(values)
        self._most_levels = limit("depth")
        self._count = 0

    def parse(self, text: bytes) -> Any:
        """The value. `orjson.JSONDecodeError`: it is not JSON; `Unfit`: it is over a limit, or an
        object has a key twice, of which orjson would keep the last (looked for in the first 1,000
        values, and in every 16th after)."""
        # A text has no more values than bytes, so that usual ones are not looked at twice.
        if len(text) > self._most_values:
            self._refuse_many(text)
        value = orjson.loads(text)
        brackets = text.count(b"[") + text.count(b"{")
        if brackets > self._most_levels and deeper_than(value, self._most_levels):
            raise Unfit(Defect.TOO_DEEP, f"nested deeper: {refusal('depth')}")
        # Whatever writes a key twice does so from the first rows on: the look at all of them would
        # take as long as the parsing.
        self._count += 1
        if self._count <= _EACH or self._count % _EVERY == 0:
            _refuse_twice(text, value)
        return value

    def _refuse_many(self, text: bytes) -> None:
        """Before they are made: a list of empty objects takes a hundred times its text."""
        if _num_marks(text) <= self._most_values:
            return
        if (number := _num_marks(STRING.sub(b"", text))) > self._most_values:
            raise Unfit(Defect.TOO_MANY_VALUES, refusal(self._values, number))


def parse_text(text: str) -> Any:
    """The value of JSON that stands as text in a field, whole numbers exact. `ValueError`: it is
    not JSON, or over a limit."""
    most, levels = limit("row_values"), limit("depth")
    if len(text) > most and (number := _num_marks(STRING.sub(b"", text.encode()))) > most:
        raise Unfit(Defect.TOO_MANY_VALUES, refusal("row_values", number))
    try:
        value = json.loads(text, parse_int=_whole_number)
    except RecursionError:
        raise Unfit(Defect.TOO_DEEP, f"nested deeper: {refusal('depth')}") from None
    if text.count("[") + text.count("{") > levels and deeper_than(value, levels):
        raise Unfit(Defect.TOO_DEEP, f"nested deeper: {refusal('depth')}")
    return value


def _whole_number(text: str) -> int:
    # Python's own words for it name a function that no user calls.
    if len(text) > limit("digits"):
        raise ValueError(refusal("digits", len(text)))
    return int(text)


def _num_marks(text: bytes) -> int:
    return text.count(b",") + text.count(b"[") + text.count(b"{")


def _num_keys(value: object) -> int:
    if type(value) is dict:
        return len(value) + sum(map(_num_keys, value.values()))
    if type(value) is list:
        return sum(map(_num_keys, value))
    return 0


def _refuse_twice(text: bytes, value: object) -> None:
    # Keys are counted in the text and in the value; quotes inside of strings are escaped.
    if text.count(b'":') - text.count(b'\\":') != _num_keys(value):
        json.loads(text, object_pairs_hook=_refuse_pairs, parse_int=str)


def _refuse_pairs(pairs: list[tuple[str, Any]]) -> None:
    names: set[str] = set()
    for name, _ in pairs:
        if name in names:
            raise Unfit(Defect.KEY_TWICE, f"the key {brief(name)} stands twice in one object")
        names.add(name)


def items_of_array(path: Path, stream: io.BufferedReader) -> Iterator[tuple[int, bytes]]:
    """The texts of an array's items with their numbers from 1, one after the other: the file need
    not fit into memory. `BadRecord` where the array itself is broken or an item is too long."""
    most = limit("line_bytes")
    text = stream.read(_CHUNK).removeprefix(BOM)
    start = text.index(b"[") + 1
    position, depth, number = start, 1, 0
    while depth:
        pattern = _TO_COMMA if depth == 1 else _TO_BRACKET
        match = pattern.match(text, position)
        if match is None:
            if len(text) - start > most:
                raise _too_long(path, number + 1)
            # As much again, so that a long string is not gone through once a piece.
            more = stream.read(max(_CHUNK, len(text) - start))
            if not more:
                raise _broken(path, number + 1, "the array is cut short: it has no end")
            text, position, start = text[start:] + more, position - start, 0
            continue
        position = match.end()
        character = text[position - 1 : position]
        if character in b"[{":
            depth += 1
        elif character in b"]}":
            depth -= 1
        if depth == 0 or (depth == 1 and character == b","):
            item = text[start : position - 1]
            # An empty array has no item; after a comma one is missing, which its parser says.
            if len(item) > most:
                raise _too_long(path, number + 1)
            if item.strip() or character == b"," or number:
                number += 1
                yield number, item
            start = position
    if character != b"]" or text[position:].strip() or stream.read(_CHUNK).strip():
        raise _broken(path, number + 1, "the array does not end where the file ends")


def _too_long(path: Path, number: int) -> BadRecord:
    return BadRecord(f"{path}:{number}", "row", Defect.LINE_TOO_LONG, refusal("line_bytes"))


def _broken(path: Path, number: int, problem: str) -> BadRecord:
    return BadRecord(f"{path}:{number}", "row", Defect.NOT_JSON, f"not valid JSON: {problem}")
