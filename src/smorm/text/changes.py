"""What a chat template does not write of a conversation, by kind.

Templates drop things without a word: Qwen3's the reasoning of earlier turns, Gemma's tools, many
whatever they do not know. A structure is tried once, with words in place of its texts; and every
text is looked for in what was rendered, so that a change that depends on the text is seen too.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from enum import StrEnum
from typing import Any, NamedTuple

END_OF_THOUGHT, START_OF_THOUGHT = "</think>", "<think>"
REASONING = ("reasoning_content", "reasoning", "thinking")
# Of these the structure says enough: ids join calls to answers, and types are the template's.
_IDENTIFIERS = frozenset({"id", "name", "role", "tool_call_id", "type"})
_WORD = re.compile(r"zq\d+w")  # as `with_words` makes them
_CONTENT, _ANSWER = "content", "answer"
_TOLD_BY_PIECES = frozenset({_CONTENT, *REASONING, *_IDENTIFIERS})

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


class Piece(NamedTuple):
    """A text of a conversation and what it means for the count if the template leaves it out."""

    turn: int
    name: str
    text: str
    loss: Change


def pieces_of(turns: Sequence[Mapping[str, Any]]) -> list[Piece]:
    """The texts of each message that are not blank: its reasoning, inside of the content or beside
    it, and the rest."""
    # In few steps, since it runs on every conversation.
    pieces: list[Piece] = []
    for index, turn in enumerate(turns):
        content = turn.get(_CONTENT)
        if isinstance(content, str):
            name = _CONTENT
            if END_OF_THOUGHT in content:
                thought, _, content = content.rpartition(END_OF_THOUGHT)
                thought = thought.rpartition(START_OF_THOUGHT)[2]
                pieces.append(Piece(index, _CONTENT, thought, Change.REASONING_REMOVED))
                name = _ANSWER
            pieces.append(Piece(index, name, content, Change.MESSAGE_REMOVED))
        if len(turn) > 2:
            beside = [name for name in REASONING if isinstance(turn.get(name), str)]
            pieces += [Piece(index, name, turn[name], Change.REASONING_REMOVED) for name in beside]
    return [piece for piece in pieces if piece.text and not piece.text.isspace()]


def with_words(
    turns: Sequence[Mapping[str, Any]], pieces: Sequence[Piece]
) -> tuple[list[dict[str, Any]], dict[Place, str]]:
    """The same structure with a word of its own in place of each text, and these words by piece."""
    worded = list(map(dict, turns))
    words: dict[Place, str] = {}
    for piece in pieces:
        word = f"zq{len(words)}w"
        words[piece.turn, piece.name] = word
        turn = worded[piece.turn]
        if piece.name == _ANSWER:
            thought = turn[_CONTENT].rpartition(END_OF_THOUGHT)[0]
            turn[_CONTENT] = f"{thought}{END_OF_THOUGHT}\n\n{word}"
        elif piece.name == _CONTENT and END_OF_THOUGHT in turn[_CONTENT]:
            turn[_CONTENT] = f"{START_OF_THOUGHT}\n{word}\n{END_OF_THOUGHT}"
        else:
            turn[piece.name] = word
    return worded, words


def words_in(text: str) -> set[str]:
    """Of the words of `with_words` those that a text holds."""
    return set(_WORD.findall(text))


def structure_of(
    turns: Sequence[Mapping[str, Any]], options: Mapping[str, Any], pieces: Sequence[Piece]
) -> Structure:
    """What decides which pieces a template leaves out, whatever they say."""
    # Of tools their being there; other options are switches, which decide by their value.
    switches = [(name, name == "tools" or repr(value)) for name, value in options.items()]
    roles, keys = [turn["role"] for turn in turns], list(map(tuple, turns))
    return (*switches, *roles, *keys, *[piece[:2] for piece in pieces])


def changes_of(
    turns: Sequence[Mapping[str, Any]],
    options: Mapping[str, Any],
    pieces: Sequence[Piece],
    text: str,
    removed: frozenset[Place],
) -> list[Change]:
    """What is not in the rendered `text`; `removed` names the pieces (turn, name) that the template
    leaves out whatever they say."""
    changes: list[Change] = []
    for piece in pieces:
        if (piece.turn, piece.name) in removed:
            changes.append(piece.loss)
        elif not is_written(piece.text, text):
            changes.append(Change.TEXT_CHANGED)
    for turn in turns:
        if not turn.keys() <= _TOLD_BY_PIECES:
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
    for name, value in turn.items():
        known = name == "tool_calls" or name in _TOLD_BY_PIECES
        if not known and not all(is_written(leaf, text) for leaf in _texts(value)):
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
