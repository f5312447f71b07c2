"""Run a suite: read its records, score them once, measure every view.

A suite is named `KIND` or `KIND/LABEL`, KIND being `pairs`, `rated` or `rm-bench`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from smorm.data.census import Census
from smorm.data.encode import prompt_key
from smorm.data.formats import OnBad, Source, read_records
from smorm.data.records import Candidates, Messages, Preference, Rated
from smorm.data.registry import Kind, Record
from smorm.data.scaling import rating_matrix, restore_scales
from smorm.errors import ConfigError, DataError
from smorm.evaluation.attributes import measure_rated
from smorm.evaluation.pairs import measure_pairs
from smorm.evaluation.result import Measurement, Result
from smorm.evaluation.rmbench import measure_rm_bench
from smorm.files import fingerprint
from smorm.model.store import versions
from smorm.model.views import apply_view
from smorm.scoring.reward_model import RewardModel, item_of
from smorm.scoring.scorer import DEFAULT_BATCH_TOKENS, Scored, Scorer
from smorm.text.limits import Overlong

KINDS: dict[str, Kind] = {"pairs": "preference", "rated": "rated", "rm-bench": "candidates"}
Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Suite:
    """What to evaluate on: `name` as above, and where its records are."""

    name: str
    source: Source

    @property
    def kind(self) -> str:
        """The part before the slash.

        Raises:
            ConfigError: it is not a known kind.
        """
        kind = self.name.partition("/")[0]
        if kind not in KINDS:
            raise ConfigError(f"suite {self.name!r}: expected {', '.join(KINDS)} or KIND/LABEL")
        return kind


@dataclass(slots=True)
class ScoredSet:
    """Records that got scores, with them; and what was counted on the way."""

    records: list[Any]
    scored: list[Scored]
    census: Census
    data: str
    notes: list[str] = field(default_factory=list)


def parse_suite(text: str) -> Suite:
    """`NAME=PATH`, e.g. `pairs/dev=data/dev.jsonl`.

    Raises:
        ConfigError: another form, or an unknown kind.
    """
    name, separator, path = text.partition("=")
    if not separator or not name or not path:
        raise ConfigError(f"suite {text!r}: expected NAME=PATH, e.g. pairs/dev=dev.jsonl")
    is_rm_bench = name.partition("/")[0] == "rm-bench"
    suite = Suite(name, Source(path, format="rm_bench" if is_rm_bench else "auto"))
    _ = suite.kind
    return suite


def display_names(paths: Sequence[str]) -> list[str]:
    """Names that tell models apart: the folder's (of `runs/x/model` it is `x`), or the whole path
    where two would be called the same."""
    places = [Path(path) for path in paths]
    short = [
        place.parent.name if place.name == "model" and place.parent.name else place.name
        for place in places
    ]
    return [
        name if name and short.count(name) == 1 else path
        for name, path in zip(short, paths, strict=True)
    ]


def run_suite(
    model: RewardModel,
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
    policy: Any = overlong or model.card.overlong
    scorer = Scorer(model.network, model.renderer, policy, max_batch_tokens)
    data = _score(scorer, suite, on_bad_record, advance)
    marks = _fingerprint(model, data, seed)
    title = name or display_names([model.name])[0]
    if suite.kind == "rated":
        names, measured = _rated(model, data)
        return [
            Result(
                "eval", suite.name, title, "attributes", measured.metrics,
                items=_items(data, restore_scales(model.card.scales, _first_rows(data)), names),
                fingerprint=marks, notes=(*measured.notes, *data.notes),
            )
        ]  # fmt: skip
    results = []
    for view in (model.view(value) for value in views):
        values = [apply_view(view, one.rows, model.card.scales) for one in data.scored]
        measure = _pairs if suite.kind == "pairs" else _rm_bench
        measured = measure(data, values)
        results.append(
            Result(
                "eval", suite.name, title, view.name, measured.metrics,
                items=_view_items(data, values),
                fingerprint={**marks, "view": view.as_dict()},
                notes=(*measured.notes, *data.notes),
            )
        )  # fmt: skip
    return results


def _score(
    scorer: Scorer, suite: Suite, on_bad_record: OnBad, advance: Callable[[int], None] | None
) -> ScoredSet:
    census = Census()
    kind = KINDS[suite.kind]
    records = list(read_records(suite.source, kind, census, on_bad_record))
    results = scorer.score([item_of(record) for record in records], advance=advance)
    kept: list[Record] = []
    scored: list[Scored] = []
    for record, result in zip(records, results, strict=True):
        if isinstance(result, str):
            if on_bad_record == "stop" and scorer.overlong != "drop":
                raise DataError(
                    f"{record.where}: {result}. Skipping bad records leaves it out, counted."
                )
            census.add("record without a score, left out", record.where)
            continue
        if result.truncated:
            census.add("prompt shortened to the limit", record.where)
        kept.append(record)
        scored.append(result)
    if not kept:
        raise DataError(f"{suite.source.path}: no record could be scored")
    data = fingerprint([hash_of(record) for record in kept])
    return ScoredSet(kept, scored, census, data, census.lines())


def hash_of(record: Record) -> str:
    """Fingerprint of a record's texts."""
    item = item_of(record)
    return fingerprint([prompt_key(item.prompt), [prompt_key(r) for r in item.responses]])


