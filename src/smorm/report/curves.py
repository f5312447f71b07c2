"""Curves out of result files: gold and proxy along best-of-n or a policy's steps, training losses.

The items of a result of kind "stress", "rl" or "training" are its points. Of runs that differ in
their seed only a curve is the mean, with Student's t interval over seeds (`mean_over_seeds`). A
single run keeps the interval that each of its points has, over prompts."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter, itemgetter
from typing import Any

import numpy as np

from smorm.arrays import Floats
from smorm.errors import DataError
from smorm.evaluation.metric_names import SuiteName
from smorm.evaluation.metrics import Metric, mean_over_seeds
from smorm.evaluation.result import Result
from smorm.report.rows import Group, as_table, groups_of
from smorm.report.selection import present_in, select

# The field that numbers the points of a kind of result.
POINT_KEYS = {"stress": "n", "rl": "step", "training": "step"}
# Kinds of results in which responses or policies are optimised against a reward.
OPTIMISED = ("stress", "rl")
_MIN_SEEDS = 2
Points = dict[float, dict[str, Metric]]


@dataclass(frozen=True, slots=True)
class Curve:
    """A method's points on one set of prompts, of one kind of results."""

    kind: str
    family: str  # the first part of the suite, such as "ppo"
    prompts: str  # the second, such as "ID"; may be ""
    label: str
    seeds: int  # how many runs the points are the mean of (1: none)
    at: tuple[float, ...]  # the points' n or step, ascending [C]
    values: Mapping[str, tuple[Metric, ...]]  # each quantity's value at every point [C]
    # By seed the same curve of that run alone, without intervals; empty for one run.
    runs: Mapping[str, Mapping[str, tuple[float, ...]]]
    dropped_points: int = 0  # points that not every seed has

    @property
    def suite(self) -> str:
        return str(SuiteName(self.family, self.prompts))

    def along(self, axis: str) -> tuple[float, ...]:
        """The points' positions on an axis: a quantity such as "kl", or their n or step."""
        if axis in self.values:
            return tuple(self.table(axis)[0].tolist())
        return self.at

    def table(self, quantity: str) -> Floats:
        """Value, low and high of a quantity [3, C]."""
        return as_table(self.values[quantity]).T

    def final(self, quantity: str) -> float:
        """The value at the last point; NaN without the quantity."""
        if quantity not in self.values:
            return math.nan
        return self.values[quantity][-1].value


def curves_of(results: Sequence[Result]) -> list[Curve]:
    """The curves of all results that have points, in order of first appearance."""
    return list(filter(attrgetter("at"), map(_curve, select(groups_of(results), kind=POINT_KEYS))))


def id_first(names: Iterable[str]) -> list[str]:
    """Sets of prompts, each once: in distribution (ID) first, the others as they come."""
    return sorted(dict.fromkeys(names), key=lambda name: name.upper() != "ID")


def _curve(group: Group) -> Curve:
    tables = list(map(_points, group.members))
    every_point = set().union(*tables)
    # Means over different seeds at neighbouring points would look like a step of the curve.
    at = tuple(sorted(set.intersection(*map(set, tables))))
    values: dict[str, tuple[Metric, ...]] = {}
    runs: dict[str, dict[str, tuple[float, ...]]] = {}
    names = list(tables[0].get(min(at, default=math.nan), {}))
    for table in tables:
        for x in at:
            names = present_in(names, table[x])
    # The quantities that every run has at every shared point.
    for name in names:
        traces = [[table[x][name] for x in at] for table in tables]
        values[name] = tuple(map(_mean, zip(*traces, strict=True)))
        # A single run has no standard deviation over seeds: an empty mapping means "one run".
        if len(tables) >= _MIN_SEEDS:
            for seed, trace in zip(group.seeds, traces, strict=True):
                runs.setdefault(seed, {})[name] = tuple(map(attrgetter("value"), trace))
    suite = SuiteName.parse(group.suite)
    key = (group.kind, suite.kind, suite.label, group.label)
    return Curve(*key, len(tables), at, values, runs, len(every_point) - len(at))


