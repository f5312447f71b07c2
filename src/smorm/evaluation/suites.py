"""Run a suite: read its records, score them once, measure every view."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

import numpy as np

from smorm.arrays import Floats
from smorm.data.census import Census
from smorm.data.reading import OnBad
from smorm.data.records import Item, Preference, Rated, Record
from smorm.data.scaling import rating_matrix
from smorm.errors import ConfigError, DataError
from smorm.evaluation.attributes import measure_rated
from smorm.evaluation.benchmarks import BENCHMARKS
from smorm.evaluation.pairs import measure_pairs
from smorm.evaluation.result import Measurement, Result
from smorm.evaluation.scored import (
    ScoredSet,
    pair_items,
    read_labelled,
    score_records,
    scored_items,
    words,
)
from smorm.evaluation.suite import PLAIN, Suite
from smorm.model.store import versions
from smorm.rewards.model import as_reward
from smorm.rewards.protocol import Reward, ScoringOptions
from smorm.rewards.section import display_names
from smorm.scoring.reward_model import RewardModel
from smorm.scoring.scorer import DEFAULT_BATCH_TOKENS
from smorm.text.limits import Overlong


def score_suite(
    model: RewardModel | Reward,
    suite: Suite,
    *,
    overlong: Overlong | None = None,
    on_bad_record: OnBad = "stop",
    max_batch_tokens: int = DEFAULT_BATCH_TOKENS,
    advance: Callable[[int], None] | None = None,
) -> ScoredSet:
    """A suite's records with their rows of scores; prompts are computed once for all responses.

    Raises:
        DataError: records that are not usable, or none that can be scored.
    """
    reward = as_reward(model, ScoringOptions(overlong=overlong, max_batch_tokens=max_batch_tokens))
    census = Census()
    records = read_suite(suite, census, on_bad_record, keep_fields=not reward.reads_text)
    return score_records(reward, records, census, on_bad_record, advance)


def read_suite(
    suite: Suite, census: Census, on_bad_record: OnBad, *, keep_fields: bool = False
) -> list[Record]:
    """A suite's records.

    Raises:
        DataError: a record that is not usable, or none at all.
    """
    kind = PLAIN.get(suite.kind, "candidates")
    records = read_labelled(suite.sources, kind, census, on_bad_record, keep_fields=keep_fields)
    if not records:
        raise DataError(f"suite {suite.name}: no record in {_places(suite)}")
    return records


def suite_pairs(suite: Suite, on_bad_record: OnBad = "stop") -> list[Item]:
    """A suite's comparisons as items of two responses, the good one first.

    Raises:
        ConfigError: the suite compares nothing (`rated`).
        DataError: records that are not usable.
    """
    items = pair_items(read_suite(suite, Census(), on_bad_record))
    if not items:
        raise ConfigError(f"suite {suite.name}: compares nothing: take pairs or a benchmark")
    return items


def _places(suite: Suite) -> str:
    return ", ".join(dict.fromkeys(str(source.path) for _, source in suite.sources))


def run_suite(
    model: RewardModel | Reward,
    suite: Suite,
    views: Sequence[Any] = (None,),
    *,
    name: str | None = None,
    seed: int | None = None,
    overlong: Overlong | None = None,
    on_bad_record: OnBad = "stop",
    max_batch_tokens: int = DEFAULT_BATCH_TOKENS,
    advance: Callable[[int], None] | None = None,
) -> list[Result]:
    """One result per view; for `rated` one result, since attributes have no view.

    Args:
        name: the model's name in results; by default its folder's (see `display_names`).
        seed: put into the fingerprint, where results of several seeds are to be put together.

    Raises:
        DataError: records that are not usable, or none that can be scored.
        ConfigError: an unknown view or kind of suite, or a `rated` suite without attribute rows.
    """
    data = score_suite(
        model, suite, overlong=overlong, on_bad_record=on_bad_record,
        max_batch_tokens=max_batch_tokens, advance=advance,
    )  # fmt: skip
    return measure_suite(model, suite, data, views, name=name, seed=seed)


def measure_suite(
    model: RewardModel | Reward,
    suite: Suite,
    data: ScoredSet,
    views: Sequence[Any] = (None,),
    *,
    name: str | None = None,
    seed: int | None = None,
) -> list[Result]:
    """The results of records that are scored already; all else is as for `run_suite`."""
    reward = as_reward(model)
    marks = _fingerprint(reward, data, seed)
    title = name or display_names([reward.name])[0]
    if suite.kind == "rated":
        names, predicted, measured = _rated(reward, data)
        items = _items(data, predicted, names)
        return [_result(suite, title, "attributes", measured, data, items, marks)]
    results = []
    for view in (reward.view(value) for value in views):
        values = [view.read(scored.rows) for scored in data.scored]
        seen = {**marks, "view": dict(view.definition)}
        results.append(measure_values(suite, data, values, title, view.name, seen))
    return results


def measure_values(
    suite: Suite,
    data: ScoredSet,
    values: list[Floats],
    title: str,
    view: str,
    marks: dict[str, Any],
) -> Result:
    """The result of any reward, given its values of each record's responses."""
    measured = _measured(suite, data, values)
    return _result(suite, title, view, measured, data, _view_items(data, values), marks)


