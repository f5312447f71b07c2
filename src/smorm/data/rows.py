"""Rows that remember which of their fields were read, so that no text is left unread in silence."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType
from typing import Any

# Short words that sort rows, and that no record's meaning rests on.
_LABELS = frozenset((
    "category", "class", "created", "created_at", "dataset", "date", "domain", "generator", "hash",
    "id", "index", "judge", "key", "lang", "language", "licence", "license", "model", "name",
    "origin", "source", "split", "subset", "tag", "task", "time", "timestamp", "topic", "tstamp",
    "turn", "type", "url", "uuid", "version",
))  # fmt: skip
_TEXT_WORDS = frozenset((
    "answer", "content", "context", "history", "input", "instruction", "message", "prompt", "query",
    "question", "response", "system", "text",
))  # fmt: skip
_LABEL_CHARACTERS = 100
_NOTHING: Mapping[str, Any] = MappingProxyType({})
_ABSENT = object()
_SCORE_WORDS = ("score", "rating", "rank", "reward", "margin", "prefer", "label", "winner", "vote")


class Content(StrEnum):
    """What a field holds, for the weight of leaving it unread."""

    TEXT = "text"
    MESSAGES = "messages"
    TOOLS = "tools"
    SCORES = "scores"
    OTHER = "other"


_BY_WEIGHT = tuple(Content)


class Row(dict[str, Any]):
    """One row of a source. Reading a field by its name (`row[name]`, `row.get`) or with all others
    (`items`, `values`) is remembered, in nested objects too; looking whether it is there is not."""

    __slots__ = ("_columns", "_read", "_replaced")

    def __init__(
        self,
        values: Mapping[str, Any] = _NOTHING,
        columns: Mapping[str, str] = _NOTHING,
        replaced: Mapping[str, Any] = _NOTHING,
    ) -> None:
        """`columns` are names that fields have in the file where it is another one, `replaced` the
        file's own fields of names under which something else stands here."""
        super().__init__(values)
        self._read: set[str] = set()
        self._columns, self._replaced = columns, replaced

    # Called a few dozen times a record: `dict`'s own methods, and nothing more for a plain value.
    def __getitem__(self, name: str) -> Any:
        value = dict.__getitem__(self, name)
        self._read.add(name)
        if type(value) is dict or type(value) is list:
            return self._track(name, value)
        return value

    def get(self, name: str, default: Any = None) -> Any:
        value = dict.get(self, name, _ABSENT)
        if value is _ABSENT:
            return default
        self._read.add(name)
        if type(value) is dict or type(value) is list:
            return self._track(name, value)
        return value

    def _track(self, name: str, value: Any) -> Any:
        tracked = _tracked(value)
        if tracked is not value:
            # The same object at every reading: what was read of it must not be forgotten.
            dict.__setitem__(self, name, tracked)
        return tracked

    def items(self) -> Any:
        return [(name, self[name]) for name in self]

    def values(self) -> Any:
        return [self[name] for name in self]

    def as_given(self) -> Iterator[tuple[str, Any]]:
        """Names and values, without having read them."""
        return zip(self, super().values(), strict=True)

    @property
    def is_read(self) -> bool:
        """Whether all of its fields were read and none holds another object: of most rows and
        messages nothing more has to be looked at."""
        if self._replaced or not self._read.issuperset(self):
            return False
        return _NESTED.isdisjoint(map(type, dict.values(self)))

    def unread(self, prefix: str = "") -> Iterator[Unread]:
        """Fields that hold something and were not read, nested ones by their path."""
        for name, value in self._replaced.items():
            if not is_empty(value):
                yield Unread(f"{prefix}{name}", content_of(name, value))
        was_read_of = self._read
        for name, value in dict.items(self):
            was_read = name in was_read_of
            # Of most fields that is all: the texts of a record were read.
            if was_read and type(value) is not Row and type(value) is not list:
                continue
            path = f"{prefix}{self._columns.get(name, name)}"
            if was_read:
                yield from _unread_inside(value, path)
            elif not is_empty(value):
                yield Unread(path, content_of(name, value))


def changed(row: Mapping[str, Any], values: Mapping[str, Any]) -> Mapping[str, Any]:
    """The row with other values in some fields; what is read of it counts as read of the row."""
    if not isinstance(row, Row):
        return {**row, **values}
    for name, value in list(row.as_given()):
        dict.__setitem__(row, name, _tracked(value))
    copy = Row({**dict(row.as_given()), **values}, row._columns, row._replaced)
    copy._read = row._read
    return copy