def _mean(members: Sequence[Metric]) -> Metric:
    if len(members) < _MIN_SEEDS:
        return members[0]
    values = as_table(members)[:, 0]
    # A mean over the finite ones only would change its seeds from point to point.
    if not np.isfinite(values).all():
        return Metric(math.nan, 0)
    return mean_over_seeds(values.tolist(), min(map(attrgetter("n"), members)))


def _points(result: Result) -> Points:
    # Without points where the items are the path of a file.
    points: Points = {}
    if not isinstance(result.items, list):
        return points
    key = POINT_KEYS[result.kind]
    for index, item in enumerate(result.items):
        where = f"{result.suite}, {result.model}: items[{index}]"
        if not isinstance(item, Mapping) or not _is_number(item.get(key)):
            raise DataError(f"{where}: expected an object with the number {key!r}")
        numbers = points.setdefault(float(item[key]), {})
        for name, value in item.items():
            # Texts and flags say what a point is; all else is a number that can be drawn.
            if name != key and not isinstance(value, str | bool):
                numbers[str(name)] = _metric(value, f"{where}.{name}")
    return points


def _metric(value: Any, where: str) -> Metric:
    """A plain number, or {value, n, low, high}; null is NaN."""
    if value is None:
        return Metric(math.nan, 0)
    if _is_number(value):
        return Metric(float(value), 1)
    if not isinstance(value, Mapping) or "value" not in value:
        raise DataError(f"{where}: expected a number or {{value, n, low, high}}")
    numbers = []
    for key in ("value", "low", "high"):
        number = value.get(key)
        if number is not None and not _is_number(number):
            raise DataError(f"{where}: value, low and high: expected numbers or null")
        numbers.append(math.nan if number is None else float(number))
    # n is for the tables, which have their own: a curve does not fail for it.
    count = value.get("n", 1)
    if not isinstance(count, int):
        count = 1
    return Metric(numbers[0], count, *numbers[1:])


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


@dataclass(frozen=True, slots=True)
class Peak:
    """Where a curve of gold is highest, and what is lost until its lowest point after it."""

    at: float  # the n or step of the largest mean
    last: float  # that of the lowest point after it, or of the last one in older files
    drop: Metric  # gold at the first less gold at the second
    runs_at: tuple[float, ...] = ()  # the peak of each run; empty for one run

    @property
    def drops(self) -> bool:
        """Whether the interval of the drop lies above 0."""
        return self.drop.low > 0


def peak_of(
    curve: Curve, measured_drop: Metric | None = None, *, to_end: bool = False
) -> Peak | None:
    """The peak of a curve of gold, or None without finite gold; a single run brings its drop, which
    older files measured `to_end`, the last point. A curve that falls and rises again has fallen."""
    if "gold" not in curve.values or not np.isfinite(curve.along("gold")).all():
        return None
    means = np.array(curve.along("gold"))
    top = int(means.argmax())
    bottom = top + int(means[top:].argmin())
    if len(curve.runs) < _MIN_SEEDS:
        if to_end:
            bottom = len(means) - 1
        drop = measured_drop or Metric(
            float(means[top] - means[bottom]), curve.values["gold"][top].n
        )
        return Peak(curve.at[top], curve.at[bottom], drop)
    golds = np.array(list(map(itemgetter("gold"), curve.runs.values())))
    # Each seed's drop is measured from the peak to the trough of the other seeds' mean. At its own
    # it could not be below 0, and would be found in pure noise.
    drops = np.empty(len(golds))
    for seed, gold in enumerate(golds):
        rest = np.delete(golds, seed, axis=0).mean(axis=0)
        peak = int(rest.argmax())
        drops[seed] = gold[peak] - gold[peak + int(rest[peak:].argmin())]
    finite = drops[np.isfinite(drops)].tolist()
    runs_at = np.array(curve.at)[golds.argmax(axis=1)]
    drop = mean_over_seeds(finite, len(golds))
    return Peak(curve.at[top], curve.at[bottom], drop, tuple(runs_at.tolist()))
