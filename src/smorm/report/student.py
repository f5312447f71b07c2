"""Student's t test in closed form, and Holm's correction for many tests."""

from __future__ import annotations

import math
from collections.abc import Sequence

_LEAST = 2


def two_sided(values: Sequence[float]) -> float:
    """Chance of a mean at least as far from 0 when the true mean is 0; NaN with fewer than two.

    Args:
        values: paired differences, one for each seed, taken as normal.
    """
    count = len(values)
    if count < _LEAST or not all(map(math.isfinite, values)):
        return math.nan
    mean = math.fsum(values) / count
    variance = math.fsum((value - mean) ** 2 for value in values) / (count - 1)
    if variance == 0:
        return 1.0 if mean == 0 else 0.0
    return 1.0 - _inside(abs(mean) / math.sqrt(variance / count), count - 1)


def _inside(t: float, freedom: int) -> float:
    """P(|T| <= t) for a whole number of degrees of freedom.

    Source: Abramowitz and Stegun (1964), 26.7.3 and 26.7.4.
    """
    angle = math.atan(t / math.sqrt(freedom))
    cosine, odd = math.cos(angle), freedom % 2
    term, total = (cosine, 0.0) if odd else (1.0, 0.0)
    for power in range(2 + odd, freedom + 1, 2):
        total += term
        term *= cosine**2 * (power - 1) / power
    series = math.sin(angle) * total
    return 2 / math.pi * (angle + series) if odd else series


def holm(chances: Sequence[float]) -> list[float]:
    """Adjusted p values in the given order; NaN (no test) stays NaN and is not counted.

    Source: Holm (1979), "A simple sequentially rejective multiple test procedure".
    """
    order = sorted(
        (place for place, p in enumerate(chances) if not math.isnan(p)),
        key=lambda place: chances[place],
    )
    adjusted = [math.nan] * len(chances)
    highest = 0.0
    for rank, place in enumerate(order):
        highest = max(highest, min(1.0, (len(order) - rank) * chances[place]))
        adjusted[place] = highest
    return adjusted
