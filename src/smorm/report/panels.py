"""Curves in panels: sets of prompts side by side, or each method alone in front of all others.

Lines differ by colour, dash and marker at once and carry their names at their ends, so that a grey
print and a colour-blind reader lose nothing, and nobody looks from a legend to a curve and back."""

import math
import statistics
from collections.abc import Mapping, Sequence
from itertools import chain
from operator import itemgetter
from typing import Any

import numpy as np

from smorm.report.blocks import INK, PALETTE, Drawing, short
from smorm.report.curves import Curve, id_first
from smorm.report.selection import by_attribute, distinct, present_in, select

HIGHLIGHTED = 7  # methods that a panel can have in colour
BASE = 6  # the style of the baseline: the reader's ink, dashed
# The palette's yellow is too light for a line: ink takes its place.
COLOURS = (*PALETTE[:6], INK)
DASHES = ("-", (0, (5, 1.5)), (0, (1.5, 1.2)), (0, (6, 1.5, 1.5, 1.5)), "-", (0, (3, 1)), "--")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
# Inches: of a panel, and of a line of text in it.
PANEL_HEIGHT = 1.95
_LINE_HEIGHT = 0.155
# Grey lines that a small panel can have: n panels with n lines make a page of megabytes.
MAX_BACKGROUND = 12
_FEW = 4
_GREY = "#8d949c"
_QUANTITIES = {"proxy": "proxy gain, std", "kl": "KL, nats", "length": "length, words"}
_AXES = {"kl": "KL from the starting policy, nats"}
# Inches: of a panel without names, and of a character of a name.
_PANEL_WIDTH, _CHARACTER_WIDTH = 2.7, 0.073


def side_by_side(
    curves: Sequence[Curve],
    quantities: Sequence[str],
    axis: str,
    title: str,
    *,
    styles: Mapping[str, int],
    prompts: Sequence[str] = (),
) -> Drawing:
    """A row of panels for each quantity, a column for each set of prompts, axes shared in a row.
    Methods without a style (see `line_styles`) are grey. With `prompts` only these sets are drawn,
    on the axes of all curves, so that drawings of single sets can be compared."""
    columns = list(prompts) or id_first(distinct(curves, "prompts"))
    longest = max(map(len, map(short, styles)), default=4)
    # Room for the names at the right of each panel, in inches.
    margin = 0.25 + _CHARACTER_WIDTH * longest
    named = select(curves, label=styles)
    by_size = axis == "kl" and distinct(curves, "kind") == ["stress"]

    def draw(figure: Any) -> None:
        shape = (len(quantities), len(columns))
        table = figure.subplots(*shape, sharex=True, sharey="row", squeeze=False)
        for line, quantity in zip(table, quantities, strict=True):
            line[0].set_ylabel(_QUANTITIES.get(quantity, quantity.replace("_", " ")))
            for axes, name in zip(line, columns, strict=True):
                _draw_lines(axes, select(curves, prompts=[name]), quantity, axis, styles)
            # Names are placed within the limits, which therefore have to be final.
            _set_y_limits(line[0], named or curves, quantity)
            for axes, name in zip(line, columns, strict=True):
                name_line_ends(axes, select(named, prompts=[name]), quantity, axis, styles)
        for axes, name in zip(table[0], columns, strict=True):
            axes.set_title(short(name or "all prompts"), fontsize=10, pad=6 + 10 * by_size)
            if by_size:
                _add_size_axis(axes, curves)
        first, last = axis_range(curves, axis)
        for axes in table[-1]:
            # Ticks are fixed before the axis grows: there is no data below the names.
            ticks = [tick for tick in axes.get_xticks() if first <= tick <= last]
            if first < last:
                room = (last - first) * margin / _PANEL_WIDTH
                axes.set_xlim(first - 0.03 * (last - first), last + room)
                axes.set_xticks(ticks)
        figure.supxlabel(_AXES.get(axis, axis), fontsize=9.5)

    width = 0.7 + len(columns) * (_PANEL_WIDTH + margin)
    return Drawing(draw, (width, 1.1 + (PANEL_HEIGHT + 0.5) * len(quantities)), title)


