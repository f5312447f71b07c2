"""Messages as data sets spell them: role names, keys, text parts, tool calls."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Mapping
from enum import StrEnum
from typing import Any

import orjson

from smorm.data.census import BadRecord, Defect
from smorm.data.fields import Context, names_of, text
from smorm.data.jsonvalues import Parser, Unfit, parse_text
from smorm.data.rows import Row, is_empty, plain
from smorm.limits import limit, refusal
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
    "tool_response": "tool",
    "tool_result": "tool",
    "function_response": "tool",
    "function_call": "assistant",
    "tool_call": "assistant",
}
"""Names of roles in other data sets; upper case and spaces around them make no difference."""
_ROLE_KEYS, _CONTENT_KEYS = ("role", "from"), ("content", "value")
# What a message gives the template beside its role and content, where it has it.
_TEMPLATE_KEYS = (*REASONING, "tool_calls", "tool_call_id", "name")
# Roles of messages whose content is a call as JSON text, as ShareGPT's files have it.
_CALLERS = ("function_call", "tool_call")
_MANY_MESSAGES = 1000
_TEXT_PARTS = ("text", "input_text", "output_text")
# Fields that are a prompt or a conversation. A response stays what it says: a policy that writes
# messages must not be able to add turns to the conversation that is scored.
_CONVERSATIONS = frozenset((
    "prompt", "prompt_messages", "messages", "conversations", "rejected_messages", "context",
    "conversation_a", "conversation_b",
))  # fmt: skip
_PRINTED = re.compile(r"\s*\[\s*\{\s*'")
_MOST_PRINTED = 1 << 20  # characters: it is read by Python's own parser
_INPUTS = frozenset({"tools", "chat_template_kwargs"})
_SIDES = ("chosen", "rejected")
_LIST_STARTS = frozenset("[ \t\r\n")


class Spelling(StrEnum):
    """Spellings that were understood, counted."""

    ROLE_MAPPED = "role {} read as another one's name"
    FROM_VALUE = "message written as from/value"
    ONE_MESSAGE = "one message object read as a list of it"
    TEXT_PARTS = "content read from its text parts"
    FUNCTION_CALL = "function call read as a tool call"
    JSON_TEXT = "{} written as JSON text or as Python prints it, read as what it says"


def read_messages(value: object, field: str, context: Context) -> Messages:
    """A non-empty list of messages, or one message object.

    A message is `{role, content}` or `{from, value}`; its content is text or a list of text parts,
    and may be null beside tool calls. Raises `BadRecord` for anything else, an image part included.
    """
    if not isinstance(value, list):
        if isinstance(value, Mapping):
            if not any(key in value for key in _ROLE_KEYS):
                raise _no_message(value, field, context)
            message = _message(value, field, context)
            context.count(Spelling.ONE_MESSAGE)
            return (message,)
        raise context.wrong(field, value, "a list of messages {role, content}")
    if not value:
        defect = Defect.EMPTY_RESPONSE
        if field.startswith("prompt"):
            defect = Defect.EMPTY_PROMPT
        raise context.bad(field, defect, "an empty list, expected at least one message")
    # The variable is not looked up for usual conversations.
    if len(value) > _MANY_MESSAGES and len(value) > limit("messages"):
        raise context.bad(field, Defect.TOO_MANY_VALUES, refusal("messages", len(value)))
    turns = []
    for index, turn in enumerate(value):
        name = f"{field}[{index}]"
        if not isinstance(turn, Mapping):
            raise context.wrong(name, turn, "a message {role, content}")
        turns.append(_message(turn, name, context))
    return tuple(turns)


def _no_message(value: Mapping[str, Any], field: str, context: Context) -> BadRecord:
    """The error for an object that may hold the text in one of its fields."""
    problem = f"missing; the object has: {names_of(value)}"
    texts = [name for name, inside in plain(value).items() if isinstance(inside, str)]
    if context.configurable and texts and field.isidentifier() and texts[0].isidentifier():
        problem += f"; its text may be named (columns: {{{field}: {field}.{texts[0]}}})"
    return context.bad(f"{field}.role", Defect.MISSING_FIELD, problem)


def read_json_texts(row: Row, context: Context) -> None:
    """Put messages that are written as JSON text in its stead into the row, counted. Both sides of
    a pair, or neither: of one alone it is what the answer says."""
    for value in dict.values(row):
        if type(value) is str and value[:1] in _LIST_STARTS:
            break
    else:
        return  # nearly all rows
    read: dict[str, list[Any] | None] = {}
    for name, value in row.as_given():
        if isinstance(value, str) and value[:1] in _LIST_STARTS:
            read[name] = messages_in(value)
    sides = [read.get(name) for name in _SIDES]
    are_conversations = all(turns and _role_named(turns[-1]) == "assistant" for turns in sides)
    for name, turns in read.items():
        if turns is not None and (name in _CONVERSATIONS or (are_conversations and name in _SIDES)):
            dict.__setitem__(row, name, turns)
            context.count(Spelling.JSON_TEXT, name)


def messages_in(value: str) -> list[Any] | None:
    """What a text says where it is, as a whole, the JSON of a list of messages, or that list as
    Python prints it (pandas does, into CSV); else None."""
    try:
        turns = Parser().parse(value.encode("utf-8", "surrogatepass"))
    except Unfit:  # over a limit
        return None
    except orjson.JSONDecodeError:
        if not _PRINTED.match(value) or len(value) > _MOST_PRINTED:
            return None
        try:
            turns = ast.literal_eval(value.strip())
            orjson.dumps(turns)  # what JSON does not know is no message of anybody's
        except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
            return None
    if not isinstance(turns, list):
        return None
    for turn in turns:
        if not isinstance(turn, dict) or _role_named(turn) is None:
            return None
        if not turn.keys() & {*_CONTENT_KEYS, "tool_calls"}:
            return None
    return turns or None


def _role_named(turn: Mapping[str, Any]) -> str | None:
    """The role that a message says it has, in whatever spelling is read."""
    for key in _ROLE_KEYS:
        if isinstance(turn.get(key), str):
            name = _named(turn[key])
            name = ROLE_NAMES.get(name, name)
            return name if name in ROLES else None
    return None


def _message(turn: Mapping[str, Any], field: str, context: Context) -> Message:
    # What most messages are.
    if len(turn) == 2:
        role, content = turn.get("role"), turn.get("content")
        if isinstance(role, str) and role in ROLES and isinstance(content, str):
            return Message(role, content)
    role_key = _key(turn, _ROLE_KEYS, field, context)
    if role_key == "from":
        context.count(Spelling.FROM_VALUE)
    role = _role(turn[role_key], f"{field}.{role_key}", context)
    extra: dict[str, Any] = {}
    for key in _TEMPLATE_KEYS:
        if key in turn and not is_empty(turn[key]):
            extra[key] = plain(turn[key])
    calls = extra.get("tool_calls")
    if calls is None and not is_empty(turn.get("function_call")):
        # As OpenAI had it before there were several calls.
        context.count(Spelling.FUNCTION_CALL)
        calls = [{"type": "function", "function": plain(turn["function_call"])}]
    if calls is None and _named(turn[role_key]) in _CALLERS:
        return _call(turn, extra, field, context)
    if calls is not None:
        extra["tool_calls"] = from_json_texts(calls, "tool_calls", f"{field}.tool_calls", context)
    content = ""
    if extra.get("tool_calls") and all(turn.get(key) is None for key in _CONTENT_KEYS):
        extra["content"] = None
    else:
        key = _key(turn, _CONTENT_KEYS, field, context)
        content = _content(turn[key], f"{field}.{key}", context)
    return Message(role, content, _encoded(extra, field, context) if extra else "")


def _encoded(values: Mapping[str, Any], field: str, context: Context) -> str:
    """Values as a JSON object; BadRecord for what JSON does not know (a table may hold it)."""
    try:
        return json.dumps(values, ensure_ascii=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise context.bad(field, Defect.NOT_JSON, f"cannot be written as JSON: {error}") from error


def _named(role: object) -> str:
    return role.strip().lower() if isinstance(role, str) else ""


def _call(
    turn: Mapping[str, Any], extra: Mapping[str, Any], field: str, context: Context
) -> Message:
    """The message of a call that its content says as JSON: `{name, arguments}`, or a list."""
    key = _key(turn, _CONTENT_KEYS, field, context)
    calls = turn[key]
    if isinstance(calls, str):
        calls = from_json(calls, f"{field}.{key}", context)
    if isinstance(calls, Mapping):
        calls = [calls]
    if not isinstance(calls, list) or not all(isinstance(call, Mapping) for call in calls):
        raise context.wrong(f"{field}.{key}", turn[key], "a call {name, arguments} as JSON text")
    context.count(Spelling.FUNCTION_CALL)
    functions = [{"type": "function", "function": plain(call)} for call in calls]
    fields = {**extra, "tool_calls": functions, "content": None}
    return Message("assistant", "", _encoded(fields, field, context))


def from_json_texts(value: Any, name: str, field: str, context: Context) -> Any:
    """A list of objects that may be JSON text as a whole, or one by one; counted where it is."""
    if isinstance(value, str):
        value = from_json(value, field, context)
        context.count(Spelling.JSON_TEXT, name)
    if not isinstance(value, list) or not any(isinstance(entry, str) for entry in value):
        return value
    context.count(Spelling.JSON_TEXT, name)
    objects: list[Any] = []
    for index, entry in enumerate(value):
        if isinstance(entry, str):
            entry = from_json(entry, f"{field}[{index}]", context)
        objects.append(entry)
    return objects


def _key(turn: Mapping[str, Any], keys: tuple[str, ...], field: str, context: Context) -> str:
    for key in keys:
        if turn.get(key) is not None:
            return key
    problem = f"missing; the object has: {names_of(turn)}"
    problem += "; a message is {role, content} or {from, value}"
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
            problem = f"a part of type {kind!r}; only text can be read (on_bad_record: skip leaves "
            problem += "such records out)"
            raise context.bad(name, Defect.NOT_TEXT, problem)
        texts.append(text(piece["text"], f"{name}.text", context))
    context.count(Spelling.TEXT_PARTS)
    return "".join(texts)


def from_json(value: str, field: str, context: Context) -> Any:
    """What a text says as JSON; BadRecord where it is none, or over a limit."""
    try:
        return parse_text(value)
    except ValueError as error:
        raise context.bad(field, Defect.NOT_JSON, f"not valid JSON: {error}") from error


def template_inputs(row: Mapping[str, Any], context: Context) -> Messages:
    """The message that carries a row's `tools` and `chat_template_kwargs`, where it has any."""
    if _INPUTS.isdisjoint(row):
        return ()
    inputs: dict[str, Any] = {}
    for name in ("tools", "chat_template_kwargs"):
        value = row.get(name)
        if isinstance(value, str) and not value.strip():
            continue
        if name == "tools":
            value = from_json_texts(value, name, name, context)
        elif isinstance(value, str):
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
    return (Message(INPUTS, _encoded(inputs, ", ".join(inputs), context)),)
