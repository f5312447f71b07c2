"""Columns of somebody else's names: a row under the names that the record shapes have."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from smorm.data import fields
from smorm.data.census import Defect, DropReason
from smorm.data.fields import Context
from smorm.data.messages import from_json
from smorm.data.rows import Row, is_empty
from smorm.errors import ConfigError

TARGETS = (
    "prompt", "system", "history", "messages", "chosen", "rejected", "response", "responses",
    "text", "margin", "id", "source", "scores", "tools", "response_a", "response_b", "label",
    "ranks", "ratings",
)  # fmt: skip
"""What columns can be mapped to. `system` and `history` become messages before the prompt."""
_DIFFERENCE = " - "


@dataclass(frozen=True, slots=True)
class Columns:
    """Where a source's rows have what a record needs.

    Attributes:
        paths: target to the columns it is made of; `meta.lang` is a field of an object. Texts of
            several columns are joined by a line break, empty ones left out.
        difference: the two columns whose difference is the margin, or None.
    """

    paths: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    difference: tuple[str, str] | None = None

    @classmethod
    def parse(cls, values: Mapping[str, str | Sequence[str]]) -> Columns:
        """Of a configuration's `columns:`; ConfigError for a target that does not exist."""
        paths: dict[str, tuple[str, ...]] = {}
        difference: tuple[str, str] | None = None
        for target, column in values.items():
            if target not in TARGETS:
                near = difflib.get_close_matches(target, TARGETS, n=1)
                hint = f", did you mean {near[0]}" if near else ""
                raise ConfigError(
                    f"columns: {target!r} is no part of a record{hint}; parts: {', '.join(TARGETS)}"
                )
            names = (column,) if isinstance(column, str) else tuple(column)
            if not names or not all(map(str.strip, names)):
                raise ConfigError(f"columns: {target}: expected the name of a column, got nothing")
            if target == "margin" and len(names) == 1 and _DIFFERENCE in names[0]:
                first, _, second = names[0].partition(_DIFFERENCE)
                difference = (first.strip(), second.strip())
            else:
                paths[target] = names
        return cls(paths, difference)

    @property
    def targets(self) -> frozenset[str]:
        """The parts of a record that are mapped."""
        margin = {"margin"} if self.difference else set()
        return frozenset(self.paths) | margin

    @property
    def names(self) -> set[str]:
        """All columns that are looked for."""
        columns_of = set(self.difference or ())
        for columns in self.paths.values():
            columns_of.update(columns)
        return columns_of

    def apply(self, row: Row, context: Context) -> Row:
        """The row with its columns under the targets' names, others as they are; `BadRecord` where
        it lacks a column that its record cannot be without."""
        if not self.paths and self.difference is None:
            return row
        renamed = dict(row.as_given())
        for name in self.names:
            renamed.pop(name.partition(".")[0], None)
        targets: dict[str, Any] = {}
        for target, columns in self.paths.items():
            values = [value for column in columns if not is_empty(value := value_at(row, column))]
            if (
                not values
                and target not in _OPTIONAL
                and not any(has_column(row, column) for column in columns)
            ):
                problem = f"missing (columns: {target}); the row has: {fields.names_of(row)}"
                raise context.bad(", ".join(columns), Defect.MISSING_FIELD, problem)
            targets[target] = _joined(values, columns, context)
        if self.difference is not None:
            targets["margin"] = _difference(row, self.difference, context)
        # What is beside a mapped field of an object stays, for it may be unread.
        renamed |= _siblings(row, self.names)
        targets = _with_turns_before(targets, renamed, context)
        # A column of a target's own name, in whose stead another one is read.
        replaced = {name: renamed[name] for name in self.targets if name in renamed}
        columns_of = {name: columns[0] for name, columns in self.paths.items() if len(columns) == 1}
        return Row(renamed | targets, columns_of, replaced)


_OPTIONAL = frozenset(
    {"system", "history", "margin", "id", "source", "scores", "tools", "ranks", "ratings"}
)


