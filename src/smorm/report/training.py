"""What training was like and what it cost: losses over steps, and a table of costs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from smorm.evaluation.metrics import Metric
from smorm.report.blocks import Figure, PageSection
from smorm.report.curves import Curve
from smorm.report.panels import alone
from smorm.report.rows import Row
from smorm.report.tables import escape, row_detail, table

TRAINING, COST = "training", "cost"
_POINTS = 60
_COSTS = {
    "parameters": "parameters",
    "trained_parameters": "of these trained",
    "passes_per_score": "forward passes a score",
    "training_passes": "training passes",
    "training_tokens": "training tokens",
}
_COST_NOTE = (
    "Parameters and passes are of everything that a score needs: an ensemble has those of all its "
    "members. Tokens are counted as computed, shared ones once. Means over seeds."
)


def training_section(curves: Sequence[Curve], identity: str) -> PageSection | None:
    """Loss over steps, a panel for each method; None without training curves."""
    found = [c for c in curves if c.kind == TRAINING and "loss" in c.values]
    if not found:
        return None
    shown = [_thinned(curve) for curve in found]
    averaged = any(len(a.at) < len(b.at) for a, b in zip(shown, found, strict=True))
    drawing = alone(shown, "loss", "step", "Training loss of each method", shared=False)
    caption = (
        "Training loss, mean over seeds with Student's t bands where there are several. Objectives "
        "differ, so that losses of different methods cannot be compared with each other."
        + (f" Neighbouring steps are averaged to at most {_POINTS} points." if averaged else "")
    )
    return PageSection(
        identity, "Training", "loss by step", [Figure("training-loss", drawing, caption)]
    )


def _thinned(curve: Curve) -> Curve:
    """The curve with neighbouring points averaged, ends of intervals too."""
    each = math.ceil(len(curve.at) / _POINTS)
    if each <= 1:
        return curve
    starts = range(0, len(curve.at), each)
    losses = curve.values["loss"]
    at = tuple(_mean(curve.at[start : start + each]) for start in starts)
    thin = tuple(
        Metric(
            _mean([m.value for m in losses[start : start + each]]),
            losses[start].n,
            _mean([m.low for m in losses[start : start + each]]),
            _mean([m.high for m in losses[start : start + each]]),
        )
        for start in starts
    )
    return replace(curve, at=at, values={"loss": thin})


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


def cost_section(rows: Sequence[Row], identity: str) -> PageSection | None:
    """A table of what each method costs; None without results of kind "cost"."""
    costs = [row for row in rows if row.kind == COST]
    if not costs:
        return None
    present = {name for row in costs for name in row.metrics}
    known = [name for name in _COSTS if name in present]
    names = known + sorted(present - set(known))
    lines = [
        f'<tr><th scope="row">{escape(row.label)}{row_detail(row)}</th>'
        + "".join(f"<td>{count(row.metrics.get(name))}</td>" for name in names)
        + "</tr>"
        for row in costs
    ]
    headings = ["method", *(_COSTS.get(name, name.replace("_", " ")) for name in names)]
    blocks: list[str | Figure] = [
        table(headings, lines), f'<p class="soft">{escape(_COST_NOTE)}</p>'
    ]  # fmt: skip
    return PageSection(identity, "Cost", "", blocks)


def count(metric: Metric | None) -> str:
    """A count with its thousands apart; a mean of counts keeps one decimal where it has one."""
    if metric is None or not math.isfinite(metric.value):
        return "–"
    whole = math.isclose(metric.value, round(metric.value), abs_tol=1e-9) or metric.value >= 100
    return f"{metric.value:,.0f}" if whole else f"{metric.value:,.1f}"
