"""A suite is named `KIND` or `KIND/LABEL`; KIND is `pairs`, `rated`, or one of the benchmarks.
To run it: read its records, score them once, measure every view."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from operator import attrgetter
from typing import Any, cast

import numpy as np

from smorm.arrays import Floats
from smorm.data.census import Census
from smorm.data.reading import OnBad, Source, read_records
from smorm.data.records import Candidates, Item, Kind, Preference, Rated, Record, prompt_key
from smorm.data.scaling import rating_matrix
from smorm.errors import ConfigError, DataError
from smorm.evaluation.accuracy import ScoredItems, measure_pairs
from smorm.evaluation.attributes import measure_rated
from smorm.evaluation.benchmarks import BENCHMARKS
from smorm.evaluation.metric_names import SuiteName
from smorm.evaluation.result import Measurement, Result
from smorm.files import fingerprint
from smorm.model.store import versions
from smorm.rewards.ensemble import Ensemble
from smorm.rewards.model import as_reward
from smorm.rewards.protocol import Reward, ScoringOptions, score_all
from smorm.rewards.section import display_names
from smorm.scoring.reward_model import RewardModel
from smorm.scoring.scorer import DEFAULT_BATCH_TOKENS, Scored
from smorm.text.chat import Messages
from smorm.text.limits import Overlong

Rewards = dict[str, Floats]  # a member's, on the common scale, by record
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


@dataclass(slots=True)
class ScoredSet:
    """Records that got scores, with them; `data` is the texts' fingerprint."""

    records: list[Any]
    scored: list[Scored]
    data: str
    notes: list[str] = field(default_factory=list)

    @property
    def prompts(self) -> list[str]:
        """A label of each record's prompt, which intervals resample."""
        return [fingerprint(prompt_key(record.prompt)) for record in self.records]

    @property
    def keys(self) -> list[str]:
        """What identifies a record: its line in its source, the same for every model."""
        return [record.where or f"record {index}" for index, record in enumerate(self.records)]


def parse_suite(text: str, **reading: Any) -> Suite:
    """`NAME=PATH`, e.g. `pairs/dev=data/dev.jsonl`; a benchmark of the hub without a path.
    `reading` are keys of `Source` for a file of pairs or ratings."""
    name, separator, path = text.partition("=")
    if not name or (separator and not path):
        raise ConfigError(f"suite {text!r}: expected NAME=PATH, e.g. pairs/dev=dev.jsonl")
    # The kind is checked before the path: a misspelt name should not be looked for on the hub.
    kind = Suite(name).kind
    if kind in BENCHMARKS:
        return Suite(name, labelled=tuple(BENCHMARKS[kind].sources(path or None)))
    if not path:
        raise ConfigError(f"suite {text!r}: expected NAME=PATH, e.g. {kind}/dev=dev.jsonl")
    return Suite(name, Source(path, **reading))


def read_suite(
    suite: Suite, census: Census, on_bad_record: OnBad, *, keep_fields: bool = False
) -> list[Record]:
    """Records of a suite's sources; a source's label is the subset of rows that name none."""
    # Every benchmark's rows are candidates, whatever they look like in its files.
    kind = PLAIN.get(suite.kind, "candidates")
    records: list[Record] = []
    for label, source in suite.sources:
        with_fields = replace(source, keep_fields=keep_fields)
        for record in read_records(with_fields, kind, census, on_bad_record):
            if label and isinstance(record, Candidates) and not record.source:
                record = replace(record, source=label)
            records.append(record)
    if not records:
        paths = dict.fromkeys(str(source.path) for _, source in suite.sources)
        raise DataError(f"suite {suite.name}: no record in {', '.join(paths)}")
    return records


