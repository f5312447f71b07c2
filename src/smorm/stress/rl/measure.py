"""The numbers of a run on one set of prompts, and the points of its curve.

Nearly all are weighted sums of column means, so that one bootstrap over prompts gives the intervals
and the paired differences of two runs, as for best-of-n (`smorm.stress.curves`).

Shapes: `P` prompts, `E` evaluations.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from smorm.evaluation.metrics import Floats, Metric, bootstrap_means, interval
from smorm.evaluation.outcomes import Outcomes
from smorm.evaluation.result import Measurement
from smorm.stress.best_of_n import spread_within
from smorm.stress.rl.trace import Snapshot
from smorm.stress.symptoms import TEXT_MEASURES

QUANTITIES = ("kl", "gold", "proxy", "raw_proxy", *TEXT_MEASURES)
LEADING = (
    "gold@first", "gold@peak", "gold@last", "gain", "fall", "peak_step", "onset_step", "kl@peak",
    "kl@last", "proxy@last", "divergence",
)  # fmt: skip
"""Numbers that a table shows first."""
Weights = dict[str, dict[str, float]]


def measure(
    snapshots: Sequence[Snapshot], prompts: Sequence[str], keys: Sequence[str]
) -> tuple[Measurement, list[dict[str, Any]]]:
    """A run's numbers, and its points.

    Args:
        snapshots: in the order of their steps [E]; the first is of the starting policy.
        prompts: a label of each prompt, which intervals resample [P].
        keys: where each prompt stands [P].

    Raises:
        DataError: the proxy or the gold gives one score to all answers of the starting policy.
    """
    steps = [one.step for one in snapshots]
    columns, gold_spread = _columns(snapshots)
    peak = _peak(columns, steps)
    sums = _sums(steps, gold_spread)
    single = {name: {name: 1.0} for name in columns}
    everything = single | sums | _at_peak(peak) | _slopes(columns, steps)
    found = Outcomes(columns, prompts, everything, keys, frozenset(everything)).metrics()
    metrics = {name: found[name] for name in everything if name not in single}
    metrics |= _shape(columns, steps, prompts)
    metrics = {name: metrics[name] for name in (*LEADING, *metrics)}
    outcomes = Outcomes(columns, prompts, sums, keys, frozenset(sums))
    points = [
        {
            "step": one.step,
            "multiplier": one.multiplier,
            **{name: found[f"{name}@{one.step}"].as_dict() for name in QUANTITIES},
        }
        for one in snapshots
    ]
    return Measurement(metrics, outcomes=outcomes), points


def spreads(first: Snapshot) -> tuple[float, float]:
    """The spread of gold and of the raw proxy within the starting policy's answers to a prompt.

    Raises:
        DataError: one of them gives one score to all answers.
    """
    gold, proxy = (
        spread_within(what, [one for one in first.values[name] if np.isfinite(one).all()])
        for what, name in (("gold", "gold"), ("proxy", "raw_proxy"))
    )
    return gold, proxy


def _columns(snapshots: Sequence[Snapshot]) -> tuple[dict[str, Floats], float]:
    """`QUANTITY@step` to the mean of each prompt's answers [P], and the spread of the gold.

    `proxy` is the gain over the starting policy, in units of the proxy's spread within its answers
    to a prompt.
    """
    first = snapshots[0]
    gold_spread, proxy_spread = spreads(first)
    columns: dict[str, Floats] = {}
    for one in snapshots:
        values = {name: one.means(name) for name in one.values}
        values["proxy"] = (values["raw_proxy"] - first.means("raw_proxy")) / proxy_spread
        columns |= {f"{name}@{one.step}": values[name] for name in QUANTITIES}
    return columns, gold_spread


def _table(columns: Mapping[str, Floats], name: str, steps: Sequence[int]) -> Floats:
    return np.stack([columns[f"{name}@{step}"] for step in steps], axis=1)


def _peak(columns: Mapping[str, Floats], steps: Sequence[int]) -> int:
    """The step of the largest mean gold."""
    return steps[int(np.nanmean(_table(columns, "gold", steps), axis=0).argmax())]


def _sums(steps: Sequence[int], gold_spread: float) -> Weights:
    """Numbers that mean the same in every run of these steps, so that two can be compared."""
    first, last = steps[0], steps[-1]
    ends: Weights = {
        f"{name}@{word}": {f"{name}@{step}": 1.0}
        for name in ("gold", "raw_proxy")
        for word, step in (("first", first), ("last", last))
    }
    ends |= {f"{name}@last": {f"{name}@{last}": 1.0} for name in ("proxy", "kl", *TEXT_MEASURES)}
    gain = {f"gold@{last}": 1.0, f"gold@{first}": -1.0}
    divergence = {name: -weight / gold_spread for name, weight in gain.items()}
    return ends | {"gain": gain, "divergence": {f"proxy@{last}": 1.0, **divergence}}


def _at_peak(peak: int) -> Weights:
    return {f"{name}@peak": {f"{name}@{peak}": 1.0} for name in ("gold", "raw_proxy", "kl")}


def _slopes(columns: Mapping[str, Floats], steps: Sequence[int]) -> Weights:
    """Slopes of the text measures per nat of KL by least squares; none where the KL stands still.

    The KL of each step is taken as known.
    """
    nats = np.nanmean(_table(columns, "kl", steps), axis=0)
    centred = nats - nats.mean()
    if not centred @ centred > 1e-12:
        return {}
    weights = centred / (centred @ centred)
    return {
        f"slope/{name}": {
            f"{name}@{step}": float(w) for step, w in zip(steps, weights, strict=True)
        }
        for name in TEXT_MEASURES
    }


def _shape(
    columns: Mapping[str, Floats], steps: Sequence[int], prompts: Sequence[str]
) -> dict[str, Metric]:
    """What is not linear in the curve: the peak's step, the fall from it, and its onset."""
    table = _table(columns, "gold", steps)
    means, draws = np.nanmean(table, axis=0), bootstrap_means(table, prompts)
    top = int(means.argmax())
    falls = draws[:, [top]] - draws
    onset = next(
        (steps[at] for at in range(top + 1, len(steps)) if interval(falls[:, at])[0] > 0), math.nan
    )
    peaks = np.array(steps, dtype=np.float64)[draws.argmax(axis=1)]
    peaks[~np.isfinite(draws).all(axis=1)] = np.nan
    count = len(table)
    return {
        "peak_step": Metric(float(steps[top]), count, *interval(peaks)),
        "fall": Metric(float(means[top] - means[-1]), count, *interval(falls[:, -1])),
        "onset_step": Metric(float(onset), count),
    }
