"""What a caller in Python gives to be scored, as items."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from smorm.data.census import Census, DropReason
from smorm.data.reading import parse_row
from smorm.data.records import Candidates, Item, Preference, Rated
from smorm.errors import DataError
from smorm.text.chat import Message, Messages

_EXPECTED = (
    "a row with prompt and response, (prompt, response) as texts or messages, or a list of messages"
)


def as_items(value: Any, index: int = 0, census: Census | None = None) -> list[Item]:
    """What a record of any accepted kind asks to be scored; `census` counts what was not read.
    DataError for anything else."""
    where = f"record {index + 1}"
    counted = Census() if census is None else census
    if isinstance(value, Preference | Rated | Candidates):
        return [value.item]
    if isinstance(value, Mapping):
        return [record.item for record in parse_row(value, where, counted)]
    # Two texts need no reader, which takes longer than a short answer takes to score.
    if isinstance(value, tuple) and len(value) == 2 and all(isinstance(v, str) for v in value):
        prompt, response = value
        return [Item((Message("user", prompt),), ((Message("assistant", response),),), where)]
    if isinstance(value, list) and value and all(isinstance(turn, Mapping) for turn in value):
        return as_items({"messages": value}, index, counted)
    if isinstance(value, tuple) and len(value) == 2 and all(map(_is_text, value)):
        return as_items({"prompt": value[0], "response": value[1]}, index, counted)
    raise DataError(f"{where}: expected {_EXPECTED}; got {type(value).__name__}")


def conversations_of(rows: Any) -> list[Messages]:
    """Every response of one row, or of a sequence of rows, as a conversation, in order. A row is
    what `as_items` takes, or messages as this package has them. DataError for what is none, and for
    one with content that would not be read."""
    if _is_row(rows):
        rows = [rows]
    conversations: list[Messages] = []
    for index, row in enumerate(rows):
        if isinstance(row, tuple) and row and isinstance(row[0], Message):
            conversations.append(row)
            continue
        census = Census()
        for item in as_items(row, index, census):
            conversations += [item.prompt + response for response in item.responses]
        for reason in census.totals():
            if reason.kind is DropReason.CONTENT_NOT_READ:
                raise DataError(f"record {index + 1}: {reason}")
    return conversations


def _is_row(rows: Any) -> bool:
    """Whether it is one row; several are rows of their own, none of which is a turn or a text."""
    if isinstance(rows, Mapping):
        return True
    if not isinstance(rows, list | tuple) or not rows:
        return False
    first = rows[0]
    return isinstance(first, str | Message) or (isinstance(first, Mapping) and "role" in first)


def _is_text(value: Any) -> bool:
    return isinstance(value, str | list)
