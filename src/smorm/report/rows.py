"""From results to the rows of a report: one for each model and view of a suite.

Results that differ in `fingerprint.seed` only become one row: the mean over seeds, with Student's t
interval over them, which holds the noise of whatever differs between seeds."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

import numpy as np

from smorm.arrays import Floats
from smorm.evaluation.alarms import Alarm
from smorm.evaluation.metric_names import SuiteName
from smorm.evaluation.metrics import Metric, mean_over_seeds
from smorm.evaluation.result import Check, Failure, Result
from smorm.report.selection import by_attribute, distinct, grouped, reject
from smorm.report.style import style_of

# Kinds of results that have a section of their own beside the suite that they are about.
SEPARATE = {"difference": "differences", "sanity": "sanity tests", "parity": "parity"}
# Kinds of results that say how a model was made.
UNMEASURED = ("training", "cost")
NOT_COMPARED = (*SEPARATE, *UNMEASURED)
_SEEDS_NOTE = (
    "Mean over {seeds} seeds; intervals are Student's t over seeds: they hold the noise of "
    "training, and that of sampling items only where each seed has items of its own."
)
_ACCURACIES = ("accuracy", "accuracy_chosen_longer", "accuracy_chosen_shorter")
# Of result files of pairs that were written before files had chance levels.
_PAIRS_CHANCE = dict.fromkeys(_ACCURACIES, 0.5)
# Views that hold all of a model's rows: they add nothing to its name.
_UNNAMED_VIEWS = ("", "attributes")


@dataclass(frozen=True, slots=True)
class Row:
    """A model's view on one suite."""

    kind: str
    suite: str
    model: str
    view: str
    label: str  # the method's name on the page (see `method_labels`)
    metrics: dict[str, Metric]
    notes: tuple[str, ...]
    sources: tuple[int, ...]  # positions, from 1, of the results that the row stands for
    seeds: int  # how many results were averaged (1: none)
    n_ranges: Mapping[str, tuple[int, int]]  # smallest and largest n over seeds, if they differ
    failures: tuple[Failure, ...]
    chance_levels: Mapping[str, float]  # what random scores get, of metrics with such a level
    checks: tuple[Check, ...] = ()  # all tests of a model, where the file has them
    alarms: tuple[Alarm, ...] = ()  # of all seeds
    trained_here: bool = False  # whether the model's card says on which data it was trained

    @property
    def family(self) -> str:
        """The first part of the suite's name, such as "pairs"."""
        return SuiteName.parse(self.suite).kind


@dataclass(frozen=True, slots=True)
class Group:
    """The results of one (kind, suite, model, view): its runs with different seeds."""

    kind: str
    suite: str
    model: str
    view: str
    label: str
    members: tuple[Result, ...]
    sources: tuple[int, ...]
    seeds: tuple[str, ...]  # empty unless every member has one of its own


def groups_of(results: Sequence[Result]) -> list[Group]:
    """Results put together that differ in their seed only, in order of first appearance. Results of
    one name that seeds do not tell apart become groups of their own, numbered."""
    labels = method_labels(results)
    key_of = attrgetter("kind", "suite", "model", "view")
    numbered = grouped(enumerate(results, start=1), lambda item: key_of(item[1]))
    groups = []
    for key, members in numbered.items():
        label = labels[key[2], key[3]]
        sources, runs = zip(*members, strict=True)
        seeds = tuple(str(result.fingerprint.get("seed")) for result in runs)
        # Results that seeds do not tell apart may be one run twice: a mean would hide that. A
        # single run with a seed is a group as well: other methods may be paired with it.
        if "None" not in seeds and len(set(seeds)) == len(seeds):
            groups.append(Group(*key, label, runs, sources, seeds))
            continue
        for number, (source, result) in enumerate(members, start=1):
            suffix = f" ({number})" if len(members) > 1 else ""
            groups.append(Group(*key, f"{label}{suffix}", (result,), (source,), ()))
    return groups


def method_labels(results: Iterable[Result]) -> dict[tuple[str, str], str]:
    """A short name for each (model, view): the view is added where a model shows several."""
    labels: dict[tuple[str, str], str] = {}
    for model, members in by_attribute(results, "model").items():
        views = distinct(members, "view")
        named = set(views).difference(_UNNAMED_VIEWS)
        for view in views:
            # A model with one view is known by its name alone.
            suffix = f"-{view}" if len(named) > 1 and view in named else ""
            labels[model, view] = f"{model}{suffix}"
    return labels


