"""A suite is named `KIND` or `KIND/LABEL`; KIND is `pairs`, `rated`, or one of the benchmarks.
To run it: read its records, score them once, measure every view."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np

from smorm.arrays import Floats
from smorm.data.census import Census
from smorm.data.reading import OnBad, Source
from smorm.data.records import Item, Kind, Rated, Record
from smorm.data.scaling import rating_matrix
from smorm.errors import ConfigError, DataError
from smorm.evaluation.attributes import measure_rated
from smorm.evaluation.benchmarks import BENCHMARKS
from smorm.evaluation.metric_names import SuiteName
from smorm.evaluation.pairs import measure_pairs
from smorm.evaluation.result import Measurement, Result
from smorm.evaluation.scored import (
    ScoredSet,
    lengths_of,
    pair_items,
    read_labelled,
    score_records,
    scored_items,
)
from smorm.model.store import versions
from smorm.rewards.model import as_reward
from smorm.rewards.protocol import Reward, ScoringOptions
from smorm.rewards.section import display_names
from smorm.scoring.reward_model import RewardModel
from smorm.scoring.scorer import DEFAULT_BATCH_TOKENS
from smorm.text.limits import Overlong

PLAIN: dict[str, Kind] = {"pairs": "preference", "rated": "rated"}


@dataclass(frozen=True, slots=True)
class Suite:
    """What to evaluate on: `name` as above, and where its records are."""

    name: str
    source: Source | None = None  # the one source of records, or None
    # a benchmark's sources with their labels, where it has several
    labelled: tuple[tuple[str, Source], ...] = ()

    @property
    def kind(self) -> str:
        """The kind in its name."""
        kind = SuiteName.parse(self.name).kind
        if kind not in PLAIN and kind not in BENCHMARKS:
            kinds = ", ".join((*PLAIN, *BENCHMARKS))
            raise ConfigError(f"suite {self.name!r}: expected KIND or KIND/LABEL of {kinds}")
        return kind

    @property
    def sources(self) -> tuple[tuple[str, Source], ...]:
        """Every source with the label of its records."""
        return self.labelled if self.source is None else (("", self.source), *self.labelled)


def parse_suite(text: str) -> Suite:
    """`NAME=PATH`, e.g. `pairs/dev=data/dev.jsonl`; a benchmark of the hub without a path."""
    name, separator, path = text.partition("=")
    if not name or (separator and not path):
        raise ConfigError(f"suite {text!r}: expected NAME=PATH, e.g. pairs/dev=dev.jsonl")
    # The kind is checked before the path: a misspelt name should not be looked for on the hub.
    kind = Suite(name).kind
    if kind in BENCHMARKS:
        return Suite(name, labelled=tuple(BENCHMARKS[kind].sources(path or None)))
    if not path:
        raise ConfigError(f"suite {text!r}: expected NAME=PATH, e.g. {kind}/dev=dev.jsonl")
    return Suite(name, Source(path))


def run_suite(
    model: RewardModel | Reward, suite: Suite, views: Sequence[Any] = (None,), *,
    name: str | None = None, seed: int | None = None, **scoring: Any,
) -> list[Result]:  # fmt: skip
    """One result per view; for `rated` one result, since attributes have no view.

    `scoring` are options of `score_suite`, `name` and `seed` those of `measure_suite`.

    Raises:
        DataError: records that are not usable, or none that can be scored.
        ConfigError: an unknown view or kind of suite, or a `rated` suite without attribute rows."""
    data = score_suite(model, suite, **scoring)
    return measure_suite(model, suite, data, views, name=name, seed=seed)


def score_suite(
    model: RewardModel | Reward, suite: Suite, *, overlong: Overlong | None = None,
    on_bad_record: OnBad = "stop", max_batch_tokens: int = DEFAULT_BATCH_TOKENS,
) -> ScoredSet:  # fmt: skip
    """A suite's records with their rows of scores; prompts are computed once for all responses."""
    reward = as_reward(model, ScoringOptions(overlong=overlong, max_batch_tokens=max_batch_tokens))
    census = Census()
    records = read_suite(suite, census, on_bad_record, keep_fields=not reward.reads_text)
    return score_records(reward, records, census, on_bad_record)


