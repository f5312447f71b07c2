"""Messages as data sets spell them: role names, keys, text parts, tool calls."""

from __future__ import annotations

import json
from collections.abc import Mapping
from enum import StrEnum
from typing import Any

from smorm.data.census import Defect
from smorm.data.fields import Context, names_of, text
from smorm.data.rows import is_empty, plain
from smorm.text.changes import REASONING
from smorm.text.chat import INPUTS, ROLES, Message, Messages

ROLE_NAMES = {
    "human": "user",
    "prompter": "user",
    "gpt": "assistant",
    "bot": "assistant",
    "chatgpt": "assistant",
    "model": "assistant",
    "ai": "assistant",
    "function": "tool",
    "observation": "tool",
    "ipython": "tool",
}
"""Names of roles in other data sets; upper case and spaces around them make no difference."""
_ROLE_KEYS, _CONTENT_KEYS = ("role", "from"), ("content", "value")
# What a message gives the template beside its role and content, where it has it.
_TEMPLATE_KEYS = (*REASONING, "tool_calls", "tool_call_id", "name")
_TEXT_PARTS = ("text", "input_text", "output_text")


class Spelling(StrEnum):
    """Spellings that were understood, counted."""

    ROLE_MAPPED = "role {} read as another one's name"
    FROM_VALUE = "message written as from/value"
    ONE_MESSAGE = "one message object read as a list of it"
    TEXT_PARTS = "content read from its text parts"
    JSON_TEXT = "{} written as JSON text, read as what it says"


def read_messages(value: object, field: str, context: Context) -> Messages:
    """A non-empty list of messages, or one message object.

    A message is `{role, content}` or `{from, value}`; its content is text or a list of text parts,
    and may be null beside tool calls. Raises `BadRecord` for anything else, an image part included.
    """
    if isinstance(value, Mapping):
        message = _message(value, field, context)
        context.count(Spelling.ONE_MESSAGE)
        return (message,)
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
        if not isinstance(turn, Mapping):
            raise context.wrong(name, turn, "a message {role, content}")
        turns.append(_message(turn, name, context))
    return tuple(turns)


def _message(turn: Mapping[str, Any], field: str, context: Context) -> Message:
    role_key = _key(turn, _ROLE_KEYS, field, context)
    if role_key == "from":
        context.count(Spelling.FROM_VALUE)
    role = _role(turn[role_key], f"{field}.{role_key}", context)
    extra: dict[str, Any] = {}
    for key in _TEMPLATE_KEYS:
        if not is_empty(turn.get(key)):
            extra[key] = plain(turn[key])
    if isinstance(extra.get("tool_calls"), str):
        extra["tool_calls"] = from_json(extra["tool_calls"], f"{field}.tool_calls", context)
    content = ""
    if extra.get("tool_calls") and all(turn.get(key) is None for key in _CONTENT_KEYS):
        extra["content"] = None
    else:
        key = _key(turn, _CONTENT_KEYS, field, context)
        content = _content(turn[key], f"{field}.{key}", context)
    encoded = json.dumps(extra, ensure_ascii=False) if extra else ""
    return Message(role, content, encoded)


def _key(turn: Mapping[str, Any], keys: tuple[str, ...], field: str, context: Context) -> str:
    for key in keys:
        if turn.get(key) is not None:
            return key
    problem = f"missing; the object has: {names_of(turn)}"
    if keys[0] in turn:
        problem = "null, expected a value"
    raise context.bad(f"{field}.{keys[0]}", Defect.MISSING_FIELD, problem)


def _role(value: object, field: str, context: Context) -> str:
    name = text(value, field, context)
    if name in ROLES:
        return name
    role = name.strip().lower()
    role = ROLE_NAMES.get(role, role)
    if role not in ROLES:
        expected = ", ".join(sorted([*ROLES, *ROLE_NAMES]))
        raise context.bad(field, Defect.UNKNOWN_ROLE, f"{name!r}, expected one of {expected}")
    context.count(Spelling.ROLE_MAPPED, name)
    return role


def _content(value: Any, field: str, context: Context) -> str:
    """Text, or the texts of a list of parts one after the other."""
    if not isinstance(value, list):
        return text(value, field, context)
    texts: list[str] = []
    for index, piece in enumerate(value):
        name = f"{field}[{index}]"
        if isinstance(piece, str):
            texts.append(piece)
            continue
        if not isinstance(piece, Mapping):
            raise context.wrong(name, piece, "a text part {type: text, text}")
        kind = piece.get("type") or "text"
        # A table of mixed parts has every key in every piece, null where it says nothing.
        if kind not in _TEXT_PARTS or piece.get("text") is None:
            problem = f"a part of type {kind!r}; only text can be read"
            raise context.bad(name, Defect.NOT_TEXT, problem)
        texts.append(text(piece["text"], f"{name}.text", context))
    context.count(Spelling.TEXT_PARTS)
    return "".join(texts)


def from_json(value: str, field: str, context: Context) -> Any:
    """What a text says as JSON; BadRecord where it is none."""
    try:
        return json.loads(value)
    except ValueError as error:
        raise context.bad(field, Defect.NOT_JSON, f"not valid JSON: {error}") from error


def template_inputs(row: Mapping[str, Any], context: Context) -> Messages:
    """The message that carries a row's `tools` and `chat_template_kwargs`, where it has any."""
    inputs: dict[str, Any] = {}
    for name in ("tools", "chat_template_kwargs"):
        value = row.get(name)
        if isinstance(value, str) and value.strip():
            context.count(Spelling.JSON_TEXT, name)
            value = from_json(value, name, context)
        if is_empty(value):
            continue
        expected = list if name == "tools" else dict
        if not isinstance(value, expected):
            raise context.wrong(name, value, "a list of tools" if name == "tools" else "an object")
        inputs[name] = plain(value)
    if not inputs:
        return ()
    return (Message(INPUTS, json.dumps(inputs, ensure_ascii=False)),)
