"""The page's tables: value, interval and n of every number; narrow ones in sight, wide ones folded.

A narrow table has the columns that answer its section's question and fits a phone.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

from smorm.evaluation.metric_names import MetricName
from smorm.evaluation.metrics import Metric
from smorm.report.blocks import MISSING, Cell, Table, TableRow
from smorm.report.curves import Curve, Peak, peak_of
from smorm.report.paired import Paired, leading, representative_sizes
from smorm.report.rows import Row, metric_names, separated_best
from smorm.report.style import (
    show,
    show_interval,
    show_signed,
    show_signed_interval,
    style_of,
)

SYMBOLS = (
    "* the interval excludes 0; † it still does after Holm's correction for all comparisons of "
    "this page."
)
_NARROW_COLUMNS = 3
_LENGTH_RULES = ("length_only_accuracy", "length_only/overall", "length_only")
_SUMMARIES = {
    "stress": ("gain", "regret"),
    "rl": ("gold@first", "gold@peak", "gold@last", "kl@last"),
}
_CORRELATION = "spearman"
_MAX_SHADE = 72  # per cent of colour at a correlation of 1: text stays readable on it
_SHADES_NOTE = (
    "Spearman's rank correlation of each attribute row with the ratings. The stronger the colour, "
    "the farther from 0: blue above, orange below."
)
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


def split_names(rows: Sequence[Row]) -> tuple[list[str], list[str]]:
    """The metrics of some rows: totals, and those of subsets ("spearman/clarity").

    A suite that has subsets only shows them as its totals.
    """
    totals: list[str] = []
    subsets: list[str] = []
    for name in metric_names(rows):
        (subsets if MetricName.parse(name).is_detail else totals).append(name)
    return (totals, subsets) if totals else (subsets, [])


def narrow_table(
    rows: Sequence[Row], paired: Sequence[Paired], curves: Mapping[str, Curve] | None = None
) -> Table | None:
    """The leading number of each method, its difference from the baseline, and one more column.

    Args:
        rows: of one suite.
        paired: differences of the same suite.
        curves: where methods were optimised against, by label: the third column is gold lost.
    """
    present = metric_names(rows)
    lead = (leading(rows[0].kind, present) or split_names(rows)[0])[-1:]
    if rows[0].kind == "rl":
        lead = ["gold@last"]
    if not lead:
        return None
    bases = _common_bases(paired, lead[0], len(rows))[:1]
    extra = [name for name in _LENGTH_RULES if name in present][:1]
    if not bases and not curves:
        # Nothing to compare with: the room goes to further numbers of the suite.
        others = [name for name in split_names(rows)[0] if name not in (*lead, *extra)]
        extra = [*others[: _NARROW_COLUMNS - 1 - len(extra)], *extra]
    table = _methods_table(rows, [*lead, *extra], lead[0], bases, paired, curves)
    # A phone has no room for links to fingerprints: the wide tables have them.
    lines = [replace(line, sources=(), small="") for line in table.rows]
    return Table(table.headings, lines, wide=False)


def optimisation_table(
    rows: Sequence[Row], curves: Mapping[str, Curve], paired: Sequence[Paired]
) -> Table:
    """All that is known of each method on one set of prompts.

    Args:
        rows: of one suite of kind "stress" or "rl".
        curves: of the same suite by label.
        paired: differences of the same suite; those of its last number become columns.
    """
    present = metric_names(rows)
    compared = list(dict.fromkeys(pair.metric for pair in paired)) or [""]
    last = "gold@last" if "gold@last" in compared else compared[-1]
    names = representative_sizes(present)
    names += [name for name in _SUMMARIES[rows[0].kind] if name in present]
    bases = _common_bases(paired, last, len(rows))
    return _methods_table(rows, names, last, bases, paired, curves, peaks=True)


def _methods_table(
    rows: Sequence[Row],
    names: Sequence[str],
    compared: str,
    bases: Sequence[str],
    paired: Sequence[Paired],
    curves: Mapping[str, Curve] | None,
    *,
    peaks: bool = False,
) -> Table:
    """Methods as rows; columns are numbers, differences from baselines, the peak, gold lost."""
    headings = ["method", style_of(names[0]).heading] if names else ["method"]
    headings += [f"{style_of(compared).label} − {base}" for base in bases]
    headings += [style_of(name).heading for name in names[1:]]
    if peaks:
        headings.append("largest gold at " + ("n" if rows[0].kind == "stress" else "step"))
    if curves:
        headings.append("gold lost after its peak")
    best = {name: separated_best(rows, name) for name in names}
    by_couple = {(pair.label, pair.base): pair for pair in paired if pair.metric == compared}
    lines = []
    for index, row in enumerate(rows):
        numbers = [metric_cell(row, name, best[name] == index) for name in names]
        differences = []
        for base in bases:
            pair = by_couple.get((row.label, base))
            differences.append(Cell("baseline") if row.label == base else _paired_cell(pair, row))
        cells = [*numbers[:1], *differences, *numbers[1:]]
        peak = peak_for(row, curves or {})
        if peaks:
            cells.append(_peak_cell(peak))
        if curves:
            cells.append(_drop_cell(peak))
        lines.append(TableRow(row.label, _small_print(row), cells, row.sources))
    return Table(headings, lines)


def _common_bases(paired: Sequence[Paired], metric: str, methods: int) -> list[str]:
    """The baselines of at least half of all methods: a view's first view is none."""
    bases = [pair.base for pair in paired if pair.metric == metric]
    return [base for base in dict.fromkeys(bases) if 2 * bases.count(base) >= methods - 1]


