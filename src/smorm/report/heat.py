"""How well attribute rows predict ratings, as a small heat table: methods by attributes."""

from __future__ import annotations

import math
from collections.abc import Sequence

from smorm.evaluation.metrics import Metric
from smorm.report.names import show, show_interval, style_of
from smorm.report.rows import Row
from smorm.report.tables import escape, row_detail, table

FAMILY = "spearman"
_NOTE = (
    "Spearman's rank correlation of each attribute row with the ratings. The stronger the colour, "
    "the farther from 0: blue above, orange below."
)
_STRONGEST = 72  # per cent of colour at a correlation of 1: ink stays readable on it


def heat_table(rows: Sequence[Row]) -> str:
    """HTML of the table; nothing where no row has correlations of two attributes."""
    attributes = [
        name.partition("/")[2]
        for name in dict.fromkeys(name for row in rows for name in row.metrics)
        if name.startswith(f"{FAMILY}/")
    ]
    shown = [row for row in rows if any(f"{FAMILY}/{name}" in row.metrics for name in attributes)]
    if len(attributes) < 2 or not shown:
        return ""
    names = [*(f"{FAMILY}/{name}" for name in attributes), FAMILY]
    lines = [
        f'<tr><th scope="row">{escape(row.label)}{row_detail(row)}</th>'
        + "".join(_cell(row.metrics.get(name)) for name in names)
        + "</tr>"
        for row in shown
    ]
    return table(["model", *attributes, "mean"], lines) + f'<p class="soft">{escape(_NOTE)}</p>'


def _cell(metric: Metric | None) -> str:
    if metric is None or not math.isfinite(metric.value):
        return '<td title="not measured">–</td>'
    style = style_of(FAMILY)
    share = round(_STRONGEST * min(1.0, abs(metric.value)))
    hue = "--above" if metric.value >= 0 else "--below"
    ground = f"background:color-mix(in srgb, var({hue}) {share}%, transparent)"
    return (
        f'<td style="{ground}">{show(metric.value, style)}'
        f"<small>{show_interval(metric, style) or 'no interval'}</small></td>"
    )
