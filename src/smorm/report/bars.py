"""Bars: a panel for each group, methods as rows; with unit, n, intervals and the chance level."""

import math
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any

from smorm.evaluation.metrics import Metric
from smorm.report.blocks import INK, PALETTE, Drawing, short
from smorm.report.rows import as_table
from smorm.report.selection import distinct
from smorm.report.style import Style

# Beyond seven methods the palette repeats: the hatch keeps them apart, on a grey print too.
_HATCHES = ("", "///", "---", "xx", "\\\\\\")
# The colour of the number on each bar, with enough contrast to the palette's colour.
_TEXT = ("#fff", "#000", "#fff", "#000", "#000", "#fff", "#000")
_MAX_ACROSS = 4
# Inches, as matplotlib counts.
_LABEL_WIDTH, _PANEL_WIDTH, _ROW_HEIGHT, _MARGIN = 1.7, 2.3, 0.3, 1.15
Group = Mapping[str, Metric]
Groups = Mapping[str, Group]


def bars(
    groups: Groups,
    style: Style,
    title: str,
    *,
    chances: Mapping[str, float] | None = None,
    colours: Mapping[str, int] | None = None,
    panels: Sequence[str] = (),
) -> Drawing:
    """A panel for each group (suite, section, attribute), one bar a method; a method missing from a
    group leaves a gap. `chances` are drawn as dashed lines, by group, as stored; `colours` are
    indices of the palette, by method; only `panels` are drawn, on the axes and rows of all."""
    labels = list(dict.fromkeys(chain.from_iterable(groups.values())))
    methods = dict(zip(labels, range(len(labels)), strict=True))
    names = list(panels or groups)
    colours, chances = colours or methods, chances or {}
    across = max(1, min(_MAX_ACROSS, len(names)))
    down = math.ceil(len(names) / across)

    def draw(figure: Any) -> None:
        table = figure.subplots(down, across, sharex=True, sharey=True, squeeze=False)
        limits = _limits(groups, style)
        for axes, name in zip(table.flat, names, strict=False):
            _panel(axes, groups[name], style, methods, colours)
            counts = sorted(distinct(groups[name].values(), "n"))
            sizes = "–".join(map(str, dict.fromkeys([counts[0], counts[-1]])))
            axes.set_title(f"{short(name)}\nn = {sizes}", fontsize=10)
            axes.set_xlim(*limits)
            # Shared axes hide the numbers of all but the lowest row.
            axes.tick_params(labelbottom=True)
            if name in chances:
                axes.axvline(chances[name] * style.scale, color=INK, linestyle="--", linewidth=0.9)
        for axes in table.flat[len(names) :]:
            axes.set_visible(False)
        table[0][0].set_yticks(range(len(methods)), list(map(short, methods)))
        # Reversed: the first method is on top.
        table[0][0].set_ylim(len(methods) - 0.4, -0.6)
        dashed = "; dashed: chance" if chances else ""
        label = f"{short(style.heading, 44)}\n(lines: 95 % intervals{dashed})"
        figure.supxlabel(label, fontsize=9.5)

    height = down * (0.6 + _ROW_HEIGHT * len(methods)) + _MARGIN
    return Drawing(draw, (_LABEL_WIDTH + _PANEL_WIDTH * across, height), title)


def _panel(
    axes: Any, group: Group, style: Style, methods: Mapping[str, int], colours: Mapping[str, int]
) -> None:
    axes.grid(axis="x", color=INK, alpha=0.15, linewidth=0.6)
    for name, metric in group.items():
        if not math.isfinite(metric.value):
            continue
        y, colour = methods[name], colours[name]
        axes.barh(
            y,
            metric.value * style.scale,
            0.72,
            color=PALETTE[colour % len(PALETTE)],
            hatch=_HATCHES[colour // len(PALETTE) % len(_HATCHES)],
            edgecolor=INK,
            linewidth=0.5,
        )
        axes.annotate(
            style.show(metric.value),
            (0, y),
            xytext=(5, 0),
            textcoords="offset points",
            fontsize=8.5,
            va="center",
            color=_TEXT[colour % len(PALETTE)],
        )
        # From low to high, not as errors around the value: a bootstrap's need not lie around it.
        ends = [metric.low * style.scale, metric.high * style.scale]
        if math.isfinite(sum(ends)):
            look = {"color": INK, "linewidth": 1.1, "markersize": 5, "markeredgewidth": 1.1}
            axes.plot(ends, [y, y], "|-", **look)


def _limits(groups: Groups, style: Style) -> tuple[float, float]:
    ends = [0.0]
    for group in groups.values():
        ends += filter(math.isfinite, as_table(group.values()).flat)
    low, high = min(ends), max(ends)
    if style.percent:
        return max(low, -1.0) * style.scale, style.scale
    padding = 0.06 * ((high - low) or 1.0)
    return (low - padding * (low < 0)) * style.scale, (high + padding) * style.scale
