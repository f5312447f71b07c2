"""The project's own record shapes: preference (as TRL's), rated, candidates."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from smorm.data import fields
from smorm.data.census import Defect, DropReason
from smorm.data.fields import Context
from smorm.data.formats import Format
from smorm.data.records import Candidates, Messages, Preference, Rated
from smorm.text.chat import RAW, Message

RESERVED = ("preference",)
_SPEAKERS = {"User": "user", "Human": "user", "Assistant": "assistant"}


def preference(row: Mapping[str, Any], context: Context) -> list[Preference]:
    """`{prompt?, chosen, rejected, margin?, id?, source?}`, in text or in message lists.

    With a prompt (`prompt_messages` wins over `prompt` where a row has both), each side is what
    follows it: text is one assistant message. Without one, each side is a whole conversation: of
    message lists the longest common beginning is the prompt; texts are raw text with no chat
    structure.
    """
    chosen, rejected = (fields.required(row, name, context) for name in ("chosen", "rejected"))
    if has_prompt(row):
        prompt = prompt_of(row, context)
        sides = (side_of(chosen, "chosen", context), side_of(rejected, "rejected", context))
        chosen, rejected = without_prompt(prompt, sides, ("chosen", "rejected"), context)
        pair = (prompt, chosen, rejected)
    elif isinstance(chosen, str) and isinstance(rejected, str):
        pair = ((), (Message(RAW, chosen),), (Message(RAW, rejected),))
    else:
        pair = split_common(
            fields.messages(chosen, "chosen", context),
            fields.messages(rejected, "rejected", context),
        )
    return [preference_of(row, pair, context)]


def preference_of(
    row: Mapping[str, Any],
    pair: tuple[Messages, Messages, Messages],
    context: Context,
    strength: float | None = None,
) -> Preference:
    """A checked pair of (prompt, chosen, rejected) with the row's margin, id and source."""
    note_tools(row, context)
    prompt, chosen, rejected = pair
    if prompt:  # whole conversations may share nothing
        fields.filled_prompt(prompt, "prompt", context)
    return Preference(
        prompt,
        fields.filled_response(chosen, "chosen", context),
        fields.filled_response(rejected, "rejected", context),
        fields.margin(row, context) if strength is None else strength,
        fields.optional_text(row, "id", context),
        fields.optional_text(row, "source", context),
        context.where,
    )


def split_common(chosen: Messages, rejected: Messages) -> tuple[Messages, Messages, Messages]:
    """Two conversations as (common beginning, rest, rest); each rest keeps at least one message."""
    most = min(len(chosen), len(rejected)) - 1
    shared = 0
    while shared < most and chosen[shared] == rejected[shared]:
        shared += 1
    return chosen[:shared], chosen[shared:], rejected[shared:]


def rated(row: Mapping[str, Any], context: Context) -> list[Rated]:
    """`{prompt, response, scores: {name: number | null}}`, or flat columns named in the config.

    With attributes configured only those are taken, from `scores` where the row has it, else from
    the row itself. Null or absent means not rated.
    """
    prompt, response = prompt_and_response(row, context)
    note_tools(row, context)
    return [
        Rated(
            prompt,
            fields.filled_response(response, "response", context),
            scores_of(row, context),
            fields.optional_text(row, "id", context),
            fields.optional_text(row, "source", context),
            context.where,
        )
    ]


def scores_of(row: Mapping[str, Any], context: Context) -> dict[str, float | None]:
    """The ratings of a row, nested or flat; None where not rated."""
    nested = row.get("scores")
    if nested is None and context.columns is None:
        raise context.bad(
            "scores",
            Defect.MISSING_FIELD,
            "missing, expected {name: number or null}; for flat columns name them as attributes",
        )
    if nested is not None and not isinstance(nested, dict):
        raise context.wrong("scores", nested, "an object {name: number or null}")
    values, prefix = (row, "") if nested is None else (nested, "scores.")
    columns = context.columns or {name: name for name in values}
    for name in columns:
        if not isinstance(name, str) or not name.strip() or name in RESERVED:
            problem = f"{name!r} cannot be the name of an attribute"
            raise context.bad("scores", Defect.BAD_ATTRIBUTE_NAME, problem)
    return {
        name: None
        if values.get(column) is None
        else fields.number(values[column], f"{prefix}{column}", context)
        for name, column in columns.items()
    }