def small_multiples(
    curves: Sequence[Curve],
    quantity: str,
    axis: str,
    title: str,
    *,
    base: str | None = None,
    shared: bool = True,
) -> Drawing:
    """A panel for each method, its line with its band; the others grey behind it, unless axes are
    not `shared`. Of more than `MAX_BACKGROUND` curves only the base is behind."""
    across = min(4, len(curves))
    down = math.ceil(len(curves) / across)
    background: list[Curve] = []
    for curve in curves:
        few = len(curves) <= MAX_BACKGROUND
        if shared and quantity in curve.values and (few or curve.label == base):
            background.append(curve)

    def draw(figure: Any) -> None:
        table = figure.subplots(down, across, sharex=shared, sharey=shared, squeeze=False)
        for axes, curve in zip(table.flat, curves, strict=False):
            for behind in background:
                if behind is not curve:
                    _draw_behind(axes, behind, quantity, axis, dashed=behind.label == base)
            style = BASE * (curve.label == base)
            _draw_lines(axes, [curve], quantity, axis, {curve.label: style})
            axes.set_title(short(curve.label), fontsize=9.5, loc="left")
        for axes in table.flat[len(curves) :]:
            axes.set_visible(False)
        # The lowest visible panel of each column has the numbers of the shared axis.
        for axes in table.flat[max(0, len(curves) - across) : len(curves)]:
            axes.tick_params(labelbottom=True)
        if shared:
            _set_y_limits(table[0][0], curves, quantity)
        figure.supxlabel(_AXES.get(axis, axis), fontsize=9.5)
        figure.supylabel(_QUANTITIES.get(quantity, quantity), fontsize=9.5)

    return Drawing(draw, (0.6 + 2.3 * max(across, 2), 0.9 + 1.75 * down), title)


