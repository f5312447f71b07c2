"""Curves in panels: sets of prompts side by side, or every method alone before all others.

Lines are told apart by colour, dash and mark at once, and carry their names at their ends, so that
a grey print and a colour-blind reader lose nothing. More methods than that bears are grey, and
have a panel each in a second figure.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from smorm.report.canvas import INK, Drawing, short
from smorm.report.curves import Curve, sets_in_order
from smorm.report.line_names import HEIGHT, along_of, name_ends, span_of
from smorm.report.looks import BASE, COLOURS, DASHES, HIGHLIGHTED, MARKS

_FEW = 4
_GREY = "#8d949c"
_NAMES = {
    "gold": "gold",
    "proxy": "proxy's gain, spreads",
    "kl": "KL, nats",
    "length": "length, words",
    "loss": "loss",
}
_AXES = {"kl": "KL from the starting policy, nats", "step": "step", "n": "n"}
_PLOT, _CHARACTER = 2.7, 0.073  # inches: a panel's width, a character


def overview(
    curves: Sequence[Curve],
    quantities: Sequence[str],
    along: str,
    title: str,
    *,
    looks: Mapping[str, int],
) -> Drawing:
    """A row of panels for each quantity, a column for each set of prompts, axes shared in a row.

    Args:
        curves: of one family.
        quantities: names of values, such as "gold" and "proxy".
        along: "kl", "n" or "step".
        title: what is shown.
        looks: the look of each method that is named (see `looks_of`); the others are grey.
    """
    sets = sets_in_order(curves)
    longest = max([len(short(label)) for label in looks], default=4)
    margin = 0.25 + _CHARACTER * longest  # inches at the right of each panel, for the names

    def draw(figure: Any) -> None:
        table = figure.subplots(
            len(quantities), len(sets), sharex=True, sharey="row", squeeze=False
        )
        for line, quantity in zip(table, quantities, strict=True):
            for axes, name in zip(line, sets, strict=True):
                inside = [curve for curve in curves if curve.prompts == name]
                _lines(axes, inside, quantity, along, looks)
            _bound(line[0], [c for c in curves if c.label in looks] or curves, quantity)
            line[0].set_ylabel(_NAMES.get(quantity, quantity.replace("_", " ")))
            for axes, name in zip(line, sets, strict=True):
                inside = [c for c in curves if c.prompts == name and c.label in looks]
                name_ends(axes, inside, quantity, along, looks)
        for axes, name in zip(table[0], sets, strict=True):
            sized = along == "kl" and all(curve.kind == "stress" for curve in curves)
            axes.set_title(short(name) or "all prompts", fontsize=10, pad=16 if sized else 6)
            if sized:
                _mark_sizes(axes, curves)
        for axes in table[-1]:
            _widen(axes, curves, along, margin)
        figure.supxlabel(_AXES.get(along, along), fontsize=9.5)

    width = 0.7 + len(sets) * (_PLOT + margin)
    return Drawing(draw, (width, 1.1 + (HEIGHT + 0.5) * len(quantities)), title)


def alone(
    curves: Sequence[Curve],
    quantity: str,
    along: str,
    title: str,
    *,
    base: str | None = None,
    shared: bool = True,
) -> Drawing:
    """A panel for each method, its line with its band; all others grey behind it, of many methods
    the base alone.

    Args:
        curves: of one set of prompts.
        quantity: the name of a value.
        along: "kl", "n" or "step".
        title: what is shown.
        base: the method that is drawn dashed in every panel.
        shared: the same axes for all, with the others behind; otherwise each by itself.
    """
    across = min(4, len(curves))
    down = math.ceil(len(curves) / across)
    few = len(curves) <= BEHIND
    behind = [one for one in curves if shared and (few or one.label == base)]

    def draw(figure: Any) -> None:
        table = figure.subplots(down, across, sharex=shared, sharey=shared, squeeze=False)
        for axes in table.flat[len(curves) :]:
            axes.set_visible(False)
        for axes in table.flat[max(0, len(curves) - across) : len(curves)]:
            axes.tick_params(labelbottom=True)
        for axes, own in zip(table.flat, curves, strict=False):
            for other in behind:
                if other is not own and quantity in other.values:
                    _background(axes, other, quantity, along, dashed=other.label == base)
            _lines(axes, [own], quantity, along, {own.label: BASE if own.label == base else 0})
            axes.set_title(short(own.label), fontsize=9.5, loc="left")
            axes.grid(axis="y", color=INK, alpha=0.12, linewidth=0.6)
        if shared:
            _bound(table[0][0], curves, quantity)
        figure.supxlabel(_AXES.get(along, along), fontsize=9.5)
        figure.supylabel(_NAMES.get(quantity, quantity), fontsize=9.5)

    return Drawing(draw, (0.6 + 2.3 * max(across, 2), 0.9 + 1.75 * down), title)


BEHIND = 12
"""How many lines a small panel bears; each of n panels with n lines also makes a page of
megabytes."""


def _series(curve: Curve, quantity: str) -> Any:
    return np.array([[m.value, m.low, m.high] for m in curve.values[quantity]]).T


def _lines(
    axes: Any, curves: Sequence[Curve], quantity: str, along: str, places: Mapping[str, int]
) -> None:
    """Grey ones first, then the highlighted with their bands."""
    faint = 0.13 if len(places) <= _FEW else 0.07
    axes.grid(axis="y", color=INK, alpha=0.12, linewidth=0.6)
    for curve in sorted(curves, key=lambda one: -places.get(one.label, HIGHLIGHTED)):
        if quantity not in curve.values:
            continue
        if curve.label not in places:
            _background(axes, curve, quantity, along)
            continue
        x, (value, low, high) = along_of(curve, along), _series(curve, quantity)
        place = places[curve.label] % HIGHLIGHTED
        if np.all(np.diff(x) >= 0):
            axes.fill_between(x, low, high, color=COLOURS[place], alpha=faint, linewidth=0)
        else:  # KL went back: a band would fold over itself
            axes.vlines(x, low, high, color=COLOURS[place], alpha=0.5, linewidth=0.8)
        axes.plot(
            x, value, color=COLOURS[place], linestyle=DASHES[place], linewidth=1.5,
            marker=MARKS[place], markersize=3.4, markevery=max(1, len(x) // 9),
        )  # fmt: skip


def _background(
    axes: Any, curve: Curve, quantity: str, along: str, *, dashed: bool = False
) -> None:
    look = {"color": INK, "linestyle": "--"} if dashed else {"color": _GREY, "alpha": 0.45}
    values = _series(curve, quantity)[0]
    axes.plot(along_of(curve, along), values, linewidth=1.0 if dashed else 0.8, zorder=1, **look)


def _bound(axes: Any, curves: Sequence[Curve], quantity: str) -> None:
    """Limits from the values, with room for bands but not for a band that dwarfs everything."""
    tables = [_series(curve, quantity) for curve in curves if quantity in curve.values]
    if not tables:
        return
    value, low, high = (np.concatenate([table[row] for table in tables]) for row in range(3))
    value = value[np.isfinite(value)]
    if value.size == 0:
        return
    bottom, top = float(value.min()), float(value.max())
    spread = top - bottom
    room = 0.6 * spread or 0.1 * max(abs(top), 1.0)
    ends = (float(np.nanmin([bottom, *low])), float(np.nanmax([top, *high])))
    if spread > 0:  # otherwise the band, or a little room, is all there is to see
        bottom, top = max(ends[0], bottom - room), min(ends[1], top + room)
    else:
        bottom, top = bottom - room, top + room
    pad = 0.06 * (top - bottom)
    axes.set_ylim(bottom - pad, top + pad)


def _widen(axes: Any, curves: Sequence[Curve], along: str, margin: float) -> None:
    """Room for the names at the right end."""
    x = [value for curve in curves for value in along_of(curve, along) if math.isfinite(value)]
    span = span_of(curves, along)
    if span > 0:
        ticks = [tick for tick in axes.get_xticks() if min(x) <= tick <= max(x)]
        axes.set_xlim(min(x) - 0.03 * span, max(x) + span * margin / _PLOT)
        axes.set_xticks(ticks)


def _mark_sizes(axes: Any, curves: Sequence[Curve]) -> None:
    """n at the top of a panel along KL: 1, 4, 16, ..."""
    sizes = {
        at: kl for curve in curves for at, kl in zip(curve.at, along_of(curve, "kl"), strict=True)
    }
    chosen = sorted(sizes)[::2] if len(sizes) > 5 else sorted(sizes)
    top = axes.secondary_xaxis("top")
    top.set_ticks(
        [sizes[n] for n in chosen], [f"n = {chosen[0]:g}", *(f"{n:g}" for n in chosen[1:])]
    )
    top.tick_params(length=2, labelsize=7.5, pad=1)
    top.spines["top"].set_visible(False)
