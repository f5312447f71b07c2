"""Checked fields of a row: each function returns its type or raises `BadRecord`."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from smorm.data.census import BadRecord, Census, Defect
from smorm.data.records import Messages
from smorm.text.chat import RAW, ROLES, Message


@dataclass(frozen=True, slots=True)
class Context:
    """What a parser knows besides the row: where it stands, the census, attribute → column."""

    where: str
    census: Census
    columns: Mapping[str, str] | None = None

    def bad(self, field: str, defect: StrEnum, problem: str) -> BadRecord:
        """The error to raise for `field` of this row."""
        return BadRecord(self.where, field, defect, problem)

    def wrong(self, field: str, value: object, expected: str) -> BadRecord:
        """The error for a value of the wrong type."""
        return self.bad(field, Defect.WRONG_TYPE, f"{describe(value)}, expected {expected}")

    def count(self, kind: StrEnum, detail: str = "") -> None:
        """Count something that is no error."""
        self.census.add(kind, self.where, detail=detail)


def describe(value: object) -> str:
    """A value in the words of a message: its type, and the value itself where it is short."""
    match value:
        case None | bool() | int() | float():
            return json.dumps(value)
        case str() if len(value) <= 40:
            return f"text {value!r}"
        case str():
            return f"text of {len(value):,} characters"
        case list() | tuple():
            return f"a list of {len(value)}"
        case dict():
            return "an object"
        case _:
            return f"a value of type {type(value).__name__}"


def names_of(row: Mapping[str, Any]) -> str:
    """The row's first fields, for a message."""
    return ", ".join(map(str, list(row)[:12])) or "nothing"


def required(row: Mapping[str, Any], name: str, context: Context, inside: str = "") -> Any:
    """The field of a row, or of the object in it at the path `inside`: there and not null."""
    if row.get(name) is None:
        problem = f"missing; the {'object' if inside else 'row'} has: {names_of(row)}"
        if name in row:
            problem = "null, expected a value"
        raise context.bad(f"{inside}.{name}".removeprefix("."), Defect.MISSING_FIELD, problem)
    return row[name]


def text(value: object, field: str, context: Context) -> str:
    """A text; it may be empty."""
    if not isinstance(value, str):
        raise context.wrong(field, value, "text")
    return value


def optional_text(row: Mapping[str, Any], name: str, context: Context) -> str | None:
    """Text, or a whole number as text (ids), or None where absent or null."""
    value = row.get(name)
    if value is None:
        return None
    # true and false are ints to Python
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    return text(value, name, context)


def number(value: object, field: str, context: Context) -> float:
    """A finite number. Text, true/false, NaN and infinity are refused."""
    # text is refused, not parsed: "4,5" and "N/A" would become other ratings without a word
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise context.bad(field, Defect.BAD_RATING, f"{describe(value)}, expected a number")
    if not math.isfinite(value):
        problem = f"{value}, expected a finite number (null means not rated)"
        raise context.bad(field, Defect.BAD_RATING, problem)
    return float(value)


def messages(value: object, field: str, context: Context) -> Messages:
    """A non-empty list of `{role, content}` objects."""
    if not isinstance(value, list):
        raise context.wrong(field, value, "a list of messages {role, content}")
    if not value:
        defect = Defect.EMPTY_RESPONSE
        if field.startswith("prompt"):
            defect = Defect.EMPTY_PROMPT
        raise context.bad(field, defect, "an empty list, expected at least one message")
    turns = []
    for index, turn in enumerate(value):
        name = f"{field}[{index}]"
        if not isinstance(turn, dict):
            raise context.wrong(name, turn, "a message {role, content}")
        role = text(required(turn, "role", context, name), f"{name}.role", context)
        if role not in ROLES:
            problem = f"{role!r}, expected one of {', '.join(sorted(ROLES))}"
            raise context.bad(f"{name}.role", Defect.UNKNOWN_ROLE, problem)
        # many data sets have the key on every message, null or empty
        if turn.get("tool_calls"):
            problem = "tool calls would be lost: write them into the content"
            raise context.bad(f"{name}.tool_calls", Defect.TOOL_CALLS, problem)
        content = text(required(turn, "content", context, name), f"{name}.content", context)
        turns.append(Message(role, content))
    return tuple(turns)


def filled_prompt(prompt: Messages, field: str, context: Context) -> Messages:
    """The prompt, which must hold some text."""
    # one empty turn among others is the data's own; no text at all is a lost column
    if not any(message.content.strip() for message in prompt):
        raise context.bad(field, Defect.EMPTY_PROMPT, "empty, expected some text")
    return prompt


def ends_in_answer(response: Messages, field: str, context: Context) -> None:
    """Refuse a response whose last message, at which the score is read, is not the assistant's (or
    raw text)."""
    if (role := response[-1].role) not in ("assistant", RAW):
        problem = f"its last message is of {role!r}, expected 'assistant'"
        raise context.bad(field, Defect.NO_ANSWER, problem)


def filled_response(response: Messages, field: str, context: Context) -> Messages:
    """The response, which must end in an answer that holds some text."""
    ends_in_answer(response, field, context)
    if not response[-1].content.strip():
        raise context.bad(field, Defect.EMPTY_RESPONSE, "empty, expected some text")
    return response
