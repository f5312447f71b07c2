"""Rows of benchmarks as candidates: the good responses first, and what is counted.
A row is scored as published: an empty response is kept and counted, and so is a row whose good
response equals another one. A row whose responses are all judged alike says nothing and is left
out, counted. Every benchmark also takes rows of `comparison`'s shape, for converted sets."""

import math
import operator
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import compress
from typing import Any

from smorm.data import fields
from smorm.data.census import Defect, DropReason
from smorm.data.fields import Context
from smorm.data.formats import generic
from smorm.data.messages import read_messages
from smorm.data.records import Candidates, Messages
from smorm.data.rows import changed
from smorm.text.chat import RAW, Message

Row = Mapping[str, Any]
SUBSET_FIELDS = ("subset", "source", "domain")

Responses = dict[str, Messages]  # responses by the name of the field that each stands in


def is_converted(row: Row) -> bool:
    """Whether a row has `comparison`'s shape."""
    return "chosen" in row or row.get("responses") is not None


def comparison(row: Row, context: Context) -> list[Candidates]:
    """`{prompt, chosen, rejected}` or `{prompt, responses, correct}`; optional `id`, `subset`.
    Chosen and rejected are text, a message list, or a list of either; without a prompt both are
    full conversations (or raw texts), as in `generic.preference`. `correct` holds true or false
    (or 1 and 0) for each response. The source is the row's `subset`, `source` or `domain`."""
    identity, subset = names_of(row, "id", context)
    if row.get("responses") is not None:
        record = generic.candidates(changed(row, {"id": identity, "source": subset}), context)[0]
        correct = flags(fields.required(row, "correct", context), "correct", context)
        return good_first(record, correct, "correct", context)
    chosen = fields.required(row, "chosen", context)
    rejected = fields.required(row, "rejected", context)
    if not generic.has_prompt(row):
        return labelled(*_without_prompt(chosen, rejected, context), context, identity, subset)
    prompt = generic.prompt_of(row, context)
    good = _responses(chosen, "chosen", context)
    bad = _responses(rejected, "rejected", context)
    return labelled(prompt, good, bad, context, identity, subset)


def _without_prompt(
    chosen: object, rejected: object, context: Context
) -> tuple[Messages, Responses, Responses]:
    if isinstance(chosen, str) and isinstance(rejected, str):
        return (), {"chosen": (Message(RAW, chosen),)}, {"rejected": (Message(RAW, rejected),)}
    if not (_is_messages(chosen) and _is_messages(rejected)):
        problem = "missing; only two whole conversations as message lists can go without"
        raise context.bad("prompt", Defect.MISSING_FIELD, problem)
    good = read_messages(chosen, "chosen", context)
    bad = read_messages(rejected, "rejected", context)
    return split(good, bad, ("chosen", "rejected"), context)


def _responses(value: object, name: str, context: Context) -> Responses:
    """One response (text or a message list), or a list of responses."""
    # A list of texts is several responses, a list of objects is one response of several messages.
    if not isinstance(value, list) or _is_messages(value):
        return {name: generic.side_of(value, name, context)}
    if not value:
        raise context.wrong(name, value, "text, a message list, or a list of at least one of them")
    responses: Responses = {}
    for index, item in enumerate(value):
        field = f"{name}[{index}]"
        responses[field] = generic.side_of(item, field, context)
    return responses


def _is_messages(value: object) -> bool:
    """Whether a value is meant as one message list rather than as a list of responses."""
    return isinstance(value, list) and any(isinstance(item, dict) for item in value)


def of_two(
    row: Row,
    prompt: Messages,
    names: tuple[str, str],
    first_is_good: bool,
    identity: str,
    context: Context,
) -> list[Candidates]:
    """Two responses from fields of text, of which one is good; `identity` is the id's field."""
    responses: Responses = {}
    for name in names:
        responses |= response(row, name, context)
    record = unlabelled(prompt, responses, context, *names_of(row, identity, context))
    return good_first(record, [first_is_good, not first_is_good], names[0], context)


def question(row: Row, name: str, context: Context) -> Messages:
    """A prompt of one user's message, from a field of text."""
    text = fields.text(fields.required(row, name, context), name, context)
    return fields.filled_prompt((Message("user", text),), name, context)


def response(row: Row, name: str, context: Context) -> Responses:
    """A response from a field of text."""
    return text_response(fields.required(row, name, context), name, context)


