"""Checked fields of a row: each function returns its type or raises `BadRecord`."""

from __future__ import annotations

import contextlib
import itertools
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Literal

from smorm.data.census import BadRecord, Census, Defect, DropReason
from smorm.data.records import Identity, Messages
from smorm.limits import limit, refusal
from smorm.printing import brief
from smorm.text.chat import INPUTS, RAW

_USUAL = 10**6
_DECIMAL_COMMA = re.compile(r"[+-]?\d+,\d+")

Labels = Literal["signed", "index", "number", "first_better", "best_first"] | Mapping[str, Any]
"""How the label of two answers is read (`smorm.data.formats.ab`)."""


@dataclass(slots=True)
class Context:
    """What a parser knows besides the row.

    Attributes:
        where: the row's place, set anew for each row of a source, which has one context for all;
            `census`: what is counted of it.
        attributes: attribute to the column of its ratings; None for every name in `scores`.
        mapped: parts of the record that the source's `columns` name.
        labels: how a label is read that says which of two answers is better.
        na: texts that stand for no rating; `booleans`: whether true and false are the ratings 1 and
            0; `numbers_in_text`: whether text is read as the number that it spells.
        every_response: whether rows of several responses give all of them in the row's order.
        configurable: whether rows come from a source, so that an error may name the keys of a
            configuration (`columns`) by which they would be read."""

    where: str
    census: Census
    attributes: Mapping[str, str] | None = None
    mapped: frozenset[str] = frozenset()
    labels: Labels | None = None
    na: frozenset[str] = frozenset()
    booleans: bool = False
    numbers_in_text: bool = False
    every_response: bool = False
    configurable: bool = True

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
    names = [str(name)[:40] for name in itertools.islice(row, 12)]
    return ", ".join(names) or "nothing"


def required(row: Mapping[str, Any], name: str, context: Context, inside: str = "") -> Any:
    """The field of a row, or of the object in it at the path `inside`: there and not null."""
    value = row.get(name)
    if value is None:
        problem = f"missing; the {'object' if inside else 'row'} has: {names_of(row)}"
        if name in row:
            problem = "null, expected a value"
        raise context.bad(f"{inside}.{name}".removeprefix("."), Defect.MISSING_FIELD, problem)
    return value


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
    """A finite number; text that spells one where the source says so. Other text, true/false, NaN
    and infinity are refused."""
    # text is refused, not parsed: "4,5" and "N/A" would become other ratings without a word
    if isinstance(value, str) and context.numbers_in_text:
        text_value = value
        with contextlib.suppress(ValueError):
            # Python would read 1_5 as 15.
            value = float(value) if "_" not in value else value
        if not isinstance(value, str):
            if not math.isfinite(value):
                problem = (
                    f"text {text_value!r}, expected a finite number{_remedy(text_value, context)}"
                )
                raise context.bad(field, Defect.BAD_RATING, problem)
            context.count(DropReason.RATING_CONVERTED, "text")
    if isinstance(value, bool) or not isinstance(value, int | float):
        problem = f"{describe(value)}, expected a number{_remedy(value, context)}"
        raise context.bad(field, Defect.BAD_RATING, problem)
    # Of usual ratings, and of no others, that is all: NaN is not between two numbers.
    if not -_USUAL < value < _USUAL:
        _refuse_huge(value, field, context)
    return float(value)


def _refuse_huge(value: float, field: str, context: Context) -> None:
    most = limit("rating")
    if isinstance(value, float) and not math.isfinite(value):
        problem = f"{value}, expected a finite number (null means not rated)"
        raise context.bad(field, Defect.BAD_RATING, problem)
    if abs(value) > most:
        raise context.bad(field, Defect.BAD_RATING, f"{brief(value)}, {refusal('rating')}")


def _remedy(value: object, context: Context) -> str:
    """How a source says that such a value is a rating, or none."""
    if isinstance(value, bool):
        return " (booleans: true in the source reads it as 1 or 0)"
    if isinstance(value, str) and _DECIMAL_COMMA.fullmatch(value.strip()):
        return " (with a decimal point: 0.5)"
    if isinstance(value, str) and context.numbers_in_text:
        return " (na: [...] in the source lists what is no rating)"
    if isinstance(value, str):
        return " (numbers_in_text: true in the source reads it, na: [...] lists what is no rating)"
    return ""


def rating(value: object, field: str, context: Context) -> float | None:
    """A rating, or the mean of a list of raters'; None where it is not rated. What is no number is
    read as one only where the source says so, and counted."""
    if isinstance(value, list):
        ratings: list[float] = []
        for index, of_rater in enumerate(value):
            rated = rating(of_rater, f"{field}[{index}]", context)
            if rated is not None:
                ratings.append(rated)
        if not ratings:
            return None
        context.count(DropReason.SEVERAL_RATERS, str(len(ratings)))
        return math.fsum(ratings) / len(ratings)
    if _is_absent(value, context):
        if value is not None:
            context.count(DropReason.RATING_NOT_AVAILABLE)
        return None
    if isinstance(value, str) and context.numbers_in_text:
        # As pandas writes them.
        value = {"true": True, "false": False}.get(value.strip().lower(), value)
    if isinstance(value, bool) and context.booleans:
        context.count(DropReason.RATING_CONVERTED, "true or false")
        return float(value)
    return number(value, field, context)


def num_raters(value: object, context: Context) -> int:
    """How many ratings of a list of raters' count."""
    if not isinstance(value, list):
        return 1
    return sum(num_raters(rating, context) for rating in value if not _is_absent(rating, context))


def _is_absent(value: object, context: Context) -> bool:
    return value is None or (isinstance(value, str) and value.strip() in context.na)


def identity(row: Mapping[str, Any], context: Context) -> Identity | None:
    """The row's id as it is given: text, a number, true or false."""
    value = row.get("id")
    if value is not None and not isinstance(value, str | int | float):
        hint = " (columns: {id: COLUMN} takes another)" if context.configurable else ""
        raise context.wrong("id", value, f"text or a number{hint}")
    return value


def is_blank(content: str) -> bool:
    """Whether a text holds nothing but white space."""
    # Unlike `strip` it ends at the first letter, and copies nothing.
    return not content or content.isspace()


def filled_prompt(prompt: Messages, field: str, context: Context) -> Messages:
    """The prompt, which must hold some text."""
    # one empty turn among others is the data's own; no text at all is a lost column
    for message in prompt:
        if message.role != INPUTS and not is_blank(message.content):
            return prompt
    raise context.bad(field, Defect.EMPTY_PROMPT, "empty, expected some text")


def ends_in_answer(response: Messages, field: str, context: Context) -> None:
    """Refuse a response whose last message, at which the score is read, is not the assistant's (or
    raw text)."""
    if (role := response[-1].role) not in ("assistant", RAW):
        problem = f"its last message is of {role!r}, expected 'assistant'"
        raise context.bad(field, Defect.NO_ANSWER, problem)


def filled_response(response: Messages, field: str, context: Context) -> Messages:
    """The response, which must end in an answer that holds some text."""
    ends_in_answer(response, field, context)
    # A call of a tool is an answer without text.
    if is_blank(response[-1].content) and not response[-1].fields:
        raise context.bad(field, Defect.EMPTY_RESPONSE, "empty, expected some text")
    return response