def has_column(row: Mapping[str, Any], path: str) -> bool:
    """Whether the row has a column, by its name or its path."""
    if path in row:
        return True
    head, _, rest = path.partition(".")
    inside = row.get(head)
    return bool(rest) and isinstance(inside, Mapping) and has_column(inside, rest)


def value_at(row: Mapping[str, Any], path: str) -> Any:
    """The value of a column, or of a field inside of objects; None where there is none."""
    if path in row:
        return row[path]
    head, _, rest = path.partition(".")
    inside = row.get(head)
    if rest and isinstance(inside, Mapping):
        return value_at(inside, rest)
    return None


def _siblings(row: Row, names: set[str]) -> dict[str, Any]:
    """Objects of which one field is mapped, without that field."""
    rest_of: dict[str, Any] = {}
    for name in names:
        head, _, rest = name.partition(".")
        inside = rest_of.get(head, row.get(head))
        if rest and name not in row and isinstance(inside, dict):
            rest_of[head] = _without(inside, rest)
    return rest_of


def _without(inside: dict[str, Any], path: str) -> dict[str, Any]:
    """An object without the field of a path; nothing of it is read by this."""
    head, _, rest = path.partition(".")
    child = dict.get(inside, head)
    others = {key: value for key, value in dict.items(inside) if key not in (head, path)}
    if path not in inside and rest and isinstance(child, dict):
        others[head] = _without(child, rest)
    return others


def _joined(values: list[Any], columns: Sequence[str], context: Context) -> Any:
    """One value as it is; of several, the texts in one."""
    if len(columns) == 1:
        return values[0] if values else None
    for value in values:
        if not isinstance(value, str):
            raise context.wrong(" and ".join(columns), value, "texts, which are joined")
    return "\n".join(values)


def _difference(row: Row, columns: tuple[str, str], context: Context) -> float | None:
    first, second = (fields.rating(value_at(row, column), column, context) for column in columns)
    if first is None or second is None:
        context.count(DropReason.RATING_ABSENT)
        return None
    return first - second


# Fields that begin a conversation: of a row the first that it has, or both sides of a pair.
_TURNS = {
    "prompt": ("prompt",),
    "messages": ("messages",),
    "conversations": ("conversations",),
    "chosen": ("chosen", "rejected"),
}


def _with_turns_before(
    targets: dict[str, Any], rest: Mapping[str, Any], context: Context
) -> dict[str, Any]:
    """The targets with `system` and `history` as the first messages of the conversation."""
    system = targets.pop("system", None)
    history = targets.pop("history", None)
    turns: list[dict[str, Any]] = []
    if not is_empty(system):
        turns.append({"role": "system", "content": fields.text(system, "system", context)})
    turns += _history(history, context)
    if not turns:
        return targets
    fields_of = {**rest, **targets}
    first = next((name for name in _TURNS if fields_of.get(name) is not None), "prompt")
    begun = dict(targets)
    for name in _TURNS[first]:
        value = fields_of.get(name)
        if isinstance(value, str) and name == "prompt":
            value = [{"role": "user", "content": value}]
        if not isinstance(value, list):
            raise context.wrong(name, value, "text or messages after system and history")
        begun[name] = [*turns, *value]
    return begun


def _history(history: Any, context: Context) -> list[dict[str, Any]]:
    """Earlier turns: messages, or pairs of a question and its answer."""
    if isinstance(history, str) and history.strip():
        # As a CSV file has it.
        history = from_json(history, "history", context)
    if is_empty(history):
        return []
    if not isinstance(history, list):
        raise context.wrong("history", history, "a list of messages or of [question, answer]")
    turns: list[dict[str, Any]] = []
    for index, turn in enumerate(history):
        if isinstance(turn, Mapping):
            turns.append(dict(turn))
        elif isinstance(turn, list) and len(turn) == 2 and all(isinstance(t, str) for t in turn):
            for role, text in zip(("user", "assistant"), turn, strict=True):
                turns.append({"role": role, "content": text})
        else:
            raise context.wrong(f"history[{index}]", turn, "a message or [question, answer]")
    return turns
