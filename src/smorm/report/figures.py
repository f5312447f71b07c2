"""Bars: grouped ones, and regimes side by side; every one with units, n and intervals."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from smorm.evaluation.metrics import Metric
from smorm.report.canvas import INK, PALETTE, Drawing, short
from smorm.report.names import Style, show, style_of
from smorm.report.rows import Row

_HATCHES = ("", "///", "---", "xx", "\\\\\\")  # beyond seven methods colours come round again


def bars(
    groups: Mapping[str, Mapping[str, Metric]],
    style: Style,
    title: str,
    *,
    reference: tuple[str, float] | None = None,
    colours: Mapping[str, int] | None = None,
) -> Drawing:
    """Grouped bars: for each group (attribute, domain, suite) one bar a method, with intervals.

    Args:
        groups: metrics by group and method; a method missing from a group leaves a gap.
        style: the unit that all of them share.
        title: what is shown.
        reference: name and value (as stored) of a dashed line, such as chance.
        colours: the place of each method in the palette, to keep it over several figures.
    """
    methods = list(dict.fromkeys(name for group in groups.values() for name in group))
    place = colours or {name: number for number, name in enumerate(methods)}

    def draw(figure: Any) -> None:
        axes = figure.add_subplot()
        width = 0.8 / len(methods)
        for number, name in enumerate(methods):
            offset = (number - (len(methods) - 1) / 2) * width
            found = [(x, group[name]) for x, group in enumerate(groups.values()) if name in group]
            found = [(x, metric) for x, metric in found if math.isfinite(metric.value)]
            at = [x + offset for x, _ in found]
            metrics = [metric for _, metric in found]
            axes.bar(
                at, _values(metrics, style), width * 0.92, label=short(name), **_look(place[name])
            )
            _whiskers(axes, at, metrics, style, vertical=True)
        names = [f"{short(name)}\nn = {_sizes(group)}" for name, group in groups.items()]
        axes.set_xticks(range(len(groups)), names)
        axes.set_ylabel(short(style.heading, 60))
        _limits(axes.set_ylim, [m for group in groups.values() for m in group.values()], style)
        axes.grid(axis="y", color=INK, alpha=0.15, linewidth=0.6)
        if reference is not None:
            axes.axhline(reference[1] * style.scale, color=INK, linestyle="--", linewidth=0.9)
            note = f" {short(reference[0])}"
            axes.annotate(note, (1, reference[1] * style.scale), xycoords=("axes fraction", "data"))
        if len(methods) > 1:
            columns = min(len(methods), 5)
            figure.legend(loc="outside lower center", ncols=columns, frameon=False)

    wide = max(6.0, min(12.0, 1.6 + 0.34 * len(methods) * len(groups) + 0.5 * len(groups)))
    return Drawing(draw, (wide, 3.7), title)


def comparison(
    rows: Sequence[Row], metric: str = "accuracy", *, colours: Mapping[str, int] | None = None
) -> Drawing | None:
    """Methods as rows, regimes ("ID" of "pairs/ID") side by side, each with its interval and n.

    None unless at least two suites have the metric.
    """
    regimes: dict[str, dict[str, Metric]] = {}
    for row in rows:
        if metric in row.metrics and math.isfinite(row.metrics[metric].value):
            regimes.setdefault(row.suite, {})[row.label] = row.metrics[metric]
    if len(regimes) < 2:
        return None
    style = style_of(metric)
    methods = list(dict.fromkeys(name for found in regimes.values() for name in found))
    place = colours or {name: number for number, name in enumerate(methods)}

    def draw(figure: Any) -> None:
        panels = figure.subplots(1, len(regimes), sharey=True, squeeze=False)[0]
        everything = [m for found in regimes.values() for m in found.values()]
        for axes, (suite, found) in zip(panels, regimes.items(), strict=True):
            for y, name in enumerate(methods):
                if name in found:
                    axes.barh(y, found[name].value * style.scale, 0.72, **_look(place[name]))
                    _whiskers(axes, [y], [found[name]], style, vertical=False)
                    axes.annotate(
                        show(found[name].value, style),
                        (0, y),
                        xytext=(5, 0),
                        textcoords="offset points",
                        fontsize=8.5,
                        va="center",
                        color="#ffffff" if place[name] % 7 in (0, 2, 5) else "#000000",
                    )
            axes.set_title(f"{short(_regime(suite))}\nn = {_sizes(found)}", fontsize=10)
            _limits(axes.set_xlim, everything, style)
            axes.grid(axis="x", color=INK, alpha=0.15, linewidth=0.6)
            if metric == "accuracy":
                axes.axvline(50, color=INK, linestyle="--", linewidth=0.9)
        panels[0].set_yticks(range(len(methods)), [short(name) for name in methods])
        panels[0].invert_yaxis()
        chance = "; dashed: chance" if metric == "accuracy" else ""
        figure.supxlabel(f"{short(style.heading, 60)} (bars: 95 % intervals{chance})", fontsize=9.5)

    size = (max(6.5, min(13.0, 1.8 + 2.2 * len(regimes))), 1.6 + 0.36 * len(methods))
    return Drawing(draw, size, f"{style.label.capitalize()} by method and regime")


def standalone(figure: Drawing | str) -> str:
    """The same figure with a white ground and dark ink, for a README or a slide."""
    svg = figure if isinstance(figure, str) else figure.svg()
    return svg.replace("<svg ", '<svg style="background:#fff;color:#1b1f24" ', 1)


def _regime(suite: str) -> str:
    return suite.partition("/")[2] or suite


def _sizes(group: Mapping[str, Metric]) -> str:
    sizes = [metric.n for metric in group.values()]
    low, high = min(sizes), max(sizes)
    return f"{low}" if low == high else f"{low}–{high}"


def _look(place: int) -> dict[str, Any]:
    hatch = _HATCHES[place // len(PALETTE) % len(_HATCHES)]
    colour = PALETTE[place % len(PALETTE)]
    return {"color": colour, "hatch": hatch, "edgecolor": INK, "linewidth": 0.5}


def _values(metrics: Sequence[Metric], style: Style) -> list[float]:
    return [metric.value * style.scale for metric in metrics]


def _whiskers(
    axes: Any, at: Sequence[float], metrics: Sequence[Metric], style: Style, *, vertical: bool
) -> None:
    """Intervals as lines from low to high (a bootstrap's need not lie around the value)."""
    kept = [(x, m) for x, m in zip(at, metrics, strict=True) if math.isfinite(m.low + m.high)]
    low, high = [m.low * style.scale for _, m in kept], [m.high * style.scale for _, m in kept]
    lines, caps = (axes.vlines, axes.plot) if vertical else (axes.hlines, axes.plot)
    where = [x for x, _ in kept]
    lines(where, low, high, color=INK, linewidth=1.1)
    for end in (low, high):
        points = (where, end) if vertical else (end, where)
        caps(*points, "_" if vertical else "|", color=INK, markersize=5, markeredgewidth=1.1)


def _limits(apply: Callable[..., Any], metrics: Sequence[Metric], style: Style) -> None:
    """From zero (a bar's length is its meaning), shares to 100 %, with room for the intervals."""
    ends = [end for m in metrics for end in (m.value, m.low, m.high) if math.isfinite(end)]
    low, high = min([0.0, *ends]), max([0.0, *ends])
    if style.percent:
        low, high = (0.0 if low >= 0 else max(low, -1.0)), 1.0
    pad = 0.0 if style.percent else 0.06 * ((high - low) or 1.0)
    apply((low - (pad if low < 0 else 0)) * style.scale, (high + pad) * style.scale)