def read_suite(
    suite: Suite, census: Census, on_bad_record: OnBad, *, keep_fields: bool = False
) -> list[Record]:
    """A suite's records."""
    # Every benchmark's rows are candidates, whatever they look like in its files.
    kind = PLAIN.get(suite.kind, "candidates")
    records = read_labelled(suite.sources, kind, census, on_bad_record, keep_fields=keep_fields)
    if not records:
        paths = dict.fromkeys(str(source.path) for _, source in suite.sources)
        raise DataError(f"suite {suite.name}: no record in {', '.join(paths)}")
    return records


def suite_pairs(suite: Suite, on_bad_record: OnBad = "stop") -> list[Item]:
    """A suite's comparisons as items of two responses, the good one first.

    Raises:
        ConfigError: the suite compares nothing (`rated`).
        DataError: records that are not usable."""
    items = pair_items(read_suite(suite, Census(), on_bad_record))
    if not items:
        raise ConfigError(f"suite {suite.name}: compares nothing: take pairs or a benchmark")
    return items


def measure_suite(
    model: RewardModel | Reward, suite: Suite, data: ScoredSet, views: Sequence[Any] = (None,),
    *, name: str | None = None, seed: int | None = None,
) -> list[Result]:  # fmt: skip
    """The results of records that are scored already.

    `name` is the model's in results, by default its folder's (`display_names`); `seed` is put into
    the fingerprint, where results of several seeds are to be put together."""
    reward = as_reward(model)
    title = name or display_names([reward.name])[0]
    # What two results must share to be comparable; seeds of one model differ in `seed` alone.
    provenance = {**reward.provenance, "data": data.data, "versions": versions()}
    if seed is not None:
        provenance["seed"] = seed
    # Attribute rows predict ratings directly: no view of them would.
    if suite.kind == "rated":
        measured, items = _measure_attributes(reward, data)
        return [_result(suite, title, "attributes", measured, data, items, provenance)]
    results = []
    for view in [reward.view(value) for value in views]:
        values = [view.read(scored.rows) for scored in data.scored]
        # The view's weights too: a view of the same name may have been changed since.
        of_view = {**provenance, "view": dict(view.definition)}
        results.append(measure_values(suite, data, values, title, view.name, of_view))
    return results


def measure_values(
    suite: Suite, data: ScoredSet, values: list[Floats], title: str, view: str,
    provenance: dict[str, Any],
) -> Result:  # fmt: skip
    """The result of any reward, given its values of each record's responses."""
    if suite.kind == "pairs":
        chosen, rejected = np.stack(values).T
        chosen_lengths, rejected_lengths = np.stack(lengths_of(data.records)).T
        measured = measure_pairs(
            chosen, rejected, data.prompts, chosen_lengths=chosen_lengths,
            rejected_lengths=rejected_lengths, length_unit="words", keys=data.keys,
        )  # fmt: skip
    else:
        measured = BENCHMARKS[suite.kind].measure(scored_items(data, values))
    items = []
    for record, scores in zip(data.records, values, strict=True):
        item: dict[str, Any] = {"id": record.id, "where": record.where}
        if record.source:
            item["subset"] = record.source
        items.append({**item, "scores": scores.tolist()})
    return _result(suite, title, view, measured, data, items, provenance)


def _result(
    suite: Suite, title: str, view: str, measured: Measurement, data: ScoredSet, items: list[Any],
    provenance: dict[str, Any],
) -> Result:  # fmt: skip
    return Result(
        "eval", suite.name, title, view, measured.metrics,
        items=items, fingerprint=provenance, notes=(*measured.notes, *data.notes),
        outcomes=measured.outcomes, chance_levels=measured.chance_levels,
    )  # fmt: skip


def _measure_attributes(reward: Reward, data: ScoredSet) -> tuple[Measurement, list[Any]]:
    """Predicted against given ratings, and the predictions of each record."""
    names = list(reward.attributes)
    if not names:
        raise ConfigError(f"{reward.name}: has no attribute rows: a rated suite cannot be run")
    ratings = rating_matrix(cast("list[Rated]", data.records), names)
    if np.isnan(ratings).all():
        raise DataError(f"no record rates any of the model's attributes: {', '.join(names)}")
    # On the ratings' own scale, as they were before training standardised them.
    predicted = np.concatenate([reward.ratings(scored.rows) for scored in data.scored])
    measured = measure_rated(
        predicted, ratings, names, data.prompts,
        training_means=reward.training_means, keys=data.keys,
    )  # fmt: skip
    items = []
    for record, row in zip(data.records, predicted.tolist(), strict=True):
        attributes = dict(zip(names, row, strict=True))
        items.append({"id": record.id, "where": record.where, "attributes": attributes})
    return measured, items
