"""From results to the rows of a report: one for each model and view of a suite.

Results that differ in `fingerprint.seed` only become one row: the mean over seeds, with Student's t
interval over them. That interval holds the noise of what differs between seeds: of training, and of
the items where each seed has its own.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from smorm.evaluation.metrics import Metric, mean_over_seeds
from smorm.evaluation.result import Result
from smorm.report.names import style_of

_WHOLE = ("", "attributes")
"""Views that are all of a model."""


@dataclass(frozen=True, slots=True)
class Row:
    """A model's view on one suite; `seeds` is how many results were averaged (1: none).

    `sizes` holds the smallest and largest n over seeds where they differ.
    """

    kind: str
    suite: str
    model: str
    view: str
    label: str
    metrics: dict[str, Metric]
    notes: tuple[str, ...]
    sources: tuple[int, ...]
    seeds: int = 1
    sizes: Mapping[str, tuple[int, int]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Group:
    """Results of one (kind, suite, model, view): its seeds, or what cannot be told apart by them.

    `places` counts results from 1; `seeds` is empty unless every member has one, each its own.
    """

    key: tuple[str, str, str, str]
    label: str
    members: tuple[Result, ...]
    places: tuple[int, ...]
    seeds: tuple[str, ...]

    @property
    def kind(self) -> str:
        """The members' kind."""
        return self.key[0]

    @property
    def suite(self) -> str:
        """The members' suite."""
        return self.key[1]


def groups_of(results: Sequence[Result]) -> list[Group]:
    """Results put together that differ in their seed only, in order of first appearance.

    Results of one name that seeds do not tell apart become groups of their own, numbered.
    """
    labels = method_labels(results)
    found: dict[tuple[str, str, str, str], list[int]] = {}
    for place, one in enumerate(results):
        found.setdefault((one.kind, one.suite, one.model, one.view), []).append(place)
    groups: list[Group] = []
    for key, places in found.items():
        label = labels[key[2], key[3]]
        members = tuple(results[place] for place in places)
        seeds = tuple(str(one.fingerprint.get("seed")) for one in members)
        if _seeds_differ(members):
            groups.append(Group(key, label, members, tuple(p + 1 for p in places), seeds))
            continue
        for number, (one, place) in enumerate(zip(members, places, strict=True), start=1):
            name = label if len(places) == 1 else f"{label} ({number})"
            groups.append(Group(key, name, (one,), (place + 1,), ()))
    return groups


def rows_of(results: Sequence[Result]) -> list[Row]:
    """Rows in order of first appearance; `sources` counts results from 1."""
    return [_row(group) for group in groups_of(results)]


def _row(group: Group) -> Row:
    if len(group.members) > 1:
        return _over_seeds(group)
    one = group.members[0]
    return Row(*group.key, group.label, dict(one.metrics), one.reported, group.places)


def method_labels(results: Iterable[Result]) -> dict[tuple[str, str], str]:
    """A short name for each (model, view): the view is added where a model shows several.

    No view (a training curve) and all attribute rows ("attributes") are the model itself.
    """
    views: dict[str, list[str]] = {}
    for one in results:
        seen = views.setdefault(one.model, [])
        if one.view not in seen:
            seen.append(one.view)
    return {
        (model, view): f"{model}-{view}"
        if view not in _WHOLE and sum(other not in _WHOLE for other in seen) > 1
        else model
        for model, seen in views.items()
        for view in seen
    }


def _seeds_differ(members: Sequence[Result]) -> bool:
    """Whether every result has a seed and no two have the same."""
    seeds = [one.fingerprint.get("seed") for one in members]
    return None not in seeds and len({str(seed) for seed in seeds}) == len(seeds)


def _over_seeds(group: Group) -> Row:
    members = group.members
    names = list(dict.fromkeys(name for one in members for name in one.metrics))
    metrics: dict[str, Metric] = {}
    notes = [
        f"Mean over {len(members)} seeds; intervals are Student's t over seeds: they hold the "
        "noise of training, and that of sampling items only where each seed has items of its own."
    ]
    sizes: dict[str, tuple[int, int]] = {}
    for name in names:
        found = [one.metrics[name] for one in members if name in one.metrics]
        found = [metric for metric in found if math.isfinite(metric.value)]
        if len(found) < len(members):
            notes.append(f"{style_of(name).label}: {len(found)} of {len(members)} seeds have it.")
        smallest, largest = _range([metric.n for metric in found])
        if smallest != largest:
            sizes[name] = (smallest, largest)
        values = [metric.value for metric in found]
        metrics[name] = mean_over_seeds(values, smallest) if values else Metric(math.nan, 0)
    told = dict.fromkeys([*notes, *(note for one in members for note in one.reported)])
    return Row(*group.key, group.label, metrics, tuple(told), group.places, len(members), sizes)


def _range(counts: Sequence[int]) -> tuple[int, int]:
    return min(counts, default=0), max(counts, default=0)


def separated_best(rows: Sequence[Row], name: str) -> int | None:
    """The row that is best in a metric with its interval apart from all others', or None.

    None too where a metric has no better way, only one row has it, an interval is missing, or rows
    are differences.
    """
    if any(row.kind == "difference" for row in rows):
        return None
    better = style_of(name).better
    found = [(place, row.metrics[name]) for place, row in enumerate(rows) if name in row.metrics]
    ends = [(metric.low, metric.high) for _, metric in found]
    if not better or len(found) < 2 or any(math.isnan(end) for pair in ends for end in pair):
        return None
    sign = 1.0 if better == "higher" else -1.0
    best, metric = max(found, key=lambda one: sign * one[1].value)
    for place, other in found:
        apart = metric.low > other.high if better == "higher" else metric.high < other.low
        if place != best and not apart:
            return None
    return best
