"""Rewards given before, by a field of the records or a file of scores, and the true quality in the
generated world. Shapes: N responses of an item."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from smorm.arrays import Floats, is_finite_number
from smorm.data.readers import read_rows
from smorm.data.records import Item, text_of
from smorm.errors import DataError
from smorm.files import sha256
from smorm.rewards.protocol import Results, Reward, SingleReward, scored_of
from smorm.rewards.section import RewardSection
from smorm.text.limits import Unscored, UnscoredReason
from smorm.world import gold, make_world, parse_prompt

SHAPES = (
    '{"gold_chosen", "gold_rejected"} (plain or under "meta"), or a scores file\'s {"view"} or '
    '{"responses": [{"view"}, ...]}'
)
_MISSING = object()


class FieldReward(SingleReward):
    """A number that a file holds beside each response; `meta.gold` looks inside `meta`."""

    kind = "field"
    reads_text = cacheable = False

    def values(self, item: Item) -> Floats | Unscored:
        """The field's values; none where one response lacks it."""
        values = []
        for index, fields in enumerate(item.fields or ({},) * len(item), start=1):
            value = _look_up(fields, self.argument)
            if not is_finite_number(value):
                problem = f"{value!r}, expected a finite number"
                if value is _MISSING:
                    problem = "missing"
                names = ", ".join(map(str, fields)) or "nothing"
                problem = f"{self.argument}: {problem}; beside the answer stands: {names}"
                return Unscored(UnscoredReason.NO_VALUE, f"answer {index}: {problem}")
            values.append(float(value))
        return np.array(values)


class TruthReward(SingleReward):
    """True quality, 0 to 1, in the generated world whose facts `seed` draws."""

    kind = "lab"
    cacheable = False

    def __init__(self, seed: int | str = 0) -> None:
        super().__init__(str(seed))
        # Drawn once: facts of a seed never change.
        self.world = make_world(int(seed))

    def values(self, item: Item) -> Floats | Unscored:
        """Gold of each response; none where the prompt is not of the world."""
        try:
            prompt = parse_prompt(text_of(item.prompt))
        except DataError as error:
            return Unscored(UnscoredReason.OTHER_WORLD, str(error))
        return np.array([gold(self.world, prompt, text) for text in item.texts])


class FileReward(Reward):
    """A file of rows in one of `SHAPES`, such as `smorm score` or `smorm relabel` writes. Rows meet
    items by their id where all of both have one, else by their place in the file."""

    kind = "file"
    reads_text = cacheable = by_response = False

    def __init__(self, path: str) -> None:
        self.path = self.name = path
        self.by_line: dict[str, list[float] | Unscored] = {}
        self.by_id: dict[str, list[float] | Unscored] = {}
        named = count = 0
        for where, row in read_rows(path):
            values = self.by_line[_line(where)] = _values(where, row)
            count += 1
            if row.get("id") is not None:
                named += 1
                self.by_id[str(row["id"])] = values
        # Ids count only where every row has one: else a row without it would be left out.
        self.all_named = named == count
        # Two rows of one key: which of them is meant cannot be known.
        self.ambiguous = len(self.by_id if self.all_named else self.by_line) < count

    @classmethod
    def find(cls, section: RewardSection) -> None:
        next(read_rows(section.argument), None)

    @property
    def provenance(self) -> dict[str, Any]:
        return {"file": Path(self.path).name, "sha256": sha256(Path(self.path))}

    def score(self, items: Sequence[Item]) -> Results:
        """The rows' values."""
        table, keys = self.by_line, [_line(item.where) for item in items]
        if self.all_named and all(item.id is not None for item in items):
            table, keys = self.by_id, [str(item.id) for item in items]
        if self.ambiguous or len(set(keys)) < len(keys):
            raise DataError(
                f"{self.path}: rows or records cannot be told apart: give each one an id of its own"
            )
        results: Results = []
        for item, key in zip(items, keys, strict=True):
            if key in table:
                results.append(scored_of(table[key], item, self.path))
            else:
                problem = f"{self.path}: has no row for it"
                results.append(Unscored(UnscoredReason.NO_VALUE, problem))
        return results


def _line(where: str) -> str:
    return where.rpartition(":")[2]


def _values(where: str, row: Mapping[str, Any]) -> list[float] | Unscored:
    values: list[Any] = []
    # What `relabel` writes stands in the row itself, what the generated world writes under `meta`.
    responses = row.get("responses", [row])
    for holder in (row.get("meta"), row):
        if isinstance(holder, Mapping) and "gold_chosen" in holder:
            values = [holder.get("gold_chosen"), holder.get("gold_rejected")]
    for response in responses if isinstance(responses, list) else ():
        if isinstance(response, Mapping) and "error" in response and not values:
            return Unscored(UnscoredReason.NO_VALUE, str(response["error"]))
    if not values and isinstance(responses, list):
        values = [_look_up(response, "view") for response in responses]
    if not values or _MISSING in values:
        raise DataError(f"{where}: no reward in it; expected {SHAPES}")
    if not all(map(is_finite_number, values)):
        raise DataError(
            f"{where}: reward: expected finite numbers, got {', '.join(map(repr, values))}"
        )
    return list(map(float, values))


def _look_up(fields: Any, name: str) -> Any:
    """A field by its name, or by its path with dots; `_MISSING` where there is none."""
    if isinstance(fields, Mapping) and name in fields:
        return fields[name]
    # A field whose own name holds a dot comes first; a path is looked for only without it.
    value = fields
    for key in name.split("."):
        if not isinstance(value, Mapping) or key not in value:
            return _MISSING
        value = value[key]
    return value