def peak_for(row: Row, curves: Mapping[str, Curve]) -> Peak | None:
    """The peak of a row's curve of gold."""
    curve = curves.get(row.label)
    return None if curve is None else peak_of(curve, row.metrics.get("fall"))


def _peak_cell(peak: Peak | None) -> Cell:
    if peak is None:
        return MISSING
    if not peak.runs_at:
        return Cell(f"{peak.at:g}")
    return Cell(f"{peak.at:g}", (f"seeds: {min(peak.runs_at):g} to {max(peak.runs_at):g}",))


def _drop_cell(peak: Peak | None) -> Cell:
    if peak is None:
        return MISSING
    if peak.at == peak.last and peak.drop.value == 0:
        return Cell("none")
    style = style_of("fall")
    star = " *" * peak.drops
    interval = show_signed_interval(peak.drop, style)
    return Cell(f"{show(peak.drop.value, style)}{star}", (interval,))


def paired_table(paired: Sequence[Paired]) -> Table:
    """Every comparison of some suites: a row for two methods, a column for each number."""
    names = list(dict.fromkeys(pair.metric for pair in paired))
    couples: dict[tuple[str, str, str], dict[str, Paired]] = {}
    for pair in paired:
        couples.setdefault((pair.suite, pair.label, pair.base), {})[pair.metric] = pair
    lines = []
    for (suite, label, base), by_metric in couples.items():
        cells = [_paired_cell(by_metric.get(name)) for name in names]
        lines.append(TableRow(f"{label} − {base}", suite, cells))
    return Table(["difference", *(style_of(name).heading for name in names)], lines)


def _paired_cell(pair: Paired | None, row: Row | None = None) -> Cell:
    """A difference; how many seeds it has where the row does not say so."""
    if pair is None:
        return MISSING
    style, difference = style_of(pair.metric), pair.difference
    small = [show_signed_interval(difference, style)]
    if row is None or pair.over != "seeds" or row.seeds != difference.n:
        small.append(f"{difference.n} {pair.over}")
    text = f"{show_signed(difference.value, style)} {pair.symbol}".rstrip()
    return Cell(text, tuple(small), best=pair.symbol != "")


