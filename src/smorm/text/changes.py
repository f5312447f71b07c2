"""What a chat template does not write of a conversation, by kind.

Templates drop things without a word: Qwen3's the reasoning of earlier turns, Gemma's tools, many
whatever they do not know. A structure is tried once, with words in place of its texts; and every
text is looked for in what was rendered, so that a change that depends on the text is seen too.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

END_OF_THOUGHT, START_OF_THOUGHT = "</think>", "<think>"
REASONING = ("reasoning_content", "reasoning", "thinking")
# Of these the structure says enough: ids join calls to answers, and types are the template's.
_IDENTIFIERS = frozenset({"id", "name", "role", "tool_call_id", "type"})
_CONTENT, _ANSWER = "content", "answer"

Place = tuple[int, str]
"""A text of a conversation: the index of its message and the name of the piece."""
Structure = tuple[Any, ...]


class Change(StrEnum):
    """What became of a part of a conversation; the value is the text that is counted."""

    DEVELOPER_AS_SYSTEM = "developer message written as the system's"
    MESSAGE_REMOVED = "message that the chat template does not write"
    TEXT_CHANGED = "message whose text the chat template changes"
    REASONING_REMOVED = "reasoning that the chat template does not write"
    TOOL_CALLS_REMOVED = "tool call that the chat template does not write"
    TOOLS_REMOVED = "tools that the chat template does not write"
    FIELD_REMOVED = "field of a message that the chat template does not write"


@dataclass(frozen=True, slots=True)
class Piece:
    """A text of a conversation and what it means for the count if the template leaves it out."""

    turn: int
    name: str
    text: str
    loss: Change


def pieces_of(turn: Mapping[str, Any], index: int) -> Iterator[Piece]:
    """The texts of a message: its reasoning, inside of the content or beside it, and the rest."""
    content = turn.get("content")
    if isinstance(content, str):
        thought, end, answer = content.rpartition(END_OF_THOUGHT)
        if end:
            thought = thought.rpartition(START_OF_THOUGHT)[2]
            yield Piece(index, _CONTENT, thought, Change.REASONING_REMOVED)
            yield Piece(index, _ANSWER, answer, Change.MESSAGE_REMOVED)
        else:
            yield Piece(index, _CONTENT, content, Change.MESSAGE_REMOVED)
    for name in REASONING:
        if isinstance(turn.get(name), str):
            yield Piece(index, name, turn[name], Change.REASONING_REMOVED)


def with_words(
    turns: Sequence[Mapping[str, Any]],
) -> tuple[list[dict[str, Any]], dict[Place, str]]:
    """The same structure with a word of its own in place of each text, and these words by piece."""
    worded: list[dict[str, Any]] = []
    words: dict[Place, str] = {}
    for index, turn in enumerate(turns):
        copy = dict(turn)
        for piece in pieces_of(turn, index):
            if not piece.text.strip():
                continue
            word = f"zq{len(words)}w"
            words[index, piece.name] = word
            if piece.name == _ANSWER:
                copy[_CONTENT] = f"{copy[_CONTENT]}\n\n{word}"
            elif piece.name == _CONTENT and END_OF_THOUGHT in turn[_CONTENT]:
                copy[_CONTENT] = f"{START_OF_THOUGHT}\n{word}\n{END_OF_THOUGHT}"
            else:
                copy[piece.name] = word
        worded.append(copy)
    return worded, words


def structure_of(turns: Sequence[Mapping[str, Any]], options: Mapping[str, Any]) -> Structure:
    """What decides which pieces a template leaves out, whatever they say."""
    structure: list[Any] = [tuple(options)]
    for index, turn in enumerate(turns):
        pieces = [piece.name for piece in pieces_of(turn, index) if piece.text.strip()]
        structure.append((turn["role"], *turn, *pieces))
    return tuple(structure)


def changes_of(
    turns: Sequence[Mapping[str, Any]],
    options: Mapping[str, Any],
    text: str,
    removed: frozenset[Place],
) -> list[Change]:
    """What is not in the rendered `text`; `removed` names the pieces (turn, name) that the template
    leaves out whatever they say."""
    changes: list[Change] = []
    for index, turn in enumerate(turns):
        for piece in pieces_of(turn, index):
            if not piece.text.strip():
                continue
            if (index, piece.name) in removed:
                changes.append(piece.loss)
            elif not is_written(piece.text, text):
                changes.append(Change.TEXT_CHANGED)
        changes += _fields_removed(turn, text)
    for tool in options.get("tools", ()):
        name = tool.get("function", tool).get("name") if isinstance(tool, Mapping) else None
        if isinstance(name, str) and not is_written(name, text):
            changes.append(Change.TOOLS_REMOVED)
            break
    return changes


def _fields_removed(turn: Mapping[str, Any], text: str) -> Iterator[Change]:
    for call in turn.get("tool_calls") or ():
        # The name is an identifier elsewhere, and what a call is about here.
        called = call.get("function", call) if isinstance(call, Mapping) else {}
        texts = [called.get("name"), *_texts(called.get("arguments"))]
        if not all(is_written(value, text) for value in texts if isinstance(value, str)):
            yield Change.TOOL_CALLS_REMOVED
    known = {"content", "tool_calls", *REASONING, *_IDENTIFIERS}
    for name, value in turn.items():
        if name not in known and not all(is_written(leaf, text) for leaf in _texts(value)):
            yield Change.FIELD_REMOVED


def _texts(value: Any) -> Iterator[str]:
    """The texts in a JSON value, but for identifiers."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for name, child in value.items():
            if name not in _IDENTIFIERS:
                yield from _texts(child)
    elif isinstance(value, Sequence):
        for child in value:
            yield from _texts(child)


def is_written(piece: str, text: str) -> bool:
    """Whether a text stands in a rendered one, as it is or as JSON; templates trim its ends."""
    piece = piece.strip()
    if piece in text or json.dumps(piece, ensure_ascii=False)[1:-1] in text:
        return True
    return not piece.isascii() and json.dumps(piece)[1:-1] in text