@dataclass(frozen=True, slots=True)
class Unread:
    """A field that no part of the program looked at, by its path: `meta.lang`, `chosen[].name`."""

    path: str
    content: Content


_NESTED = frozenset((Row, list))


def _tracked(value: Any) -> Any:
    if type(value) is dict:
        return Row(value)
    if type(value) is list:
        for child in value:
            if type(child) is dict:
                return list(map(_tracked, value))
    return value


def _unread_inside(value: Any, path: str) -> Iterator[Unread]:
    if isinstance(value, Row):
        yield from value.unread(f"{path}.")
    elif isinstance(value, list):
        # Of many messages with the same unread key it is one field.
        inside: dict[str, Unread] = {}
        for child in value:
            if type(child) is Row and child.is_read:
                continue
            for unread in _unread_inside(child, f"{path}[]"):
                inside.setdefault(unread.path, unread)
        yield from inside.values()


def plain(value: Any) -> Any:
    """A value as ordinary objects, all of it read."""
    if isinstance(value, Mapping):
        return {name: plain(child) for name, child in value.items()}
    if isinstance(value, list):
        return [plain(child) for child in value]
    return value


def has_value(row: Mapping[str, Any], name: str) -> bool:
    """Whether a field is there and not null, without reading it."""
    return name in row and (dict.get(row, name) if isinstance(row, dict) else row[name]) is not None


def is_empty(value: Any) -> bool:
    """Whether a field holds nothing that could be lost."""
    # First what most fields are: the checks of `Mapping` and `Sequence` are slow.
    if value is None:
        return True
    if isinstance(value, str):
        return not value or value.isspace()
    if isinstance(value, float):
        return math.isnan(value)
    if isinstance(value, int):
        return False
    children = _children(value)
    if children is None:
        return False
    # No calls in calls: a row may be deeper than Python's stack, where the limit was raised.
    levels = [iter(children)]
    while levels:
        for child in levels[-1]:
            inner = _children(child)
            if inner is not None:
                levels.append(iter(inner))
                break
            if not is_empty(child):
                return False
        else:
            levels.pop()
    return True


def _children(value: Any) -> Iterable[Any] | None:
    """What lies in a list or an object, without reading it; None of anything else."""
    if isinstance(value, list):
        return value
    if isinstance(value, dict):
        return dict.values(value)
    if value is None or isinstance(value, str | int | float):
        return None
    if isinstance(value, Mapping):
        return value.values()
    return value if isinstance(value, Sequence) else None


def content_of(name: str, value: Any) -> Content:
    """What a field holds, by its name and its value."""
    lowered = name.lower()
    if lowered in ("tools", "functions", "tool_calls"):
        return Content.TOOLS
    if isinstance(value, str):
        if len(value) < 20 and _names_scores(lowered):
            return Content.SCORES
        # Only a short line sorts or names its row.
        if len(value) <= _LABEL_CHARACTERS and "\n" not in value and _names_labels(lowered):
            return Content.OTHER
        return Content.TEXT
    if isinstance(value, list):
        if value and _is_message(value[0]):
            return Content.MESSAGES
        return _heaviest([content_of(name, child) for child in value if not is_empty(child)])
    if not isinstance(value, int | float) and isinstance(value, Mapping):
        if _is_message(value):
            return Content.MESSAGES
        content = _heaviest([content_of(str(key), value[key]) for key in value])
        # `scores: {chosen: 4, rejected: 2}`: the numbers are what the whole is called.
        if content is Content.OTHER and _names_scores(lowered):
            return Content.SCORES
        return content
    if _names_scores(lowered):
        return Content.SCORES
    return Content.OTHER


def _heaviest(contents: Sequence[Content]) -> Content:
    for content in _BY_WEIGHT:
        if content in contents:
            return content
    return Content.OTHER


def _is_message(value: Any) -> bool:
    return isinstance(value, Mapping) and ("role" in value or "from" in value)


# The same few names stand in every row of a source.
@functools.lru_cache(maxsize=4096)
def _names_scores(name: str) -> bool:
    return any(word in name for word in _SCORE_WORDS)


@functools.lru_cache(maxsize=4096)
def _names_labels(name: str) -> bool:
    """Whether a field of this name most often only sorts or names its row."""
    words = frozenset(name.replace("-", "_").split("_"))
    return bool(words & _LABELS and not words & _TEXT_WORDS) or name.endswith("_id")
