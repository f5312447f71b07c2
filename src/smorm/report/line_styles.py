"""How a method's line looks and where its name stands.

Lines differ by colour, dash and marker at once and carry their names at their ends, so that a grey
print and a colour-blind reader lose nothing, and nobody looks from a legend to a curve and back.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from operator import itemgetter
from typing import Any

import numpy as np

from smorm.report.curves import Curve
from smorm.report.drawing import INK, PALETTE, short
from smorm.report.selection import present_in

HIGHLIGHTED = 7
"""How many methods a panel can have in colour."""
BASE = 6
"""The style of the baseline: the reader's ink, dashed."""
# The palette's yellow is too light for a line: ink takes its place.
COLOURS = (*PALETTE[:6], INK)
DASHES = ("-", (0, (5, 1.5)), (0, (1.5, 1.2)), (0, (6, 1.5, 1.5, 1.5)), "-", (0, (3, 1)), "--")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
# Inches: of a panel, and of a line of text in it.
PANEL_HEIGHT = 1.95
_LINE_HEIGHT = 0.155


def line_styles(
    curves: Sequence[Curve], bases: Sequence[str], requested: Sequence[str] = ()
) -> dict[str, int]:
    """The style of each method drawn in colour: all, or the baselines and the best at the end.

    The curves share a figure. The first of `bases` has the style `BASE`; methods that are
    `requested` are drawn in colour in any case.
    """
    final_gold: dict[str, list[float]] = {}
    for curve in curves:
        final_gold.setdefault(curve.label, []).append(curve.final("gold"))
    first = present_in(dict.fromkeys([*bases, *requested]), final_gold)
    ranked = sorted(final_gold, key=lambda label: -_finite_mean(final_gold[label]))
    chosen = list(dict.fromkeys([*first, *ranked]))[:HIGHLIGHTED]
    # The order of first appearance, not of rank: a method keeps its colour when numbers change.
    styles = dict.fromkeys(first[:1], BASE)
    for label in final_gold:
        if label in chosen and label not in styles:
            styles[label] = len(styles) - len(first[:1])
    return styles


def _finite_mean(values: Sequence[float]) -> float:
    finite = list(filter(math.isfinite, values))
    return math.fsum(finite) / len(finite) if finite else -math.inf


def axis_range(curves: Sequence[Curve], axis: str) -> tuple[float, float]:
    """The first and the last position of all curves on an axis; (0, 0) without any."""
    positions: list[float] = []
    for curve in curves:
        positions += curve.along(axis)
    finite = list(filter(math.isfinite, positions))
    return min(finite, default=0.0), max(finite, default=0.0)


def name_line_ends(
    axes: Any, curves: Sequence[Curve], quantity: str, axis: str, styles: Mapping[str, int]
) -> None:
    """Each line's name beside its end, moved apart where ends are close."""
    named = [curve for curve in curves if math.isfinite(curve.final(quantity))]
    ends = sorted((curve.final(quantity), curve.along(axis)[-1], curve.label) for curve in named)
    first, last = axis_range(curves, axis)
    # A single point has no width: the name then stands on the point.
    offset = 0.06 * max(last - first, 1e-9)
    low, high = axes.get_ylim()
    gap = _LINE_HEIGHT / PANEL_HEIGHT * (high - low)
    positions = separate(list(map(itemgetter(0), ends)), gap, low, high)
    for (y, x, label), position in zip(ends, positions, strict=True):
        arrow = {
            "arrowstyle": "-", "color": COLOURS[styles[label]], "linewidth": 1.0, "shrinkA": 1,
            "shrinkB": 2, "relpos": (0, 0.5),
        }  # fmt: skip
        axes.annotate(
            short(label), (x, y), xytext=(x + offset, position), va="center",
            color=INK, fontsize=8.5, annotation_clip=False, arrowprops=arrow,
        )  # fmt: skip


def separate(values: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Ascending positions at least `gap` from each other, near the values, within the limits.

    Isotonic regression of `value − index · gap` by pooling adjacent violators: the positions with
    the least squared distance from the values.
    """
    # Sum and count of values that would overlap; all of a block get its mean.
    blocks: list[list[float]] = []
    for index, value in enumerate(values):
        blocks.append([value - index * gap, 1])
        while len(blocks) > 1 and blocks[-2][0] / blocks[-2][1] > blocks[-1][0] / blocks[-1][1]:
            total, count = blocks.pop()
            blocks[-1][0] += total
            blocks[-1][1] += count
    starts: list[float] = []
    for total, count in blocks:
        starts += [total / count] * int(count)
    # More names than fit run over the top: they stay readable there, inside they would not.
    highest = max(low, high - gap * (len(starts) - 1))
    positions = np.clip(starts, low, highest) + gap * np.arange(len(starts))
    return list(map(float, positions))