def _fingerprint(model: RewardModel, data: ScoredSet, seed: int | None) -> dict[str, Any]:
    marks: dict[str, Any] = {
        "model": dict(model.card.hashes),
        "renderer": model.renderer.fingerprint,
        "data": data.data,
        "layout": model.network.layout,
        "versions": versions(),
    }
    return marks if seed is None else {**marks, "seed": seed}


def _clusters(data: ScoredSet) -> NDArray[np.str_]:
    return np.array([fingerprint(prompt_key(record.prompt)) for record in data.records])


def _length(messages: Messages) -> int:
    return sum(len(message.content.split()) for message in messages)


def _pairs(data: ScoredSet, values: list[Floats]) -> Measurement:
    records = cast("list[Preference]", data.records)
    return measure_pairs(
        np.array([v[0] for v in values]),
        np.array([v[1] for v in values]),
        _clusters(data),
        chosen_lengths=np.array([float(_length(record.chosen)) for record in records]),
        rejected_lengths=np.array([float(_length(record.rejected)) for record in records]),
        length_unit="words",
    )


def _first_rows(data: ScoredSet) -> Floats:
    """Attribute rows [N, K] of single responses."""
    return np.array([one.rows[0, 1:] for one in data.scored])


def _rated(model: RewardModel, data: ScoredSet) -> tuple[list[str], Measurement]:
    names = list(model.attributes)
    if not names:
        raise ConfigError(f"{model.name}: has no attribute rows: a rated suite cannot be run")
    ratings = rating_matrix(cast("list[Rated]", data.records), names)
    if np.isnan(ratings).all():
        raise DataError(f"no record rates any of the model's attributes: {', '.join(names)}")
    predicted = restore_scales(model.card.scales, _first_rows(data))
    clusters, means = _clusters(data), model.card.means
    return names, measure_rated(predicted, ratings, names, clusters, training_means=means)


def _rm_bench(data: ScoredSet, values: list[Floats]) -> Measurement:
    records = cast("list[Candidates]", data.records)
    scores = np.array(values)
    return measure_rm_bench(
        scores[:, :3], scores[:, 3:], [record.source or "" for record in records], _clusters(data)
    )


def _view_items(data: ScoredSet, values: list[Floats]) -> list[Any]:
    return [
        {"id": record.id, "where": record.where, "scores": [float(v) for v in scores]}
        for record, scores in zip(data.records, values, strict=True)
    ]


def _items(data: ScoredSet, predicted: Floats, names: list[str]) -> list[Any]:
    return [
        {"id": r.id, "where": r.where, "attributes": dict(zip(names, map(float, row), strict=True))}
        for r, row in zip(data.records, predicted, strict=True)
    ]
