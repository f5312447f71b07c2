"""Rewards made independent of verbosity (ArmoRM's debiasing).

    r'_k = r_k - m_k v,    m_k nearest to 0 with |Spearman(r'_k, v)| <= limit over a reference set

(Wang et al., 2024, arXiv 2406.12845, section 3.2: there the correlation is to be 0; the public code
stops at 0.03 and tries multiples of 0 to 0.95.) Each pair of responses that changes its order as m
grows lowers the correlation, so that it falls in m and bisection finds the multiple.

Shapes: N responses, K attributes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from smorm.arrays import Floats

_DOUBLINGS = 60
_HALVINGS = 60


@dataclass(frozen=True, slots=True)
class Debiased:
    """An attribute's multiple of verbosity, and its rank correlation with verbosity before and
    after. With few responses the correlation goes down in steps, and one may jump the limit."""

    multiple: float
    before: float
    after: float


def rank_correlation(x: Floats, y: Floats) -> float:
    """Spearman's, ties by average rank; 0 where either is constant."""
    if np.ptp(x) == 0 or np.ptp(y) == 0:
        return 0.0
    return float(np.corrcoef(_ranks(x), _ranks(y))[0, 1])


def _ranks(values: Floats) -> Floats:
    _, places, counts = np.unique(values, return_inverse=True, return_counts=True)
    return np.asarray((np.cumsum(counts) - (counts - 1) / 2)[places])


def debias(reward: Floats, verbosity: Floats, limit: float) -> Debiased:
    """The multiple of `verbosity` [N] that, subtracted, frees `reward` [N] from it.

    A reward that is a multiple of verbosity itself is left with nothing.
    """
    before = rank_correlation(reward, verbosity)
    if abs(before) <= limit:
        return Debiased(0.0, before, before)
    sign = 1.0 if before > 0 else -1.0

    def left(multiple: float) -> float:
        """The correlation times its sign at first: falls as the multiple grows."""
        return sign * rank_correlation(reward - sign * multiple * verbosity, verbosity)

    low, high = 0.0, float(reward.std() / verbosity.std())
    for _ in range(_DOUBLINGS):
        if left(high) <= limit:
            break
        low, high = high, 2 * high
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        if middle in (low, high):
            break
        low, high = (low, middle) if left(middle) <= limit else (middle, high)
    return Debiased(sign * high, before, sign * left(high))
