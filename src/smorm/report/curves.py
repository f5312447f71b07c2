"""Curves out of result files: gold and proxy along best-of-n or a policy's steps, training losses.

The items of a result of kind "stress", "rl" or "training" are its points. Runs that differ in their
seed only become one curve: at each point the mean over seeds with Student's t interval over them
(`mean_over_seeds`). A single run keeps the interval that each of its points has, over prompts.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from smorm.errors import DataError
from smorm.evaluation.metrics import Metric, mean_over_seeds
from smorm.evaluation.result import Result
from smorm.report.rows import Group, groups_of

ALONG = {"stress": "n", "rl": "step", "training": "step"}
"""What tells the points of a kind of result apart."""
_LEAST_SEEDS = 2


@dataclass(frozen=True, slots=True)
class Curve:
    """A method's points on one set of prompts.

    Attributes:
        kind: of the results.
        family: what pushed, the suite's first part: "best-of-n", "ppo".
        prompts: the set of prompts, the suite's second part; "" where there is none.
        label: the method, as in the tables.
        seeds: how many runs the points are the mean of (1: none).
        at: the points' n or step, ascending [C].
        values: each quantity's value at every point [C].
        runs: by seed the same curve of that run alone, without intervals; empty for one run.
        left_out: points that not every seed has.
    """

    kind: str
    family: str
    prompts: str
    label: str
    seeds: int
    at: tuple[float, ...]
    values: Mapping[str, tuple[Metric, ...]]
    runs: Mapping[str, Mapping[str, tuple[float, ...]]]
    left_out: int = 0


def curves_of(results: Sequence[Result], kinds: Iterable[str] = tuple(ALONG)) -> list[Curve]:
    """The curves of all results that have points, in order of first appearance.

    Raises:
        DataError: a point is not of the contract.
    """
    wanted = set(kinds)
    curves = [_curve(group) for group in groups_of(results) if group.kind in wanted]
    return [curve for curve in curves if curve.at]


def sets_in_order(curves: Iterable[Curve]) -> list[str]:
    """The sets of prompts: in distribution (ID) first, the others as they come."""
    found = list(dict.fromkeys(curve.prompts for curve in curves))
    return sorted(found, key=lambda name: name.upper() != "ID")


def _curve(group: Group) -> Curve:
    tables = [_points(one) for one in group.members]
    shared = [at for at in tables[0] if all(at in table for table in tables)]
    everything = {at for table in tables for at in table}
    at = tuple(sorted(shared))
    names = [
        name
        for name in (tables[0][at[0]] if at else {})
        if all(name in table[place] for table in tables for place in at)
    ]
    several = len(tables) >= _LEAST_SEEDS
    family, _, prompts = group.suite.partition("/")
    return Curve(
        group.kind,
        family,
        prompts,
        group.label,
        len(tables),
        at,
        {name: tuple(_mean([t[place][name] for t in tables]) for place in at) for name in names},
        {
            seed: {name: tuple(table[place][name].value for place in at) for name in names}
            for seed, table in zip(group.seeds, tables, strict=False)
            if several
        },
        len(everything) - len(at),
    )


def _mean(members: Sequence[Metric]) -> Metric:
    """One number over seeds; a single run's number as it is."""
    if len(members) < _LEAST_SEEDS:
        return members[0]
    values = [metric.value for metric in members]
    if not all(map(math.isfinite, values)):
        return Metric(math.nan, 0)
    return mean_over_seeds(values, min(metric.n for metric in members))


def _points(result: Result) -> dict[float, dict[str, Metric]]:
    """Every point's numbers by its n or step; nothing where the items are a path."""
    if isinstance(result.items, str):
        return {}
    name = ALONG[result.kind]
    points: dict[float, dict[str, Metric]] = {}
    for number, item in enumerate(result.items):
        where = f"{result.suite}, {result.model}: items[{number}]"
        if not isinstance(item, Mapping) or not _is_number(item.get(name)):
            raise DataError(f"{where}: expected an object with the number {name!r}")
        points[float(item[name])] = {
            str(key): _metric(value, f"{where}.{key}")
            for key, value in item.items()
            if key != name and not isinstance(value, str | bool)
        }
    return points


def _metric(value: Any, where: str) -> Metric:
    """A plain number, or {value, n, low, high}; null is no number."""
    if value is None:
        return Metric(math.nan, 0)
    if _is_number(value):
        return Metric(float(value), 1)
    if not isinstance(value, Mapping) or "value" not in value:
        raise DataError(f"{where}: expected a number or {{value, n, low, high}}")
    ends = [value.get(key) for key in ("value", "low", "high")]
    if not all(end is None or _is_number(end) for end in ends):
        raise DataError(f"{where}: value, low and high: expected numbers or null")
    numbers = [math.nan if end is None else float(end) for end in ends]
    count = value.get("n", 1)
    return Metric(numbers[0], count if isinstance(count, int) else 1, *numbers[1:])


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
