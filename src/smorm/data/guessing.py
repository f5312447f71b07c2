"""Which columns of a row are likely which parts of a record, for the end of an error.

Nothing is read by a guess: a row is refused, and the sentence says what its source could say. A
guess is followed before it is given, so that what it names reads the row.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from smorm.data import rows
from smorm.data.census import BadRecord, Census, Defect
from smorm.data.fields import Context
from smorm.data.formats import FORMATS
from smorm.data.mapping import Columns
from smorm.data.records import Kind

_ANSWERS = ("response", "answer", "output", "completion", "reply", "generation")
_GOOD = ("chosen", "preferred", "accepted", "win", "winning", "positive", "pos", "better", "good")
_BAD = ("rejected", "dispreferred", "non_preferred", "lose", "losing", "negative", "neg", "worse",
        "bad")  # fmt: skip


def _with_answers(words: tuple[str, ...], *more: str) -> tuple[str, ...]:
    """The words, and each of them before and behind the names of an answer."""
    pairs = [(f"{word}_{answer}", f"{answer}_{word}") for word in words for answer in _ANSWERS]
    return (*words, *(name for pair in pairs for name in pair), *more)


# Names by which data sets call the parts, as `_plain` spells them; the likeliest come first.
_NAMES: dict[str, tuple[str, ...]] = {
    "prompt": (
        "prompt", "question", "query", "instruction", "input", "user_input", "problem", "messages",
        "conversations", "conversation", "dialogue", "dialog", "turns", "context", "history",
        "post",
    ),
    "messages": ("messages", "conversations", "conversation", "dialogue", "dialog", "turns"),
    "chosen": _with_answers(_GOOD),
    "rejected": _with_answers(_BAD, "rejected_responses", "rejected_answers"),
    "response": (*_ANSWERS, "prediction", "generated"),
    "responses": ("responses", "answers", "outputs", "completions", "candidates", "generations",
                  "output"),
    "response_a": tuple(f"{answer}{end}" for answer in _ANSWERS for end in ("_a", "_1", "1", "_0")),
    "response_b": tuple(f"{answer}{end}" for answer in _ANSWERS for end in ("_b", "_2", "2", "_1")),
    "label": ("label", "winner", "preference", "preferred", "better", "choice", "verdict",
              "overall_preference"),
    "scores": ("scores", "score", "rating", "reward", "quality", "feedback", "label", "labels"),
    # `ranking` may as well be the order of the answers.
    "ranks": ("ranks", "rank"),
    "ratings": ("ratings", "scores", "rewards", "rating", "score"),
    "text": ("text",),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Shape:
    form: Literal["preference", "rated", "candidates", "ranked", "ab"]
    columns: tuple[str, ...]


# By how much they say of a row: a pair is more than the answers in it.
_SHAPES = (
    _Shape("preference", ("prompt", "chosen", "rejected")),
    _Shape("ab", ("prompt", "response_a", "response_b", "label")),
    _Shape("ranked", ("prompt", "responses", "ranks")),
    _Shape("ranked", ("prompt", "responses", "ratings")),
    _Shape("rated", ("prompt", "response", "scores")),
    _Shape("candidates", ("prompt", "responses")),
    _Shape("candidates", ("prompt", "response")),
    _Shape("rated", ("messages", "scores")),
    _Shape("candidates", ("messages",)),
    _Shape("rated", ("text", "scores")),
)
_LABEL = "label: HOW (signed, index, number, first_better or {first: [...], second: [...]})"
_LEVELS = 3  # of objects in objects that are looked into for names
_AUTO = ("preference", "rated", "candidates")
_CONVERSIONS: tuple[tuple[str, ...], ...] = (
    (), ("booleans",), ("numbers_in_text",), ("booleans", "numbers_in_text")
)  # fmt: skip


def likely_source(row: Mapping[str, Any], kind: Kind | None) -> str:
    """The keys of a source by which a row would be read, as the end of an error; else nothing."""
    paths = dict(_paths(row))
    for shape in _SHAPES:
        if kind not in (None, FORMATS[shape.form].kind):
            continue
        columns = _columns_of(shape, paths)
        if columns is None:
            continue
        for conversions in _CONVERSIONS:
            reads = _reads(shape, columns, conversions, row)
            if reads is not None:
                return f"; it may be read with {_spelt(shape, columns, conversions, reads)}"
    return _inside(row)


def _inside(row: Mapping[str, Any]) -> str:
    """What is to be done where the rows are a list inside of an object that a file is."""
    lists: dict[str, int] = {}
    for name, value in row.as_given() if isinstance(row, rows.Row) else row.items():
        objects = isinstance(value, list) and value and all(isinstance(v, dict) for v in value)
        if objects and not any("role" in v or "from" in v for v in value):
            lists[str(name)] = len(value)
    if not lists:
        return _by_id(row)
    # The last of the longest: what describes the columns comes first.
    name = max(reversed(lists), key=lists.__getitem__)
    jq = f"jq -c '.[{json.dumps(name)}][]' FILE > rows.jsonl"
    return f"; where the objects in {name!r} are the rows, take them out: {jq}"


def _by_id(row: Mapping[str, Any]) -> str:
    """What is to be done where a file is one object that holds each row under its id."""
    values = [value for _, value in (row.as_given() if isinstance(row, rows.Row) else row.items())]
    if len(values) < 2 or not all(isinstance(value, dict) and value for value in values):
        return ""
    if any(value.keys() != values[0].keys() for value in values) or "role" in values[0]:
        return ""
    jq = "jq -c 'to_entries[] | {id: .key} + .value' FILE > rows.jsonl"
    return f"; where each object in it is a row, take them out: {jq}"


def _paths(row: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Plain names of the fields, those in objects too, with their paths; nothing of it is read."""
    values = row.as_given() if isinstance(row, rows.Row) else row.items()
    inside: list[tuple[str, str]] = []
    for name, value in values:
        if rows.is_empty(value):
            continue
        if _may_be_a_part(name, value):
            yield _plain(str(name)), str(name)
        inside += _paths_inside(value, str(name), _LEVELS)
    # A field of the row itself wins; of several objects with a field of one name none does.
    counts = Counter(_plain(str(name)) for name in row)
    counts.update(name for name, _ in inside)
    yield from (entry for entry in inside if counts[entry[0]] == 1)