def text_response(value: object, name: str, context: Context) -> Responses:
    """One response that the schema gives as text."""
    return {name: (Message("assistant", fields.text(value, name, context)),)}


def text_responses(value: object, name: str, context: Context) -> Responses:
    """A list of responses that the schema gives as texts."""
    if not isinstance(value, list) or not value:
        raise context.wrong(name, value, "a list of at least one text")
    responses: Responses = {}
    for index, item in enumerate(value):
        responses |= text_response(item, f"{name}[{index}]", context)
    return responses


def split(
    good: Messages, bad: Messages, names: tuple[str, str], context: Context
) -> tuple[Messages, Responses, Responses]:
    """Two full conversations as their common beginning and what follows it in each."""
    # Raw conversations may share nothing; what they share has to be a prompt that can be answered.
    prompt, good, bad = generic.split_common(good, bad)
    if prompt:
        fields.filled_prompt(prompt, "prompt", context)
    return prompt, {names[0]: good}, {names[1]: bad}


def flags(values: object, name: str, context: Context) -> list[bool]:
    """Which responses are right: true or false, or 1 and 0."""
    if not isinstance(values, list):
        raise context.wrong(name, values, "a list of true and false")
    # 1.0 and 0.0 too: tables with gaps hold flags as floats.
    for index, value in enumerate(values):
        if not isinstance(value, int | float) or value not in (0, 1):
            raise context.wrong(f"{name}[{index}]", value, "true or false (or 1 or 0)")
    return list(map(bool, values))


def labelled(
    prompt: Messages,
    good: Responses,
    bad: Responses,
    context: Context,
    identity: str | None,
    subset: str | None,
) -> list[Candidates]:
    """Candidates of which `good` are the good ones, as many as the schema has."""
    record = unlabelled(prompt, {**good, **bad}, context, identity, subset)
    return good_first(record, [True] * len(good) + [False] * len(bad), "chosen", context)


def unlabelled(
    prompt: Messages,
    responses: Responses,
    context: Context,
    identity: str | None,
    subset: str | None,
) -> Candidates:
    """Checked candidates, not yet labelled; a problem is reported by the field's own name."""
    names, texts = tuple(responses), tuple(responses.values())
    # Raw texts have no prompt that could stand at their beginning once more.
    if prompt:
        texts = generic.without_prompt(prompt, texts, names, context)
    for name, messages in zip(names, texts, strict=True):
        fields.ends_in_answer(messages, name, context)
    return generic.candidates_of({"id": identity, "source": subset}, prompt, texts, context)


def good_first(
    record: Candidates, good: Sequence[bool], name: str, context: Context
) -> list[Candidates]:
    """The good responses first, each group in its own order; none where all are judged alike."""
    if len(good) != len(record.responses):
        problem = f"{len(good)} for {len(record.responses)} responses, expected one for each"
        raise context.bad(name, Defect.WRONG_COUNT, problem)
    chosen = list(compress(record.responses, good))
    rejected = list(compress(record.responses, map(operator.not_, good)))
    # In the row's order, whatever was judged of them.
    if context.every_response:
        return [record]
    # Nothing to compare: with all good or all bad, any score would be right or wrong.
    if not chosen or not rejected:
        context.count(DropReason.JUDGED_ALIKE)
        return []
    # Such a pair cannot be won. It stays, as in the published numbers, and is counted.
    if not set(chosen).isdisjoint(rejected):
        context.count(DropReason.EQUAL_RESPONSES)
    order = sorted(range(len(good)), key=lambda position: not good[position])
    responses = (*chosen, *rejected)
    return [replace(record, responses=responses, chosen=len(chosen), order=tuple(order))]


def names_of(row: Row, identity: str, context: Context) -> tuple[str | None, str | None]:
    """The published id and the subset of a row."""
    return first_text(row, (identity, "id"), context), first_text(row, SUBSET_FIELDS, context)


def first_text(row: Row, names: Sequence[str], context: Context) -> str | None:
    """The first of some fields that the row has, as text; None where it has none of them. Numbers
    become text, also whole ones that a table of numbers and gaps holds as 12.0 and NaN."""
    for name in names:
        value = row.get(name)
        # NaN is how a table of numbers says that a cell is empty.
        if isinstance(value, float) and value.is_integer():
            return str(int(value))
        if value is not None and not (isinstance(value, float) and math.isnan(value)):
            return fields.optional_text(row, name, context)
    return None