def summary_table(rows: Sequence[Row], names: Sequence[str]) -> Table:
    """Models and views as rows, metrics as columns."""
    best = {name: separated_best(rows, name) for name in names}
    lines = []
    for index, row in enumerate(rows):
        cells = [metric_cell(row, name, best[name] == index) for name in names]
        lines.append(TableRow(row.label, _small_print(row), cells, row.sources))
    return Table(["model", *(style_of(name).heading for name in names)], lines)


def subset_table(rows: Sequence[Row], names: Sequence[str]) -> Table:
    """Metrics as rows, models and views as columns: for suites with many subsets."""
    lines = []
    for name in names:
        best = separated_best(rows, name)
        cells = [metric_cell(row, name, best == index) for index, row in enumerate(rows)]
        lines.append(TableRow(style_of(name).heading, "", cells))
    return Table(["metric", *(row.label for row in rows)], lines)


def correlation_table(rows: Sequence[Row]) -> Table | None:
    """How well attribute rows predict ratings, shaded; None without two attributes."""
    headings, names = ["model"], []
    for name in metric_names(rows):
        parsed = MetricName.parse(name)
        if parsed.name == _CORRELATION and parsed.subset and not parsed.base:
            headings.append(parsed.subset)
            names.append(name)
    if len(names) < 2:
        return None
    headings.append("mean")
    names.append(_CORRELATION)
    lines = []
    for row in rows:
        if not row.metrics.keys().isdisjoint(names):
            cells = [_shaded_cell(row.metrics.get(name)) for name in names]
            lines.append(TableRow(row.label, _small_print(row), cells, row.sources))
    return Table(headings, lines, _SHADES_NOTE)


def _shaded_cell(metric: Metric | None) -> Cell:
    if metric is None or not math.isfinite(metric.value):
        return MISSING
    style = style_of(_CORRELATION)
    percent = round(_MAX_SHADE * min(1.0, abs(metric.value)))
    colour = "--above" if metric.value >= 0 else "--below"
    shade = f"color-mix(in srgb, var({colour}) {percent}%, transparent)"
    interval = show_interval(metric, style) or "no interval"
    return Cell(show(metric.value, style), (interval,), shade=shade)


def cost_table(rows: Sequence[Row]) -> Table:
    """What each method costs, of results of kind "cost"."""
    present = metric_names(rows)
    names = [name for name in _COSTS if name in present]
    names += sorted(set(present) - set(names))
    lines = []
    for row in rows:
        cells = [Cell(show_count(row.metrics.get(name))) for name in names]
        lines.append(TableRow(row.label, _small_print(row), cells, row.sources))
    headings = [_COSTS.get(name, name.replace("_", " ")) for name in names]
    return Table(["method", *headings], lines, _COST_NOTE)


def show_count(metric: Metric | None) -> str:
    """A count with thousands separators; a mean of counts has one decimal where it needs it."""
    if metric is None or not math.isfinite(metric.value):
        return "–"
    integral = math.isclose(metric.value, round(metric.value), abs_tol=1e-9)
    digits = 0 if integral or metric.value >= 100 else 1
    return f"{metric.value:,.{digits}f}"


def metric_cell(row: Row, name: str, best: bool = False) -> Cell:
    """A metric's value, interval and n."""
    metric = row.metrics.get(name)
    if metric is None:
        return MISSING
    style = style_of(name)
    smallest, largest = row.n_ranges.get(name, (metric.n, metric.n))
    count = f"n = {smallest}" if smallest == largest else f"n = {smallest}–{largest}"
    if row.seeds > 1:
        count += f" × {row.seeds} seeds"
    interval = show_interval(metric, style) or "no interval"
    return Cell(show(metric.value, style), (interval, count), best)


def _small_print(row: Row) -> str:
    """The view where the label does not hold it, and how many seeds."""
    words = []
    if row.view and row.label == row.model:
        words.append(f"view {row.view}")
    if row.seeds > 1:
        words.append(f"mean of {row.seeds} seeds")
    return " · ".join(words)