def _measured(suite: Suite, data: ScoredSet, values: list[Floats]) -> Measurement:
    if suite.kind == "pairs":
        return _pairs(data, values)
    return BENCHMARKS[suite.kind].measure(scored_items(data, values))


def _result(
    suite: Suite,
    title: str,
    view: str,
    measured: Measurement,
    data: ScoredSet,
    items: list[Any],
    marks: dict[str, Any],
) -> Result:
    return Result(
        "eval", suite.name, title, view, measured.metrics,
        items=items, fingerprint=marks, notes=(*measured.notes, *data.notes),
        outcomes=measured.outcomes, chance=measured.chance,
    )  # fmt: skip


def _fingerprint(reward: Reward, data: ScoredSet, seed: int | None) -> dict[str, Any]:
    marks = {**reward.provenance, "data": data.data, "versions": versions()}
    return marks if seed is None else {**marks, "seed": seed}


def _pairs(data: ScoredSet, values: list[Floats]) -> Measurement:
    records = cast("list[Preference]", data.records)
    return measure_pairs(
        np.array([v[0] for v in values]),
        np.array([v[1] for v in values]),
        data.prompts,
        chosen_lengths=np.array([float(words(record.chosen)) for record in records]),
        rejected_lengths=np.array([float(words(record.rejected)) for record in records]),
        length_unit="words",
        keys=data.keys,
    )


def _rated(reward: Reward, data: ScoredSet) -> tuple[list[str], Floats, Measurement]:
    names = list(reward.attributes)
    if not names:
        raise ConfigError(f"{reward.name}: has no attribute rows: a rated suite cannot be run")
    ratings = rating_matrix(cast("list[Rated]", data.records), names)
    if np.isnan(ratings).all():
        raise DataError(f"no record rates any of the model's attributes: {', '.join(names)}")
    predicted = np.concatenate([reward.ratings(scored.rows) for scored in data.scored])
    measured = measure_rated(
        predicted, ratings, names, data.prompts,
        training_means=reward.training_means, keys=data.keys,
    )  # fmt: skip
    return names, predicted, measured


def _view_items(data: ScoredSet, values: list[Floats]) -> list[Any]:
    return [
        {
            "id": record.id,
            "where": record.where,
            **({"subset": record.source} if record.source else {}),
            "scores": [float(v) for v in scores],
        }
        for record, scores in zip(data.records, values, strict=True)
    ]


def _items(data: ScoredSet, predicted: Floats, names: list[str]) -> list[Any]:
    return [
        {"id": r.id, "where": r.where, "attributes": dict(zip(names, map(float, row), strict=True))}
        for r, row in zip(data.records, predicted, strict=True)
    ]
