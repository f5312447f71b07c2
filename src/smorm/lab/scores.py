"""What a model gives to the sets of a run: every row for every answer, so that any system of views
and members can be measured later without a model. Shapes: `M` answers of a set (of all its records,
in order), `C` rows."""

from collections.abc import Mapping
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path
from typing import Any

import numpy as np

from smorm import files
from smorm.arrays import Floats, Ints
from smorm.data.census import Census
from smorm.data.reading import Source, read_records
from smorm.data.records import Item, text_of
from smorm.errors import ConfigError, DataError
from smorm.rewards.model import ModelReward
from smorm.rewards.protocol import Reward, score_all, values_of
from smorm.scoring.reward_model import RewardModel


@dataclass(frozen=True, slots=True)
class SetRows:
    """Rows of a set's answers."""

    names: tuple[str, ...]  # `preference`, where it was trained, and the attributes [C]
    values: Floats  # on the attributes' own scales [M, C]
    tokens: Ints  # length of each conversation [M]

    def view(self, name: str) -> Floats:
        """F, L, M (`smorm.model.views`) or an attribute, [M]."""
        attributes = [row for row in self.names if row != "preference"]
        if name in ("L", "M") and not attributes:
            raise ConfigError(f"view {name}: needs attribute rows, and this model has none")
        if name == "L":
            return np.asarray(np.mean(list(map(self._row, attributes)), axis=0))
        if name == "M":
            return np.asarray((self.view("F") + self.view("L")) / 2)
        return self._row({"F": "preference"}.get(name, name))

    def _row(self, name: str) -> Floats:
        if name not in self.names:
            raise ConfigError(f"view: no row {name!r}; this model has {', '.join(self.names)}")
        return self.values[:, self.names.index(name)]


def read_items(path: Path) -> list[Item]:
    """The records of a set, each a prompt with its answers."""
    return list(map(attrgetter("item"), read_records(Source(path), None, Census())))


def score_sets(folder: Path, sets: Mapping[str, Path], *, device: str) -> dict[str, SetRows]:
    """Score every set with a model."""
    import torch

    torch.set_num_threads(1)
    model = RewardModel.load(folder, device=device)
    reward = ModelReward(model)
    names = ("preference", *model.attributes)
    # A preference row that was not trained is no reward: it is left out of what is kept.
    first = 0 if model.card.preference_trained else 1
    rows = {}
    for name, path in sets.items():
        scored = score_all(reward, read_items(path), Census(), skip=False)
        columns, tokens = [], []
        for result in filter(None, scored):
            columns.append(np.hstack([result.rows[:, :1], reward.ratings(result.rows)]))
            tokens += result.tokens
        values = np.concatenate(columns)[:, first:]
        if not np.isfinite(values).all():
            raise DataError(f"{folder}: gives {name} scores that are not finite")
        rows[name] = SetRows(names[first:], values, np.array(tokens, dtype=np.int64))
    return rows


def reward_rows(reward: Reward, sets: Mapping[str, Path]) -> dict[str, SetRows]:
    """Score every set with any reward, as one preference row, with lengths in words."""
    rows = {}
    for name, path in sets.items():
        items = read_items(path)
        lengths = []
        for item in items:
            prompt = text_of(item.prompt)
            lengths += [len(f"{prompt} {text}".split()) for text in item.texts]
        values = np.concatenate(values_of(reward, items))
        rows[name] = SetRows(("preference",), values[:, None], np.array(lengths))
    return rows


def write_rows(path: Path, rows: Mapping[str, SetRows]) -> None:
    """Write one file of plain arrays, whole or not at all."""
    arrays: dict[str, Any] = {}
    for name, set_rows in rows.items():
        arrays[f"{name}:values"] = set_rows.values
        arrays[f"{name}:tokens"] = set_rows.tokens
        arrays[f"{name}:names"] = np.array(set_rows.names)
    with files.atomic_file(path) as stream:
        np.savez_compressed(stream, **arrays)


def read_rows(path: Path) -> dict[str, SetRows]:
    """Read what `write_rows` wrote."""
    with np.load(path, allow_pickle=False) as arrays:
        sets = dict.fromkeys(key.rpartition(":")[0] for key in arrays.files)
        rows = {}
        for name in sets:
            names, values = tuple(arrays[f"{name}:names"].tolist()), arrays[f"{name}:values"]
            rows[name] = SetRows(names, values, arrays[f"{name}:tokens"])
        return rows