def suite_pairs(suite: Suite, on_bad_record: OnBad = "stop") -> list[Item]:
    """The first good and the first other response of each of a suite's records; ConfigError where
    the suite compares nothing (`rated`)."""
    items = []
    for record in read_suite(suite, Census(), on_bad_record):
        if isinstance(record, Preference):
            items.append(record.item)
        elif isinstance(record, Candidates) and 0 < (record.chosen or 0) < len(record.responses):
            responses = (record.responses[0], record.responses[record.chosen or 1])
            items.append(Item(record.prompt, responses, record.where))
    if not items:
        raise ConfigError(f"suite {suite.name}: compares nothing: take pairs or a benchmark")
    return items


def run_suite(
    model: RewardModel | Reward,
    suite: Suite,
    views: Sequence[Any] = (None,),
    *,
    name: str | None = None,
    seed: int | None = None,
    **scoring: Any,
) -> list[Result]:
    """One result per view; for `rated` one result, since attributes have no view.
    `scoring` are options of `score_suite`, `name` and `seed` those of `measure_suite`.

    Raises:
        DataError: records that are not usable, or none that can be scored.
        ConfigError: an unknown view or kind of suite, or a `rated` suite without attribute rows."""
    data = score_suite(model, suite, **scoring)
    return measure_suite(model, suite, data, views, name=name, seed=seed)


def score_suite(
    model: RewardModel | Reward,
    suite: Suite,
    *,
    overlong: Overlong | None = None,
    on_bad_record: OnBad = "stop",
    max_batch_tokens: int = DEFAULT_BATCH_TOKENS,
) -> ScoredSet:
    """A suite's records with their rows of scores; prompts are computed once for all responses."""
    reward = as_reward(model, ScoringOptions(overlong=overlong, max_batch_tokens=max_batch_tokens))
    census = Census()
    records = read_suite(suite, census, on_bad_record, keep_fields=not reward.reads_text)
    return score_records(reward, records, census, on_bad_record)


def score_records(
    reward: Reward, records: Sequence[Record], census: Census, on_bad_record: OnBad
) -> ScoredSet:
    """Scores of records; one that cannot be scored stops it, or is left out and counted."""
    items = list(map(attrgetter("item"), records))
    results = score_all(reward, items, census, skip=on_bad_record == "skip")
    usable: list[Record] = []
    scored: list[Scored] = []
    for record, result in zip(records, results, strict=True):
        if result is not None:
            usable.append(record)
            scored.append(result)
    if not usable:
        raise DataError("no record could be scored")
    # Of the records that were scored: two models that leave out different ones differ in it.
    data = fingerprint(list(map(hash_of, usable)))
    return ScoredSet(usable, scored, data, census.lines())


def hash_of(record: Record) -> str:
    """Fingerprint of a record's texts."""
    item = record.item
    return fingerprint([prompt_key(item.prompt), list(map(prompt_key, item.responses))])


def words(messages: Messages) -> int:
    """Length of a response: its words."""
    return sum(len(message.content.split()) for message in messages)


def lengths_of(records: Sequence[Record]) -> list[Floats]:
    """Lengths of each record's responses, in words [n_i]."""
    return [np.array(list(map(words, record.item.responses)), dtype=float) for record in records]


def scored_items(data: ScoredSet, values: Sequence[Floats]) -> ScoredItems:
    """A benchmark's records and a view's values of their responses, ready for its rule."""
    for record in data.records:
        if not record.chosen:
            problem = "says not which responses are good: nothing to measure"
            raise DataError(f"{record.where}: {problem}")
    chosen = list(map(attrgetter("chosen"), data.records))
    subsets = [record.source or "" for record in data.records]
    ids = [record.id or "" for record in data.records]
    lengths = lengths_of(data.records)
    return ScoredItems(values, lengths, chosen, subsets, ids, data.prompts, data.keys)


