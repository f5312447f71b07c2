"""Sentences on gold that falls while the proxy is pushed on."""

from __future__ import annotations

from collections.abc import Sequence

from smorm.report.curves import Curve, sets_in_order
from smorm.report.methods import peak_for
from smorm.report.names import show, show_reach, show_set, style_of
from smorm.report.optimisation import KINDS, suite_of
from smorm.report.peaks import Peak
from smorm.report.rows import Row

LISTED = 8
"""How many methods a sentence names; of more it tells the largest, or their number."""


def falls(rows: Sequence[Row], curves: Sequence[Curve]) -> list[str]:
    """For each set of prompts whose gold fell after its peak, and of whom no fall was found."""
    found: list[str] = []
    for kind, family in dict.fromkeys((c.kind, c.family) for c in curves if c.kind in KINDS):
        inside = [curve for curve in curves if (curve.kind, curve.family) == (kind, family)]
        for name in sets_in_order(inside):
            here = {curve.label: curve for curve in inside if curve.prompts == name}
            suite = suite_of(next(iter(here.values())))
            members = [row for row in rows if (row.kind, row.suite) == (kind, suite)]
            peaks = {row.label: peak_for(row, here) for row in members}
            known = {label: peak for label, peak in peaks.items() if peak}
            runs = sorted({curve.seeds for curve in here.values()})
            where = f"On {show_set(name)}, {_many(runs)}, gold under {family}"
            found += _told(known, kind, where)
    return found


def _many(runs: Sequence[int]) -> str:
    if runs == [1]:
        return "one run each (an illustration)"
    return f"{runs[0]} seeds" if len(runs) == 1 else f"{runs[0]} to {runs[-1]} seeds"


def _told(peaks: dict[str, Peak], kind: str, where: str) -> list[str]:
    if not peaks:
        return []
    word = "n =" if kind == "stress" else "step"
    fallen = {label: peak for label, peak in peaks.items() if peak.falls}
    rest = [label for label in peaks if label not in fallen]
    style = style_of("fall")
    each = [
        f"{label} from {word} {peak.at:g} by {show(peak.fall.value, style)} "
        f"({show_reach(peak.fall, style)})"
        for label, peak in sorted(fallen.items(), key=lambda one: -one[1].fall.value)
    ]
    if not fallen:
        return [f"{where} has no fall after a peak that is more than chance, for any method."]
    last = next(iter(fallen.values())).last
    told = ", ".join(each)
    if len(each) > LISTED:
        told = f"{', '.join(each[:3])}, and less for {len(each) - 3} others"
    text = f"{where} falls after its peak until {word} {last:g}: {told}."
    none = f"{len(rest)} methods" if len(rest) > LISTED else ", ".join(rest)
    return [f"{text} No fall was found for {none}." if rest else text]
