"""From finished runs to arrays over the same items: what each method got right, seed by seed.

Shapes: `S` seeds, `N` items, `K` attributes. Items are in the order of the test file.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from experiments.runs import Finished
from experiments.tasks import Files
from smorm.arrays import Floats
from smorm.data.census import Census
from smorm.data.reading import Source, read_preferences, read_rated
from smorm.data.records import prompt_key
from smorm.data.scaling import rating_matrix
from smorm.errors import DataError
from smorm.evaluation.metrics import pair_outcomes
from smorm.evaluation.result import Result


@dataclass(frozen=True, slots=True)
class PairOutcomes:
    """Outcomes [S, N] of each method's view (1 right, 0.5 tie, 0 wrong), and the prompts [N]."""

    prompts: list[str]
    by_label: dict[str, Floats]


@dataclass(frozen=True, slots=True)
class RatedOutcomes:
    """Predictions [S, N, K] of each method on the ratings' own scale, ratings [N, K], prompts."""

    prompts: list[str]
    names: list[str]
    ratings: Floats
    by_label: dict[str, Floats]


def label_of(result: Result) -> str:
    """`SMORM-F`, or the bare method where it has one view."""
    return f"SMORM-{result.view}" if result.model == "SMORM" else result.model


def pair_table(finished: Sequence[Finished], files: Files) -> PairOutcomes:
    """Outcomes of every pairs suite, matched to the test file by place.

    Raises:
        DataError: a result has other items than the file.
    """
    records = list(read_preferences(Source(files.test_pairs), census=Census()))
    where = [record.where for record in records]
    rows: dict[str, list[Floats]] = {}
    for result in _in_order(finished, "pairs/"):
        scores = np.array([item["scores"] for item in _items(result, where)])
        rows.setdefault(label_of(result), []).append(pair_outcomes(scores[:, 0], scores[:, 1])[0])
    prompts = [prompt_key(record.prompt) for record in records]
    return PairOutcomes(prompts, {label: np.stack(found) for label, found in rows.items()})


def rated_table(finished: Sequence[Finished], files: Files) -> RatedOutcomes:
    """Predictions of every rated suite, matched to the test file by place.

    Raises:
        DataError: a result has other items than the file, or methods have other attributes.
    """
    records = list(read_rated(Source(files.test_rated), census=Census()))
    where = [record.where for record in records]
    rows: dict[str, list[Floats]] = {}
    names: list[str] = []
    for result in _in_order(finished, "rated/"):
        items = _items(result, where)
        names = names or list(items[0]["attributes"])
        predicted = np.array([[item["attributes"][name] for name in names] for item in items])
        rows.setdefault(result.model, []).append(predicted)
    prompts = [prompt_key(record.prompt) for record in records]
    stacked = {label: np.stack(found) for label, found in rows.items()}
    return RatedOutcomes(prompts, names, rating_matrix(records, names), stacked)


def _in_order(finished: Sequence[Finished], suite: str) -> list[Result]:
    """Results of a kind of suite by seed, so that rows of two methods belong together."""
    ordered = sorted(finished, key=lambda done: done.run.seed)
    return [r for done in ordered for r in done.results if r.suite.startswith(suite)]


def _items(result: Result, where: Sequence[str]) -> list[dict[str, Any]]:
    if not isinstance(result.items, list) or [i["where"] for i in result.items] != list(where):
        raise DataError(f"{result.suite}: {result.model}: its items are not those of the file")
    return result.items
