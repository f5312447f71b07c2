"""Rewards that were given before: a field of the records, or a file of scores.

Shapes: N responses of an item.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np

from smorm.arrays import Floats
from smorm.data.readers import read_rows
from smorm.data.records import Item
from smorm.errors import DataError
from smorm.files import sha256
from smorm.rewards.protocol import (
    Advance,
    Results,
    Reward,
    ScoringOptions,
    SingleReward,
    scored_of,
)
from smorm.rewards.section import RewardSection
from smorm.text.limits import Unscored, UnscoredReason

SHAPES = (
    '{"gold_chosen", "gold_rejected"} (plain or under "meta"), or a scores file\'s {"view"} or '
    '{"responses": [{"view"}, ...]}'
)
_MISSING = object()


class FieldReward(SingleReward):
    """A number that a file holds beside each response; `meta.gold` looks inside `meta`."""

    kind = "field"
    reads_text: bool = False
    cacheable: bool = False

    @classmethod
    def open(cls, section: RewardSection, options: ScoringOptions, views: Sequence[Any]) -> Self:
        """The field of that name."""
        return cls(str(section.field))

    def values(self, item: Item) -> Floats | Unscored:
        """The field's values; none where one response lacks it."""
        values = []
        for index, fields in enumerate(item.fields or ({},) * len(item.responses), start=1):
            value = _look_up(fields, self.argument)
            if not _is_number(value):
                problem = "missing" if value is _MISSING else f"{value!r}, expected a finite number"
                names = ", ".join(map(str, fields)) or "nothing"
                return Unscored(
                    UnscoredReason.NO_VALUE,
                    f"answer {index}: {self.argument}: {problem}; beside the answer stands: "
                    f"{names}",
                )
            values.append(float(value))
        return np.array(values)


class FileReward(Reward):
    """A file of rows in one of `SHAPES`, such as `smorm score` or `smorm relabel` writes.

    Rows meet items by their id where all of both have one, else by their place in the file.
    """

    kind = "file"
    reads_text: bool = False
    cacheable: bool = False

    def __init__(self, path: str) -> None:
        self.path = self.name = path
        rows = [(where, row.get("id"), _values(where, row)) for where, row in read_rows(path)]
        self.by_line = {_line(where): values for where, _, values in rows}
        self.by_id: dict[str, list[float]] = {}
        if all(identity for _, identity, _ in rows):
            self.by_id = {str(identity): values for _, identity, values in rows}
        # Two rows of one key: which of them is meant cannot be known.
        self.ambiguous = len(rows) > len(self.by_id or self.by_line)

    @classmethod
    def open(cls, section: RewardSection, options: ScoringOptions, views: Sequence[Any]) -> Self:
        """Read the file."""
        cls.find(section)
        return cls(str(section.file))

    @classmethod
    def find(cls, section: RewardSection) -> None:
        """Look for the file."""
        next(read_rows(str(section.file)), None)  # raises where there is none

    @property
    def provenance(self) -> dict[str, Any]:
        """The file's name and content."""
        return {"file": Path(self.path).name, "sha256": sha256(Path(self.path))}

    def score(self, items: Sequence[Item], *, advance: Advance | None = None) -> Results:
        """The rows' values.

        Raises:
            DataError: a row that is not usable, or rows or items that cannot be told apart.
        """
        by_id = bool(self.by_id) and all(item.id for item in items)
        table = self.by_id if by_id else self.by_line
        keys = [str(item.id) if by_id else _line(item.where) for item in items]
        if self.ambiguous or len(set(keys)) < len(keys):
            raise DataError(
                f"{self.path}: rows or records cannot be told apart: give each one an id of its own"
            )
        results: Results = []
        for item, key in zip(items, keys, strict=True):
            if key in table:
                results.append(scored_of(table[key], item, self.path))
            else:
                detail = f"{self.path}: has no row for it"
                results.append(Unscored(UnscoredReason.NO_VALUE, detail))
        if advance is not None:
            advance(len(items))
        return results


def _line(where: str) -> str:
    """The line or row that a place ends with."""
    return where.rpartition(":")[2]


def _values(where: str, row: Mapping[str, Any]) -> list[float]:
    for holder in (row, row.get("meta")):
        if isinstance(holder, Mapping) and "gold_chosen" in holder:
            return _numbers(where, [holder.get("gold_chosen"), holder.get("gold_rejected")])
    responses = row.get("responses", [row])
    if not isinstance(responses, list) or not all(isinstance(one, Mapping) for one in responses):
        raise DataError(f"{where}: no reward in it; expected {SHAPES}")
    if not all("view" in response for response in responses):
        raise DataError(f"{where}: no reward in it; expected {SHAPES}")
    return _numbers(where, [response["view"] for response in responses])


def _numbers(where: str, values: list[Any]) -> list[float]:
    if not all(map(_is_number, values)):
        shown = ", ".join(map(repr, values))
        raise DataError(f"{where}: reward: expected finite numbers, got {shown}")
    return [float(value) for value in values]


def _is_number(value: Any) -> bool:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and math.isfinite(value)


def _look_up(fields: Mapping[str, Any], name: str) -> Any:
    """A field by its name, or by its path with dots; `_MISSING` where there is none."""
    if name in fields:
        return fields[name]
    value: Any = fields
    for part in name.split("."):
        if not isinstance(value, Mapping) or part not in value:
            return _MISSING
        value = value[part]
    return value
