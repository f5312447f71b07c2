"""How long prompts and responses are, and how labels correlate with length.
The correlation is the shortcut that a reward model learns first."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from smorm.arrays import Ints
from smorm.checks.findings import FINE, LOOK, Finding, FindingKind, Thresholds
from smorm.checks.shingles import Hashes
from smorm.checks.table import Table
from smorm.evaluation.correlation import spearman_metric
from smorm.evaluation.metrics import Metric, pair_outcomes, share_metric

PERCENTILES = (1, 5, 25, 50, 75, 95, 99)
# Ratings of an attribute that its correlation is computed of: those with the smallest hashes where
# there are more, so that the order of records has no influence.
MOST_RATINGS = 20_000


def length_table(table: Table, unit: str) -> dict[str, Any]:
    """Summaries of the lengths of prompts, sides and conversations over training records."""
    pairs, rated = table.rows("preference"), table.rows("rated")
    prompted = np.flatnonzero(table.train & (table.records["has_prompt"] != 0))
    lengths: dict[str, Ints] = {
        "prompt": table.records[f"prompt_{unit}"][prompted].astype(np.int64),
        "chosen": table.response_lengths(pairs, 0, unit),
        "rejected": table.response_lengths(pairs, 1, unit),
        "response": table.response_lengths(rated, 0, unit),
        # Lists of candidates differ in length, so theirs are gathered index by index.
        "candidate": _candidate_lengths(table, unit),
    }
    if unit == "tokens":
        # Held-out conversations are left out here as everywhere in these tables.
        trained = np.repeat(table.train, table.records["responses"])
        lengths["conversation"] = table.responses["tokens"][trained].astype(np.int64)
    summaries = {}
    for name, values in lengths.items():
        known = values[values >= 0]
        if len(known):
            summaries[name] = summary(known)
    return summaries


def _candidate_lengths(table: Table, unit: str) -> Ints:
    rows = table.rows("candidates")
    counts, lengths = table.records["responses"][rows], np.zeros(0, dtype=np.int64)
    for index in range(max(counts, default=0)):
        of_index = table.response_lengths(rows[counts > index], index, unit)
        lengths = np.concatenate([lengths, of_index])
    return lengths


def summary(values: Ints) -> dict[str, Any]:
    """`{n, mean, max, percentiles: {"50": ...}, histogram: [[from, below, count], ...]}`, where the
    borders are powers of two."""
    # Lengths that occur, not interpolated ones: a limit is chosen from this table.
    levels = np.percentile(values, PERCENTILES, method="inverted_cdf").astype(int).tolist()
    bits = np.frexp(values.astype(np.float64))[1]  # 0 for 0, k for 2^(k-1) to 2^k - 1
    histogram = []
    for bit, count in enumerate(np.bincount(bits).tolist()):
        if count:
            histogram.append([(1 << bit) >> 1, 1 << bit, count])
    return {
        "n": len(values),
        "mean": float(values.mean()),
        "max": int(values.max()),
        "percentiles": dict(zip(map(str, PERCENTILES), levels, strict=True)),
        "histogram": histogram,
    }


@dataclass(frozen=True, slots=True)
class Bias:
    """Numbers with intervals that resample prompts."""

    unit: str
    # share of pairs whose chosen side is the longer one, a tie half
    longer_wins: Metric | None = None
    ties: int = 0
    # Spearman correlation of each attribute with the response's length
    correlations: Mapping[str, Metric] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """The JSON object."""
        return {
            "unit": self.unit,
            "longer_wins": self.longer_wins and self.longer_wins.as_dict(),
            "ties": self.ties,
            "attributes": {name: metric.as_dict() for name, metric in self.correlations.items()},
        }


def measure_bias(table: Table, unit: str) -> Bias:
    """Over training records; lengths in `words` or `tokens`."""
    rows = table.rows("preference")
    chosen, rejected = (table.response_lengths(rows, side, unit) for side in (0, 1))
    known = (chosen >= 0) & (rejected >= 0)
    correlations = _correlations(table, unit)
    if not known.any():
        return Bias(unit, correlations=correlations)
    outcomes, ties = pair_outcomes(chosen[known].astype(float), rejected[known].astype(float))
    share = share_metric(outcomes, _clusters(table, rows[known]))
    return Bias(unit, share, ties, correlations)


def _clusters(table: Table, rows: Ints) -> Hashes:
    """The prompt's hash; without a prompt that of the record's texts."""
    records = table.records
    # All records without a prompt share one prompt hash, but they are not alike.
    unprompted = records["has_prompt"][rows] == 0
    return np.where(unprompted, records["texts"][rows], records["prompt"][rows])


def _correlations(table: Table, unit: str) -> dict[str, Metric]:
    correlations = {}
    for column, name in enumerate(table.attributes):
        values, rows = table.ratings_of(column)
        lengths = table.response_lengths(rows, 0, unit)
        known = np.flatnonzero(lengths >= 0)
        # By hash and not by position: the sample must not depend on the order of files.
        order = np.lexsort((values[known], table.records["record"][rows[known]]))
        sample = known[order[:MOST_RATINGS]]
        if len(sample):
            length = lengths[sample].astype(np.float64)
            clusters = _clusters(table, rows[sample])
            correlations[name] = spearman_metric(values[sample], length, clusters)
    return correlations


def bias_findings(bias: Bias, limits: Thresholds) -> list[Finding]:
    """The share of longer sides, and attributes that correlate with length too much."""
    findings, wins = [], bias.longer_wins
    if wins is not None:
        far = abs(wins.value - 0.5) > limits.length_wins
        case, severity = "", FINE
        # A small set can be far from one half by accident.
        if far and not wins.low <= 0.5 <= wins.high:
            case, severity = "shorter" if wins.value < 0.5 else "longer", LOOK
        kind, count = FindingKind.LENGTH_BIAS, round(wins.value * wins.n)
        numbers: dict[str, Any] = {"share_longer": wins}
        findings.append(Finding(kind, severity, count, wins.n, "training pairs", numbers, case))
    for name, metric in bias.correlations.items():
        if abs(metric.value) > limits.length_correlation:
            numbers = {"attribute": name, "unit": bias.unit, "correlation": metric}
            findings.append(Finding(FindingKind.ATTRIBUTE_LENGTH, LOOK, metric.n, numbers=numbers))
    return findings