def candidates(row: Mapping[str, Any], context: Context) -> list[Candidates]:
    """`{prompt, responses: [...]}`, `{prompt, response}` or `{messages}`; other fields are ignored.

    A response is text, a message list, or an object that holds it as `response`. An empty one is
    scored like any other, and counted: policies do write them.
    """
    if row.get("responses") is not None:
        values = row["responses"]
        if not isinstance(values, list) or not values:
            raise context.wrong("responses", values, "a list of at least one response")
        prompt = prompt_of(row, context)
        names = tuple(f"responses[{at}]" for at in range(len(values)))
        given = zip(values, names, strict=True)
        sides = tuple(side_of(_inner(value), name, context) for value, name in given)
        responses = without_prompt(prompt, sides, names, context)
    else:
        prompt, response = prompt_and_response(row, context)
        responses = (response,)
    return [candidates_of(row, prompt, responses, context)]


def candidates_of(
    row: Mapping[str, Any], prompt: Messages, responses: tuple[Messages, ...], context: Context
) -> Candidates:
    """Checked candidates with the row's id and source."""
    for at, response in enumerate(responses):
        fields.ends_in_answer(response, f"responses[{at}]", context)
        if not response[-1].content.strip():
            context.count(DropReason.EMPTY_RESPONSE)
    identity = fields.optional_text(row, "id", context)
    source = fields.optional_text(row, "source", context)
    return Candidates(prompt, responses, identity, source, context.where)


def _inner(value: object) -> object:
    return value.get("response") if isinstance(value, dict) else value


def has_prompt(row: Mapping[str, Any]) -> bool:
    """Whether the row gives its prompt apart from its sides."""
    return "prompt" in row or row.get("prompt_messages") is not None


def prompt_of(row: Mapping[str, Any], context: Context) -> Messages:
    """The prompt: `prompt_messages` where the row has it, else `prompt` as text or messages."""
    name = "prompt_messages" if row.get("prompt_messages") is not None else "prompt"
    value = fields.required(row, name, context)
    if isinstance(value, str):
        prompt: Messages = (Message("user", value),)
    elif isinstance(value, list):
        prompt = fields.messages(value, name, context)
    else:
        raise context.wrong(name, value, "text or a list of messages")
    return fields.filled_prompt(prompt, name, context)


def side_of(value: object, field: str, context: Context) -> Messages:
    """What follows the prompt: text becomes one assistant message."""
    if isinstance(value, str):
        return (Message("assistant", value),)
    if isinstance(value, list):
        return fields.messages(value, field, context)
    raise context.wrong(field, value, "text or a list of messages")


def prompt_and_response(row: Mapping[str, Any], context: Context) -> tuple[Messages, Messages]:
    """One prompt and one response; `messages` holds both, the last message is the response."""
    if not has_prompt(row) and row.get("messages") is not None:
        whole = fields.messages(row["messages"], "messages", context)
        if len(whole) < 2:
            raise context.bad(
                "messages", Defect.MISSING_FIELD, "one message, expected prompt and answer"
            )
        return fields.filled_prompt(whole[:-1], "messages", context), whole[-1:]
    prompt = prompt_of(row, context)
    response = side_of(fields.required(row, "response", context), "response", context)
    return prompt, without_prompt(prompt, (response,), ("response",), context)[0]


def without_prompt(
    prompt: Messages, sides: tuple[Messages, ...], names: tuple[str, ...], context: Context
) -> tuple[Messages, ...]:
    """The sides as continuations of the prompt.

    Where every side begins with the whole prompt (whole conversations beside a prompt, as in
    `ultrafeedback_binarized`), the prompt is taken once, and counted.
    """
    size = len(prompt)
    if all(len(side) > size and side[:size] == prompt for side in sides):
        context.count(DropReason.REPEATED_PROMPT)
        sides = tuple(side[size:] for side in sides)
    for side, name in zip(sides, names, strict=True):
        before, after = prompt[-1].role, side[0].role
        if (before, after) in {("user", "user"), ("user", "system"), ("assistant", "assistant")}:
            problem = f"its first message is of {after!r} while the prompt ends with {before!r}"
            raise context.bad(name, Defect.ROLE_ORDER, problem)
    return sides


def note_tools(row: Mapping[str, Any], context: Context) -> None:
    """Count what TRL would have rendered and this project does not."""
    for name in ("tools", "chat_template_kwargs"):
        if row.get(name):
            context.count(DropReason.FIELD_IGNORED, name)


def split_turns(text: str, marker: re.Pattern[str]) -> Messages:
    """Text cut at markers that name a speaker; text before the first one is the user's."""
    before, *rest = marker.split(text)
    turns = [Message("user", before)] if before.strip() or not rest else []
    for speaker, content in zip(rest[::2], rest[1::2], strict=True):
        turns.append(Message(_SPEAKERS[speaker], content.removeprefix("\n")))
    return tuple(turns)


PREFERENCE = Format("preference", preference, "{prompt?, chosen, rejected, margin?}")
RATED = Format("rated", rated, "{prompt, response, scores: {name: number or null}}")
CANDIDATES = Format("candidates", candidates, "{prompt, responses: [...]}")