def measure_suite(
    model: RewardModel | Reward,
    suite: Suite,
    data: ScoredSet,
    views: Sequence[Any] = (None,),
    *,
    name: str | None = None,
    seed: int | None = None,
) -> list[Result]:
    """The results of records that are scored already. `name` is the model's in results, by default
    its folder's; `seed` is put into the fingerprint, so that results of several seeds can join."""
    reward = as_reward(model)
    title = name or display_names([reward.name])[0]
    # What two results must share to be comparable; seeds of one model differ in `seed` alone.
    provenance = {**reward.provenance, "data": data.data, "versions": versions()}
    if seed is not None:
        provenance["seed"] = seed
    # Attribute rows predict ratings directly: no view of them would.
    if suite.kind == "rated":
        return [_measure_attributes(reward, suite, data, title, provenance)]
    results = []
    for view in list(map(reward.view, views)):
        values = [view.read(scored.rows) for scored in data.scored]
        # The view's weights too: a view of the same name may have been changed since.
        of_view = {**provenance, "view": dict(view.definition)}
        results.append(measure_values(suite, data, values, title, view.name, of_view))
    return results


def measure_values(
    suite: Suite,
    data: ScoredSet,
    values: list[Floats],
    title: str,
    view: str,
    provenance: dict[str, Any],
) -> Result:
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
        if isinstance(record, Candidates):
            scores = scores[np.argsort(record.places)]  # as they stand in the file
        items.append({**item, "scores": scores.tolist()})
    return _result(suite, title, view, measured, data, items, provenance)


def _result(
    suite: Suite,
    title: str,
    view: str,
    measured: Measurement,
    data: ScoredSet,
    items: list[Any],
    provenance: dict[str, Any],
) -> Result:
    return Result(
        "eval", suite.name, title, view, measured.metrics,
        items=items, fingerprint=provenance, notes=(*measured.notes, *data.notes),
        outcomes=measured.outcomes, chance_levels=measured.chance_levels,
    )  # fmt: skip


def _measure_attributes(
    reward: Reward, suite: Suite, data: ScoredSet, title: str, provenance: dict[str, Any]
) -> Result:
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
    return _result(suite, title, "attributes", measured, data, items, provenance)


def run_ensemble(
    ensemble: Ensemble, suites: Sequence[Suite], *, on_bad_record: OnBad = "stop"
) -> list[Result]:
    """Results of the ensemble over the records that all members could score, then those of each
    member by its own view: `differences` compares every member with the first. One member is in
    memory at a time."""
    for suite in suites:
        if suite.kind == "rated":
            problem = "measures attribute rows, and an ensemble has one reward only"
            remedy = "evaluate its members without --combine"
            raise ConfigError(f"suite {suite.name}: {problem}: {remedy}")
    results: list[Result] = []
    scored: list[list[tuple[ScoredSet, Rewards]]] = [[] for _ in suites]
    for member in ensemble.opened():
        for suite, of_suite in zip(suites, scored, strict=True):
            data = score_suite(member.reward, suite, on_bad_record=on_bad_record)
            views = [member.requested]
            results += measure_suite(member.reward, suite, data, views, name=member.name)
            rewards = map(member.values, data.scored)
            of_suite.append((data, dict(zip(data.keys, rewards, strict=True))))
        # Not kept while the next one is loaded.
        del member
    return [*map(partial(_combine, ensemble), suites, scored), *results]


def _combine(
    ensemble: Ensemble, suite: Suite, scored: Sequence[tuple[ScoredSet, Rewards]]
) -> Result:
    sets, tables = zip(*scored, strict=True)
    records, values, notes = [], [], ensemble.notes()
    for record, key in zip(sets[0].records, sets[0].keys, strict=True):
        if all(key in table for table in tables):
            records.append(record)
            values.append(ensemble.rule.combine(np.stack([table[key] for table in tables])))
    if not records:
        raise DataError(f"suite {suite.name}: no record could be scored by all members")
    if len({data.data for data in sets}) > 1:
        notes.append(f"{len(records)} records that all members could score.")
    for data in sets:
        notes += data.notes
    texts = fingerprint(list(map(hash_of, records)))
    data = ScoredSet(records, [], texts, list(dict.fromkeys(notes)))
    provenance = {**ensemble.provenance, "data": texts, "versions": versions()}
    return measure_values(suite, data, values, ensemble.name, ensemble.rule.name, provenance)