def _draw_lines(
    axes: Any, curves: Sequence[Curve], quantity: str, axis: str, styles: Mapping[str, int]
) -> None:
    """Grey ones first, then the highlighted with their bands."""
    # Bands of many methods lie over each other: each has to be fainter.
    alpha = 0.13 if len(styles) <= _FEW else 0.07
    axes.grid(axis="y", color=INK, alpha=0.12, linewidth=0.6)
    for curve in sorted(curves, key=lambda curve: -styles.get(curve.label, HIGHLIGHTED)):
        if quantity not in curve.values:
            continue
        if curve.label not in styles:
            _draw_behind(axes, curve, quantity, axis)
            continue
        style = styles[curve.label]
        colour = COLOURS[style]
        x, (value, low, high) = curve.along(axis), curve.table(quantity)
        if np.all(np.diff(x) >= 0):
            axes.fill_between(x, low, high, color=colour, alpha=alpha, linewidth=0)
        else:
            # A policy's KL can shrink, and a band would fold over itself.
            axes.vlines(x, low, high, color=colour, alpha=0.5, linewidth=0.8)
        axes.plot(
            x,
            value,
            color=colour,
            linestyle=DASHES[style],
            linewidth=1.5,
            marker=MARKERS[style],
            markersize=3.4,
            markevery=max(1, len(x) // 9),
        )


def _draw_behind(axes: Any, curve: Curve, quantity: str, axis: str, dashed: bool = False) -> None:
    look: dict[str, Any] = {"color": _GREY, "alpha": 0.45, "linewidth": 0.8}
    if dashed:
        look = {"color": INK, "linestyle": "--", "linewidth": 1.0}
    axes.plot(curve.along(axis), curve.table(quantity)[0], zorder=1, **look)


def _set_y_limits(axes: Any, curves: Sequence[Curve], quantity: str) -> None:
    tables = [curve.table(quantity) for curve in curves if quantity in curve.values]
    if not tables:
        return
    value, low, high = np.concatenate(tables, axis=1)
    finite = value[np.isfinite(value)]
    if finite.size == 0:
        return
    bottom, top = finite.min(), finite.max()
    height = top - bottom
    if height > 0:
        # Few seeds make bands that are many times as high as the differences between lines.
        bottom = max(np.nanmin([bottom, *low]), bottom - 0.6 * height)
        top = min(np.nanmax([top, *high]), top + 0.6 * height)
    else:
        # A flat line: without room it would lie on the frame.
        room = 0.1 * max(abs(top), 1.0)
        bottom, top = bottom - room, top + room
    padding = 0.06 * (top - bottom)
    axes.set_ylim(float(bottom - padding), float(top + padding))


def _add_size_axis(axes: Any, curves: Sequence[Curve]) -> None:
    """n at the top of a panel along KL: 1, 4, 16, ..."""
    kl_by_size: dict[float, float] = {}
    for curve in curves:
        kl_by_size.update(zip(curve.at, curve.along("kl"), strict=True))
    sizes = sorted(kl_by_size)
    # Labels of neighbouring sizes would touch at the left, where KL grows slowly.
    if len(sizes) > 5:
        sizes = sizes[::2]
    labels = [f"{size:g}" for size in sizes]
    labels[0] = f"n = {labels[0]}"
    top = axes.secondary_xaxis("top")
    top.set_ticks([kl_by_size[size] for size in sizes], labels)
    top.tick_params(length=2, labelsize=7.5, pad=1)
    top.spines["top"].set_visible(False)


def line_styles(
    curves: Sequence[Curve], bases: Sequence[str], requested: Sequence[str] = ()
) -> dict[str, int]:
    """The style of each method drawn in colour: the baselines (the first has `BASE`), those that
    are `requested`, and the best at the end."""
    means: dict[str, float] = {}
    for label, members in by_attribute(curves, "label").items():
        finite = list(filter(math.isfinite, (curve.final("gold") for curve in members)))
        means[label] = statistics.fmean(finite) if finite else -math.inf
    first = present_in(dict.fromkeys([*bases, *requested]), means)
    ranked = sorted(means, key=lambda label: -means[label])
    chosen = list(dict.fromkeys([*first, *ranked]))[:HIGHLIGHTED]
    # The order of first appearance, not of rank: a method keeps its colour when numbers change.
    styles = dict.fromkeys(first[:1], BASE)
    for label in means:
        if label in chosen and label not in styles:
            styles[label] = len(styles) - len(first[:1])
    return styles


def axis_range(curves: Sequence[Curve], axis: str) -> tuple[float, float]:
    """The first and the last position of all curves on an axis; (0, 0) without any."""
    positions = chain.from_iterable(curve.along(axis) for curve in curves)
    finite = list(filter(math.isfinite, positions))
    return min(finite, default=0.0), max(finite, default=0.0)


def name_line_ends(
    axes: Any, curves: Sequence[Curve], quantity: str, axis: str, styles: Mapping[str, int]
) -> None:
    """Each line's name beside its end, moved apart where ends are close."""
    ends = []
    for curve in curves:
        y = curve.final(quantity)
        if math.isfinite(y):
            ends.append((y, curve.along(axis)[-1], curve.label))
    ends.sort()
    first, last = axis_range(curves, axis)
    # A single point has no width: the name then stands on the point.
    offset = 0.06 * max(last - first, 1e-9)
    low, high = axes.get_ylim()
    gap = _LINE_HEIGHT / PANEL_HEIGHT * (high - low)
    positions = separate(list(map(itemgetter(0), ends)), gap, low, high)
    for (y, x, label), position in zip(ends, positions, strict=True):
        arrow = {
            "arrowstyle": "-",
            "color": COLOURS[styles[label]],
            "linewidth": 1.0,
            "shrinkA": 1,
            "shrinkB": 2,
            "relpos": (0, 0.5),
        }
        axes.annotate(
            short(label),
            (x, y),
            xytext=(x + offset, position),
            va="center",
            color=INK,
            fontsize=8.5,
            annotation_clip=False,
            arrowprops=arrow,
        )


def separate(values: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Ascending positions at least `gap` from each other, near the values, within the limits.

    Isotonic regression of `value − index · gap`: the positions with the least squared distance from
    the values."""
    from scipy.optimize import isotonic_regression

    offsets = gap * np.arange(len(values))
    starts = isotonic_regression(np.array(values) - offsets).x
    # More names than fit run over the top: they stay readable there, inside they would not.
    positions = np.clip(starts, low, max(low, high - gap * (len(values) - 1))) + offsets
    return list(map(float, positions))
