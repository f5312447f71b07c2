"""Judged candidates from the parts of a row: the good responses first, and what is counted.

A row is scored as published: an empty response is kept and counted, and so is a row whose good
response equals another one. A row whose responses are all judged alike says nothing and is left
out, counted.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from smorm.data import fields
from smorm.data.census import Defect, DropReason
from smorm.data.fields import Context
from smorm.data.formats import generic as shapes
from smorm.data.records import Candidates, Messages
from smorm.text.chat import Message

SOURCES = ("subset", "source", "domain")

Sides = dict[str, Messages]
"""Responses by the name of the field that each stands in."""


def sides_of(value: object, name: str, context: Context) -> Sides:
    """One response (text or a message list), or a list of responses."""
    if not isinstance(value, list) or is_messages(value):
        return {name: shapes.side_of(value, name, context)}
    if not value:
        raise context.wrong(name, value, "text, a message list, or a list of at least one of them")
    named = {f"{name}[{at}]": item for at, item in enumerate(value)}
    return {field: shapes.side_of(item, field, context) for field, item in named.items()}


def is_messages(value: object) -> bool:
    """Whether a value is meant as one message list rather than as a list of responses."""
    return isinstance(value, list) and any(isinstance(item, dict) for item in value)


def text_side(value: object, name: str, context: Context) -> Sides:
    """One response that the schema gives as text."""
    return {name: (Message("assistant", fields.text(value, name, context)),)}


def split(
    good: Messages, other: Messages, names: tuple[str, str], context: Context
) -> tuple[Messages, Sides, Sides]:
    """Two whole conversations as their common beginning and what follows it in each."""
    prompt, good, other = shapes.split_common(good, other)
    if prompt:
        fields.filled_prompt(prompt, "prompt", context)
    return prompt, {names[0]: good}, {names[1]: other}


def flags(values: object, name: str, context: Context) -> list[bool]:
    """Which responses are right: true or false, or 1 and 0."""
    if not isinstance(values, list):
        raise context.wrong(name, values, "a list of true and false")
    for at, value in enumerate(values):
        if not isinstance(value, int | float) or value not in (0, 1):
            raise context.wrong(f"{name}[{at}]", value, "true or false (or 1 or 0)")
    return [bool(value) for value in values]


def judged(
    prompt: Messages,
    good: Sides,
    rest: Sides,
    context: Context,
    identity: str | None,
    source: str | None,
) -> list[Candidates]:
    """Candidates of which `good` are the good ones, as many as the schema has."""
    one = unjudged(prompt, {**good, **rest}, context, identity, source)
    return ordered(one, [True] * len(good) + [False] * len(rest), "chosen", context)


def unjudged(
    prompt: Messages, sides: Sides, context: Context, identity: str | None, source: str | None
) -> Candidates:
    """Checked candidates, not yet judged; what is wrong is told by the field's own name."""
    names, responses = tuple(sides), tuple(sides.values())
    if prompt:
        responses = shapes.without_prompt(prompt, responses, names, context)
    for name, response in zip(names, responses, strict=True):
        fields.ends_in_answer(response, name, context)
    known = {"id": identity, "source": source}
    return shapes.candidates_of(known, prompt, responses, context)


def ordered(
    one: Candidates, right: Sequence[bool], name: str, context: Context
) -> list[Candidates]:
    """The right responses first, each group in its own order; none where all are judged alike.

    Raises:
        BadRecord: `right` (the field `name`) is not as long as the responses.
    """
    if len(right) != len(one.responses):
        problem = f"{len(right)} for {len(one.responses)} responses, expected one for each"
        raise context.bad(name, Defect.WRONG_COUNT, problem)
    pairs = list(zip(one.responses, right, strict=True))
    good = tuple(response for response, is_right in pairs if is_right)
    rest = tuple(response for response, is_right in pairs if not is_right)
    if not good or not rest:
        context.count(DropReason.JUDGED_ALIKE)
        return []
    if not set(good).isdisjoint(rest):
        context.count(DropReason.EQUAL_RESPONSES)
    return [replace(one, responses=(*good, *rest), chosen=len(good))]


def first_text(row: Mapping[str, Any], names: Sequence[str], context: Context) -> str | None:
    """The first of some fields that the row has, as text; None where it has none of them.

    Numbers become text, also whole ones that a table of numbers and gaps holds as 12.0 and NaN.
    """
    for name in names:
        value = row.get(name)
        if isinstance(value, float) and value.is_integer():
            return str(int(value))
        if value is not None and not (isinstance(value, float) and math.isnan(value)):
            return fields.optional_text(row, name, context)
    return None
