"""How a method's line looks: a colour, a dash and a mark of its own, so that grey prints do too."""

from __future__ import annotations

import math
from collections.abc import Sequence

from smorm.report.canvas import INK, PALETTE
from smorm.report.curves import Curve

HIGHLIGHTED = 7
"""How many methods a panel bears in colour."""
BASE = 6
"""The look of the baseline: the reader's ink, dashed."""
COLOURS = (*PALETTE[:6], INK)  # the palette's yellow is too light for a line
DASHES = ("-", (0, (5, 1.5)), (0, (1.5, 1.2)), (0, (6, 1.5, 1.5, 1.5)), "-", (0, (3, 1)), "--")
MARKS = ("o", "s", "^", "D", "v", "P", "X")


def looks_of(
    curves: Sequence[Curve], bases: Sequence[str], asked: Sequence[str] = ()
) -> dict[str, int]:
    """Who is named in colour: all, or the baselines and those with most gold at the end.

    Args:
        curves: all that share a figure.
        bases: labels of the baselines; the first one has the look `BASE`.
        asked: labels that are named in any case.
    """
    labels = list(dict.fromkeys(curve.label for curve in curves))
    first = [label for label in dict.fromkeys([*bases, *asked]) if label in labels]
    ranked = sorted(labels, key=lambda label: -_gold_at_the_end(curves, label))
    chosen = set([*first, *(label for label in ranked if label not in first)][:HIGHLIGHTED])
    others = [label for label in labels if label in chosen and label not in first[:1]]
    return {**dict.fromkeys(first[:1], BASE), **{label: at for at, label in enumerate(others)}}


def _gold_at_the_end(curves: Sequence[Curve], label: str) -> float:
    ends = [c.values["gold"][-1].value for c in curves if c.label == label and "gold" in c.values]
    ends = [end for end in ends if math.isfinite(end)]
    return math.fsum(ends) / len(ends) if ends else -math.inf
