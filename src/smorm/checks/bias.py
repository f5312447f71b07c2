"""How labels go with length: the shortcut that a reward model learns first."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from smorm.checks.columns import Table
from smorm.checks.findings import Finding, Thresholds, among
from smorm.checks.labels import ratings_of
from smorm.checks.lengths import response_lengths
from smorm.checks.shingles import Hashes, Ints
from smorm.evaluation.baselines import longer_wins
from smorm.evaluation.correlation import spearman_metric
from smorm.evaluation.metrics import Metric, share_metric

MOST_RATINGS = 20_000
"""Ratings of an attribute that its correlation is taken of: those with the smallest hashes where
there are more, so that the order of records has no influence."""


@dataclass(frozen=True, slots=True)
class Bias:
    """Numbers with intervals that resample prompts.

    Attributes:
        longer_wins: share of pairs whose chosen side is the longer one, a tie half.
        correlations: Spearman correlation of each attribute with the response's length.
    """

    unit: str
    longer_wins: Metric | None = None
    ties: int = 0
    correlations: Mapping[str, Metric] = field(default_factory=dict)


def measure_bias(table: Table, unit: str) -> Bias:
    """Over training records; lengths in `words` or `tokens`."""
    rows = table.rows("preference")
    chosen, rejected = (response_lengths(table, rows, side, unit) for side in (0, 1))
    known = (chosen >= 0) & (rejected >= 0)
    wins, ties = None, 0
    if known.any():
        outcomes, ties = longer_wins(
            chosen[known].astype(np.float64), rejected[known].astype(np.float64)
        )
        wins = share_metric(outcomes, _clusters(table, rows[known]))
    return Bias(unit, wins, ties, _correlations(table, unit))


def _clusters(table: Table, rows: Ints) -> Hashes:
    """The prompt's hash; of records without a prompt each is a cluster of its own."""
    records = table.records
    alone = records["has_prompt"][rows] == 0
    return np.where(alone, records["texts"][rows], records["prompt"][rows])


def _correlations(table: Table, unit: str) -> dict[str, Metric]:
    found = {}
    for column, name in enumerate(table.attributes):
        values, rows = ratings_of(table, column)
        lengths = response_lengths(table, rows, 0, unit)
        known = np.flatnonzero(lengths >= 0)
        order = np.lexsort((values[known], table.records["record"][rows[known]]))
        kept = known[order[:MOST_RATINGS]]
        if len(kept):
            length = lengths[kept].astype(np.float64)
            found[name] = spearman_metric(values[kept], length, _clusters(table, rows[kept]))
    return found


def bias_findings(bias: Bias, limits: Thresholds) -> list[Finding]:
    """Where length says more about the label than it should."""
    found = []
    if bias.longer_wins is not None:
        found.append(_wins(bias.longer_wins, bias, limits))
    for name, metric in bias.correlations.items():
        if abs(metric.value) > limits.length_correlation:
            meaning = (
                f"{name} goes with length in {bias.unit} (Spearman {_told(metric)}): its row can "
                "be had from length alone; compare with the length-only number of smorm eval"
            )
            found.append(Finding("attribute_length", "look", metric.n, meaning))
    return found


def _wins(metric: Metric, bias: Bias, limits: Thresholds) -> Finding:
    away = abs(metric.value - 0.5) > limits.length_wins
    sure = not metric.low <= 0.5 <= metric.high
    which = "longer" if metric.value >= 0.5 else "shorter"
    meaning = f"the longer side is chosen in {_told(metric)} of the pairs, ties half"
    if away and sure:
        meaning += (
            f": a model can win by preferring {which} answers; balance the pairs, or watch "
            "length_only_accuracy and add a rated attribute that does not go with length"
        )
    return Finding(
        "length_bias",
        "look" if away and sure else "fine",
        round(metric.value * metric.n),
        meaning,
        **among(round(metric.value * metric.n), metric.n, "training pairs"),
    )


def _told(metric: Metric) -> str:
    if np.isnan(metric.low):
        return f"{metric.value:.3f}"
    return f"{metric.value:.3f} [{metric.low:.3f}, {metric.high:.3f}]"
