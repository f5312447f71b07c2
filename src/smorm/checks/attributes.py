"""Ratings attribute by attribute: range, missing, constant, whole numbers, values out of range."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from smorm.checks.columns import Table
from smorm.checks.findings import Finding, Thresholds, among
from smorm.checks.labels import ratings_of
from smorm.checks.shingles import Ints

Range = tuple[float, float]

PUBLISHED: dict[str, Range] = {"helpsteer2": (0.0, 4.0), "ultrafeedback": (1.0, 5.0)}
"""Scales of formats whose publishers state one."""


@dataclass(frozen=True, slots=True)
class AttributeSummary:
    """One attribute over the training records.

    Attributes:
        n: ratings; `missing`: rated records without one.
        integers: share of ratings that are whole numbers.
        distinct: how many different values.
    """

    name: str
    n: int
    missing: int
    low: float
    high: float
    mean: float
    deviation: float
    integers: float
    distinct: int

    def as_dict(self) -> dict[str, Any]:
        """The JSON object."""
        return {
            "n": self.n, "missing": self.missing, "min": self.low, "max": self.high,
            "mean": self.mean, "deviation": self.deviation, "integers": self.integers,
            "distinct": self.distinct,
        }  # fmt: skip


def summarise(table: Table) -> list[AttributeSummary]:
    """Every attribute that some training record rates, in order of appearance."""
    rated = len(table.rows("rated"))
    found = []
    for column, name in enumerate(table.attributes):
        # sorted, so that rounding of the mean does not tell two orders apart
        values = np.sort(ratings_of(table, column)[0])
        if len(values):
            found.append(
                AttributeSummary(
                    name, len(values), rated - len(values), float(values[0]), float(values[-1]),
                    float(values.mean()), float(values.std()),
                    float((values == np.round(values)).mean()),
                    1 + int((values[1:] != values[:-1]).sum()),
                )
            )  # fmt: skip
    return found


def attribute_findings(
    table: Table, ranges: Mapping[str, Range], by_source: Mapping[int, Range], limits: Thresholds
) -> list[Finding]:
    """What is to be said about the ratings.

    Args:
        ranges: lowest and highest value of attributes, as the user states them.
        by_source: those of all attributes of a source, by its number; `ranges` win over them.
    """
    found: list[Finding] = []
    for one in summarise(table):
        if one.low == one.high:
            found.append(
                Finding(
                    "constant_attribute",
                    "look",
                    one.n,
                    f"{one.name} is always {one.low:g}: it teaches nothing; leave it out",
                    **among(one.n, one.n, "ratings"),
                )
            )
        share = one.missing / (one.n + one.missing)
        if share > limits.missing:
            found.append(
                Finding(
                    "missing_ratings",
                    "look",
                    one.missing,
                    f"{one.name} is not rated in most rated records: masked out of the loss, so "
                    "its row learns from the rest alone",
                    **among(one.missing, one.n + one.missing, "rated records"),
                )
            )
    return [*found, *_outside(table, ranges, by_source)]


def _outside(
    table: Table, ranges: Mapping[str, Range], by_source: Mapping[int, Range]
) -> list[Finding]:
    found = []
    for column, name in enumerate(table.attributes):
        own = table.ratings["column"] == column
        rows, values = table.ratings["row"][own], table.ratings["value"][own]
        low, high = _borders(table, rows, ranges.get(name), by_source)
        bad: Ints = rows[(values < low) | (values > high)]
        if len(bad):
            stated = ranges.get(name)
            told = f"{stated[0]:g} to {stated[1]:g}" if stated else "its published scale"
            found.append(
                Finding(
                    "out_of_range",
                    "must fix",
                    len(bad),
                    f"{name} has values outside {told}, from {values.min():g} to "
                    f"{values.max():g}: correct them, or the stated range",
                    places=table.places(bad),
                    **among(len(bad), len(values), "ratings"),
                )
            )
    return found


def _borders(
    table: Table, rows: Ints, stated: Range | None, by_source: Mapping[int, Range]
) -> tuple[Any, Any]:
    if stated is not None:
        return stated
    sources = table.records["source"][rows]
    low, high = np.full(len(rows), -np.inf), np.full(len(rows), np.inf)
    for source, (least, most) in by_source.items():
        low[sources == source], high[sources == source] = least, most
    return low, high