def _paths_inside(value: Any, path: str, levels: int) -> Iterator[tuple[str, str]]:
    if not isinstance(value, dict) or "role" in value or "from" in value or not levels:
        return
    for name, child in dict.items(value):
        if _may_be_a_part(name, child):
            yield _plain(str(name)), f"{path}.{name}"
        yield from _paths_inside(child, f"{path}.{name}", levels - 1)


def _may_be_a_part(name: object, value: Any) -> bool:
    """Whether a value is not only the object that the parts lie in."""
    if not isinstance(value, dict):
        return True
    return "role" in value or "from" in value or str(name) == "scores"


def _plain(name: str) -> str:
    plain = re.sub(r"[^a-z0-9]+", "_", name.strip().lower()).strip("_")
    # `question_text` is the question.
    return plain.removesuffix("_text") or plain


def _columns_of(shape: _Shape, paths: Mapping[str, str]) -> dict[str, list[str]] | None:
    """The paths of each column of a shape; None where there is none, or one of another column."""
    columns: dict[str, list[str]] = {}
    for column in shape.columns:
        names = [name for name in _NAMES[column] if name in paths]
        # Alpaca's question is both of them.
        chosen = names[:1]
        if chosen == ["instruction"] and "input" in names:
            chosen = ["instruction", "input"]
        if not chosen or [paths[name] for name in chosen] in columns.values():
            return None
        columns[column] = [paths[name] for name in chosen]
    return columns


def _reads(
    shape: _Shape,
    columns: Mapping[str, list[str]],
    conversions: Sequence[str],
    row: Mapping[str, Any],
) -> str | None:
    """What else is to be said, where a row is read so ("" for nothing); None where it is not."""
    attributes = None
    mapped = dict(columns)
    values = dict(row.as_given() if isinstance(row, rows.Row) else row)
    if "scores" in mapped and not isinstance(values.get("scores"), dict):
        (name,) = mapped.pop("scores")
        attributes = {name: name}
    parsed = Columns.parse(mapped)
    context = Context(
        "", Census(), attributes, parsed.targets, booleans="booleans" in conversions,
        numbers_in_text="numbers_in_text" in conversions,
    )  # fmt: skip
    try:
        read = FORMATS[shape.form].parse(parsed.apply(rows.Row(values), context), context)
    except BadRecord as bad:
        # All but what the numbers of its label mean.
        return _LABEL if bad.defect is Defect.BAD_LABEL else None
    # Of a tie nothing is left.
    if (not read and shape.form != "ab") or any(isinstance(record, BadRecord) for record in read):
        return None
    return ""


def _spelt(
    shape: _Shape,
    columns: Mapping[str, list[str]],
    conversions: Sequence[str],
    more: str,
) -> str:
    named: list[str] = []
    for column, names in columns.items():
        # That a text is a record by itself must be said in any case.
        if names != [column] or column == "text":
            texts = ", ".join(map(_as_yaml, names))
            if len(names) > 1:
                texts = f"[{texts}]"
            named.append(f"{column}: {texts}")
    keys: list[str] = []
    if shape.form not in _AUTO:
        keys.append(f"format: {shape.form}")
    if named:
        keys.append(f"columns: {{{', '.join(named)}}}")
    keys += [f"{key}: true" for key in conversions]
    if more:
        keys.append(more)
    return ", ".join(keys)


def _as_yaml(name: str) -> str:
    return name if re.fullmatch(r"[\w.-]+", name) else json.dumps(name, ensure_ascii=False)
