"""A gold reward for pairs: another model's, or numbers in a file.

Shapes: `P` pairs; columns are chosen, rejected.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from smorm.data.readers import read_rows
from smorm.data.records import Preference
from smorm.errors import DataError
from smorm.evaluation.metrics import Floats
from smorm.scoring.reward_model import RewardModel
from smorm.theory.features import Reading

SHAPES = (
    '{"gold_chosen", "gold_rejected"} (plain or under "meta"), or a scores file\'s '
    '{"responses": [{"view"}, {"view"}]}'
)


def gold_of(place: str, pairs: Sequence[Preference], reading: Reading) -> Floats:
    """The true reward of both responses of each pair [P, 2].

    Args:
        place: a model folder (its default view counts), or a file of rows in one of `SHAPES`.
            Rows are matched by id where all have one, else by their place in the file.

    Raises:
        DataError: a row that is not usable, or a pair without its row.
        ModelError: the folder is not a reward model.
    """
    if Path(place).is_dir():
        model = RewardModel.load(place)
        scores = model.score(
            pairs, max_batch_tokens=reading.max_batch_tokens, overlong=reading.overlong
        )
        return scores.view().reshape(-1, 2)
    return _from_file(place, pairs)


def _from_file(place: str, pairs: Sequence[Preference]) -> Floats:
    rows = list(read_rows(place))
    ids = [row.get("id") for _, row in rows]
    if all(ids) and all(pair.id for pair in pairs):
        keys, wanted = [str(one) for one in ids], [str(pair.id) for pair in pairs]
    else:
        keys = [_number(where) for where, _ in rows]
        wanted = [_number(pair.where) for pair in pairs]
    if len(set(wanted)) < len(wanted) or len(set(keys)) < len(keys):
        raise DataError(
            f"{place}: rows or pairs cannot be told apart: give each one an id of its own"
        )
    found = {key: _values(where, row) for key, (where, row) in zip(keys, rows, strict=True)}
    missing = [pair.where for pair, key in zip(pairs, wanted, strict=True) if key not in found]
    if missing:
        raise DataError(f"{place}: no gold for {missing[0]} and {len(missing) - 1} other pairs")
    return np.array([found[key] for key in wanted])


def _number(where: str) -> str:
    """The line or row that a place ends with."""
    return where.rpartition(":")[2]


def _values(where: str, row: Mapping[str, Any]) -> tuple[float, float]:
    for holder in (row, row.get("meta")):
        if isinstance(holder, Mapping) and "gold_chosen" in holder:
            return _numbers(where, holder.get("gold_chosen"), holder.get("gold_rejected"))
    responses = row.get("responses")
    if isinstance(responses, list) and len(responses) == 2:
        values = [one.get("view") if isinstance(one, Mapping) else None for one in responses]
        return _numbers(where, *values)
    raise DataError(f"{where}: no gold in it; expected {SHAPES}")


def _numbers(where: str, chosen: Any, rejected: Any) -> tuple[float, float]:
    for value in (chosen, rejected):
        if isinstance(value, bool) or not isinstance(value, int | float) or not np.isfinite(value):
            raise DataError(f"{where}: gold: expected two numbers, got {chosen!r} and {rejected!r}")
    return float(chosen), float(rejected)
