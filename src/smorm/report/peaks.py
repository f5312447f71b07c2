"""Where a curve of gold peaks, and how far it falls from there."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from smorm.evaluation.metrics import Metric, mean_over_seeds
from smorm.report.curves import Curve

_LEAST_SEEDS = 2


@dataclass(frozen=True, slots=True)
class Peak:
    """The n or step of the largest mean gold, and gold there less gold at the end.

    Over seeds the fall is measured at the peak of the other seeds' mean curve. At a seed's own
    peak it could not be below 0 and would be found in pure noise.
    """

    at: float
    last: float
    fall: Metric

    @property
    def falls(self) -> bool:
        """Whether gold has fallen by more than chance."""
        return self.fall.low > 0


def peak_of(curve: Curve, single: Metric | None = None) -> Peak | None:
    """The peak of a curve of gold; None where it has no finite gold.

    Args:
        curve: with the quantity "gold".
        single: the fall that a single run measured itself, with its interval over prompts.
    """
    means = np.array([metric.value for metric in curve.values.get("gold", ())])
    if means.size == 0 or not np.isfinite(means).all():
        return None
    top = int(means.argmax())
    runs = [run["gold"] for run in curve.runs.values()]
    if len(runs) >= _LEAST_SEEDS:
        fall = mean_over_seeds(_held_out_falls(runs), len(runs))
    else:
        fall = single or Metric(float(means[top] - means[-1]), curve.values["gold"][top].n)
    return Peak(curve.at[top], curve.at[-1], fall)


def _held_out_falls(runs: Sequence[Sequence[float]]) -> list[float]:
    table = np.array(runs)
    others = (table.sum(axis=0) - table) / (len(table) - 1)
    tops = others.argmax(axis=1)
    falls = table[np.arange(len(table)), tops] - table[:, -1]
    return [float(fall) for fall in falls if math.isfinite(fall)]
