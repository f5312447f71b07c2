"""Labels and ratings: contradictions, ranges, missing, constant and out-of-range attributes."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from smorm.arrays import Floats, Ints
from smorm.checks.findings import LOOK, MUST_FIX, Finding, FindingKind, Thresholds, above
from smorm.checks.shingles import Hashes
from smorm.checks.table import Table

Range = tuple[float, float]

# Scales of formats whose publishers state one.
PUBLISHED: dict[str, Range] = {"helpsteer2": (0.0, 4.0), "ultrafeedback": (1.0, 5.0)}


def label_findings(table: Table, limits: Thresholds) -> list[Finding]:
    """Contradictions among training records."""
    return [*_opposite_pairs(table, limits), *_conflicting_ratings(table, limits)]


def _opposite_pairs(table: Table, limits: Thresholds) -> list[Finding]:
    """Pairs over the same prompt and the same two responses, labelled both ways."""
    rows = table.rows("preference")
    if not len(rows):
        return []
    # `texts` ignores the order of the two sides; `flipped` says which of them was chosen.
    group, groups = _grouped(table.records["texts"][rows])
    flipped = np.bincount(group, table.records["flipped"][rows], groups)
    sizes = np.bincount(group, minlength=groups)
    contradictory = (flipped > 0) & (flipped < sizes)
    opposite = rows[contradictory[group]]
    if not len(opposite):
        return []
    severity = above(len(opposite) / len(rows), limits.conflicts, MUST_FIX, LOOK)
    kind, count, locations = FindingKind.CONFLICTING_PAIRS, len(opposite), table.locations(opposite)
    return [Finding(kind, severity, count, len(rows), "training pairs", locations=locations)]


def _conflicting_ratings(table: Table, limits: Thresholds) -> list[Finding]:
    """One prompt and response rated more than once and differently."""
    rows = table.rows("rated")
    if not len(rows):
        return []
    responses, total = _grouped(table.responses["text"][table.first_response()[rows]])
    group_of_row = np.full(len(table), -1)
    group_of_row[rows] = responses
    differing, far = np.zeros(total, dtype=bool), np.zeros(total, dtype=bool)
    for column in range(len(table.attributes)):
        values, rated = table.ratings_of(column)
        if len(values):
            # Relative to the attribute's observed range, since its scale is seldom known.
            widths = _widths(group_of_row[rated], values, total)
            differing |= widths > 0
            far |= widths > limits.rating_spread * float(np.ptp(values))
    if not differing.any():
        return []
    severity = above(float(far.sum()) / total, limits.rating_conflicts, MUST_FIX, LOOK)
    numbers = {"far": int(far.sum()), "fraction": limits.rating_spread}
    count, locations = int(differing.sum()), table.locations(rows[differing[responses]])
    kind = FindingKind.CONFLICTING_RATINGS
    return [Finding(kind, severity, count, total, "rated responses", numbers, locations=locations)]


def _grouped(keys: Hashes) -> tuple[Ints, int]:
    """Number of each key's group, and the number of groups."""
    distinct, group = np.unique(keys, return_inverse=True)
    return group.astype(np.int64), len(distinct)


def _widths(groups: Ints, values: Floats, total: int) -> Floats:
    """Largest less smallest value of each group, 0 for a group without one."""
    # Groups that stay empty keep high < low.
    low, high = np.full(total, np.inf), np.full(total, -np.inf)
    np.minimum.at(low, groups, values)
    np.maximum.at(high, groups, values)
    return np.where(high >= low, high - low, 0.0)


def summarise(table: Table) -> dict[str, dict[str, Any]]:
    """Every attribute that some training record rates, in order of appearance; `missing` counts
    rated records without it, `integers` is the share of ratings that are whole numbers."""
    rated = len(table.rows("rated"))
    summaries = {}
    for column, name in enumerate(table.attributes):
        # Sorted, so that the order of records cannot change the rounding of the mean.
        values = np.sort(table.ratings_of(column)[0])
        if len(values):
            summaries[name] = {
                "n": len(values),
                "missing": rated - len(values),
                "min": float(values[0]),
                "max": float(values[-1]),
                "mean": float(values.mean()),
                "deviation": float(values.std()),
                "integers": float((values == np.round(values)).mean()),
                "distinct": len(np.unique(values)),
            }
    return summaries


def attribute_findings(
    table: Table, ranges: Mapping[str, Range], by_source: Mapping[int, Range], limits: Thresholds
) -> list[Finding]:
    """Constant, mostly missing and out-of-range attributes.

    `ranges` are lowest and highest values of attributes, as the user states them, and take
    precedence over those of all attributes of a source, by its index.
    """
    findings: list[Finding] = []
    for name, summary in summarise(table).items():
        count, missing = summary["n"], summary["missing"]
        numbers = {"attribute": name, "value": summary["min"]}
        if summary["min"] == summary["max"]:
            kind = FindingKind.CONSTANT_ATTRIBUTE
            findings.append(Finding(kind, LOOK, count, count, "ratings", numbers))
        # Missing ratings are allowed; most of them missing is rarely intended.
        if missing / (missing + count) > limits.missing:
            kind, total = FindingKind.MISSING_RATINGS, missing + count
            findings.append(Finding(kind, LOOK, missing, total, "rated records", numbers))
    return [*findings, *_out_of_range(table, ranges, by_source)]


def _out_of_range(
    table: Table, ranges: Mapping[str, Range], by_source: Mapping[int, Range]
) -> list[Finding]:
    findings = []
    for column, name in enumerate(table.attributes):
        # Held-out ratings too: a wrong scale is wrong everywhere.
        selected = table.ratings["column"] == column
        rows, values = table.ratings["row"][selected], table.ratings["value"][selected]
        # The user's range wins over the published one: a set may use a scale of its own.
        if name in ranges:
            low, high = np.full((2, len(rows)), np.array(ranges[name])[:, None])
        else:
            low, high = _published_limits(table, rows, by_source)
        outside: Ints = rows[(values < low) | (values > high)]
        if not len(outside):
            continue
        numbers = {"attribute": name, "low": values.min(), "high": values.max()}
        case = "published"
        if name in ranges:
            case = "stated"
            numbers["stated_low"], numbers["stated_high"] = ranges[name]
        kind, total, locations = FindingKind.OUT_OF_RANGE, len(values), table.locations(outside)
        findings.append(
            Finding(kind, MUST_FIX, len(outside), total, "ratings", numbers, case, locations)
        )
    return findings


def _published_limits(
    table: Table, rows: Ints, by_source: Mapping[int, Range]
) -> tuple[Floats, Floats]:
    """Lowest and highest value of each rating; infinite where its source states none."""
    sources = table.records["source"][rows]
    low, high = np.full(len(rows), -np.inf), np.full(len(rows), np.inf)
    for source, (least, most) in by_source.items():
        low[sources == source], high[sources == source] = least, most
    return low, high