def rows_of(results: Sequence[Result]) -> list[Row]:
    """Rows in order of first appearance."""
    return list(map(_row, groups_of(results)))


def _row(group: Group) -> Row:
    seeds = len(group.members)
    metrics = dict(group.members[0].metrics)
    n_ranges: dict[str, tuple[int, int]] = {}
    notes: list[str] = []
    if seeds > 1:
        notes.append(_SEEDS_NOTE.format(seeds=seeds))
        for name in metric_names(group.members):
            values, counts = [], []
            for result in group.members:
                metric = result.metrics.get(name)
                if metric is not None and math.isfinite(metric.value):
                    values.append(metric.value)
                    counts.append(metric.n)
            # A seed can lack a number: the mean is over the others, and a note says so.
            if len(values) < seeds:
                notes.append(f"{style_of(name).label}: {len(values)} of {seeds} seeds have it.")
            if len(set(counts)) > 1:
                n_ranges[name] = (min(counts), max(counts))
            metrics[name] = Metric(math.nan, 0)
            if values:
                metrics[name] = mean_over_seeds(values, min(counts))
    failures: list[Failure] = []
    checks: list[Check] = []
    alarms: list[Alarm] = []
    chance_levels: dict[str, float] = {}
    for result in group.members:
        notes += result.notes
        failures += result.failures
        checks += result.checks
        alarms += result.alarms
        chance_levels |= result.chance_levels
    if not chance_levels and SuiteName.parse(group.suite).kind == "pairs":
        chance_levels = _PAIRS_CHANCE
    return Row(
        group.kind,
        group.suite,
        group.model,
        group.view,
        group.label,
        metrics,
        tuple(dict.fromkeys(notes)),
        group.sources,
        seeds,
        n_ranges,
        tuple(dict.fromkeys(failures)),
        chance_levels,
        tuple(dict.fromkeys(checks)),
        tuple(alarms),
        all(_names_training(result.fingerprint) for result in group.members),
    )


def _names_training(fingerprint: Mapping[str, Any]) -> bool:
    """Whether the card of a result's model, or of every member of an ensemble, has the hash of its
    training data; a model of others has none."""
    hashes = [fingerprint.get("model")]
    if isinstance(fingerprint.get("members"), list):
        hashes = [member.get("hashes") for member in fingerprint["members"]]
    return all(isinstance(each, Mapping) and "data" in each for each in hashes)


def in_distribution(rows: Iterable[Row]) -> set[str]:
    """The suites whose set may be called as in training where it is named so: every model's card
    says what it was trained on."""
    measured = reject(rows, kind=NOT_COMPARED)
    by_suite = by_attribute(measured, "suite")
    return {suite for suite, of_suite in by_suite.items() if all(r.trained_here for r in of_suite)}


def as_table(metrics: Iterable[Metric]) -> Floats:
    """Value, low and high of each metric [N, 3]."""
    return np.array(list(map(attrgetter("value", "low", "high"), metrics)), dtype=np.float64)


def metric_names(rows: Iterable[Row | Result]) -> list[str]:
    """The names of all metrics, in order of first appearance."""
    names: dict[str, None] = {}
    for row in rows:
        names.update(dict.fromkeys(row.metrics))
    return list(names)


def separated_best(rows: Sequence[Row], name: str) -> Row | None:
    """The row that is best in a metric, its interval disjoint from all others'; None where there is
    none, or rows are differences."""
    better = style_of(name).better
    candidates = [row for row in rows if name in row.metrics]
    if not better or len(candidates) < 2 or rows[0].kind == "difference":
        return None
    table = as_table(row.metrics[name] for row in candidates)
    if better == "lower":
        # Negated, with the ends of the interval exchanged, it is the case of "higher is better".
        table = -table[:, [0, 2, 1]]
    value, low, high = table.T
    best = int(value.argmax())
    # A missing end is NaN, which makes the comparison false.
    is_separated = low[best] > np.delete(high, best).max() and np.isfinite(low).all()
    if not is_separated:
        return None
    return candidates[best]
