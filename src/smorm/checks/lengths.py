"""How long prompts and responses are: percentiles and histograms."""

from __future__ import annotations

from typing import Any

import numpy as np

from smorm.arrays import Ints
from smorm.checks.table import Table

PERCENTILES = (1, 5, 25, 50, 75, 95, 99)


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
    counts = table.records["responses"][rows]
    lengths = [
        table.response_lengths(rows[counts > index], index, unit)
        for index in range(max(counts, default=0))
    ]
    return np.concatenate([np.zeros(0, dtype=np.int64), *lengths])


def summary(values: Ints) -> dict[str, Any]:
    """`{n, mean, max, percentiles: {"50": ...}, histogram: [[from, below, count], ...]}`.

    The histogram's borders are powers of two.
    """
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
