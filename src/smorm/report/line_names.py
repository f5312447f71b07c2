"""Names at the ends of lines, so that nobody has to look from a legend to a curve and back."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from smorm.report.canvas import INK, short
from smorm.report.curves import Curve
from smorm.report.looks import COLOURS, HIGHLIGHTED

HEIGHT = 1.95
"""Of a panel, in inches."""
_LINE = 0.155  # inches: a line of text


def along_of(curve: Curve, along: str) -> list[float]:
    """The points' places on an axis: a quantity of theirs such as KL, or their n or step."""
    if along in curve.values:
        return [metric.value for metric in curve.values[along]]
    return list(curve.at)


def span_of(curves: Sequence[Curve], along: str) -> float:
    """From the first to the last place of all curves."""
    x = [value for curve in curves for value in along_of(curve, along) if math.isfinite(value)]
    return max(x) - min(x) if x else 0.0


def name_ends(
    axes: Any, curves: Sequence[Curve], quantity: str, along: str, places: Mapping[str, int]
) -> None:
    """Each line's name beside its end, moved apart where ends are close."""
    ends = sorted(
        (curve.values[quantity][-1].value, along_of(curve, along)[-1], curve.label)
        for curve in curves
        if quantity in curve.values and math.isfinite(curve.values[quantity][-1].value)
    )
    if not ends:
        return
    low, high = axes.get_ylim()
    away = 0.06 * max(span_of(curves, along), 1e-9)
    spots = apart([y for y, _, _ in ends], _LINE / HEIGHT * (high - low), low, high)
    for (y, x, label), spot in zip(ends, spots, strict=True):
        colour = COLOURS[places[label] % HIGHLIGHTED]
        axes.annotate(
            short(label), (x, y), xytext=(x + away, spot), va="center",
            color=INK, fontsize=8.5, annotation_clip=False,
            arrowprops={"arrowstyle": "-", "color": colour, "linewidth": 1.0, "shrinkA": 1,
                        "shrinkB": 2, "relpos": (0, 0.5)},
        )  # fmt: skip


def apart(values: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Ascending positions at least `gap` from each other, near the values, within the limits."""
    placed: list[list[float]] = []  # blocks of values that touch: [sum of wishes, count]
    for number, value in enumerate(values):
        placed.append([value - number * gap, 1])
        while len(placed) > 1 and placed[-2][0] / placed[-2][1] > placed[-1][0] / placed[-1][1]:
            total, count = placed.pop()
            placed[-1][0] += total
            placed[-1][1] += count
    flat = [total / count for total, count in placed for _ in range(int(count))]
    most = max(low, high - gap * (len(flat) - 1))
    return [min(max(base, low), most) + number * gap for number, base in enumerate(flat)]
