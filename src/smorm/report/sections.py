"""The sections of a page: over-optimisation, every suite, training and cost."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from smorm.evaluation.metric_names import MetricName
from smorm.evaluation.metrics import Metric
from smorm.report.bars import bars
from smorm.report.blocks import Block, Cell, Figure, Fold, Heading, Notes, Section, Table, TableRow
from smorm.report.curves import OPTIMISED, Curve, id_first
from smorm.report.drawing import Drawing
from smorm.report.line_styles import HIGHLIGHTED, line_styles
from smorm.report.paired import Paired, leading
from smorm.report.panels import MAX_BACKGROUND, side_by_side, small_multiples
from smorm.report.rows import SEPARATE, Row, metric_names
from smorm.report.style import SECTIONS, Style, show, show_prompts, style_of
from smorm.report.tables import (
    SYMBOLS,
    correlation_table,
    cost_table,
    narrow_table,
    optimisation_table,
    paired_table,
    split_names,
    subset_table,
    summary_table,
)

_REMARKS = {
    "stress": "gold and proxy of the response that each reward picks out of n",
    "rl": "gold and proxy of a policy while it is trained against each reward",
}
_TRACED = ("gold", "proxy", "kl", "length")
_BANDS = "Bands are 95 % intervals: Student's t over seeds, or over prompts where there is one run."
_GREY = (
    " Named: the baselines and the methods with most gold at the end; {grey} more are grey here "
    "and have panels of their own below."
)
_PEAKS = (
    "Gold lost after the peak is measured, over seeds, at the peak of the other seeds' mean; the n "
    "of every number is in the folded tables."
)
_LOSS = (
    "Training loss, mean over seeds with Student's t bands where there are several. Objectives "
    "differ, so that losses of different methods cannot be compared with each other."
)
_MAX_POINTS = 60
_PAIR_GROUPS = {
    "accuracy": "all pairs",
    "accuracy_chosen_longer": "preferred is longer",
    "accuracy_chosen_shorter": "preferred is shorter",
    "length_only_accuracy": "length-only rule",
}
_CHANCE = {"accuracy": 0.5, "overall": 0.5}


def optimisation_sections(
    rows: Sequence[Row],
    curves: Sequence[Curve],
    paired: Sequence[Paired],
    highlighted: Sequence[str] = (),
) -> list[Section]:
    """A section for best-of-n and one for each algorithm, where there are curves.

    Args:
        rows, curves, paired: of all results.
        highlighted: labels that are drawn in colour in any case.
    """
    families: dict[tuple[str, str], list[Curve]] = {}
    for curve in curves:
        if curve.kind in OPTIMISED:
            families.setdefault((curve.kind, curve.family), []).append(curve)
    sections = []
    for number, ((kind, family), of_family) in enumerate(families.items(), start=1):
        suites = {curve.suite for curve in of_family}
        of_suites = [pair for pair in paired if pair.suite in suites]
        title = f"Over-optimisation: {family}"
        section = Section(f"optimised-{number}", title, _REMARKS[kind])
        section.figures += _curve_figures(of_family, of_suites, highlighted)
        _add_prompt_sets(section, rows, of_family, of_suites)
        sections.append(section)
    return sections


def _add_prompt_sets(
    section: Section, rows: Sequence[Row], curves: Sequence[Curve], paired: Sequence[Paired]
) -> None:
    """A narrow table for each set of prompts; all numbers, differences and notes folded."""
    for prompts in id_first(curve.prompts for curve in curves):
        by_label = {curve.label: curve for curve in curves if curve.prompts == prompts}
        suites = {curve.suite for curve in by_label.values()}
        members = [row for row in rows if row.suite in suites and row.kind in OPTIMISED]
        of_suite = [pair for pair in paired if pair.suite in suites]
        name = show_prompts(prompts)
        totals, subsets = split_names(members)
        section.blocks.append(Heading(name[:1].upper() + name[1:]))
        table = narrow_table(members, of_suite, by_label)
        section.blocks += [table] if table else []
        blocks: list[Block] = [
            optimisation_table(members, by_label, of_suite),
            summary_table(members, totals),
        ]
        if subsets:
            blocks.append(subset_table(members, subsets))
        section.folds.append(Fold(f"All numbers: {name}", [*blocks, *_notes(members)]))
    if paired:
        over = "seeds" if any(pair.over == "seeds" for pair in paired) else "prompts"
        text = f"Differences (−) are paired over {over}. {SYMBOLS} {_PEAKS}"
        section.blocks.append(Notes([("", text)]))
        section.folds.append(Fold(f"All {len(paired)} paired differences", [paired_table(paired)]))


def _curve_figures(
    curves: Sequence[Curve], paired: Sequence[Paired], highlighted: Sequence[str]
) -> list[Figure]:
    family, kind = curves[0].family, curves[0].kind
    bases = list(dict.fromkeys(pair.base for pair in paired)) or [curves[0].label]
    styles = line_styles(curves, bases, highlighted)
    labels = {curve.label for curve in curves}
    caption = _BANDS
    if len(labels) > len(styles):
        caption += _GREY.format(grey=len(labels) - len(styles))
    if kind == "rl":
        caption += " KL and gold are means over seeds at equal steps."
    if dropped := sum(curve.dropped_points for curve in curves):
        caption += f" {dropped} points that not every seed has are left out."
    sets = id_first(curve.prompts for curve in curves)

    def figure(name: str, quantities: Sequence[str], axis: str, title: str) -> Figure:
        drawing = side_by_side(curves, quantities, axis, title, styles=styles)
        panels = []
        for prompts in sets:
            panel = f"{title}, {prompts}"
            panels.append(
                side_by_side(curves, quantities, axis, panel, styles=styles, prompts=[prompts])
            )
        return Figure(name, drawing, caption, tuple(panels))

    by_kl = f"{family}: gold and proxy against KL"
    figures = [figure(f"{family}-gold-and-proxy-by-kl", ("gold", "proxy"), "kl", by_kl)]
    if kind == "rl":
        traced = [name for name in _TRACED if all(name in curve.values for curve in curves)]
        figures.append(figure(f"{family}-by-step", traced, "step", f"{family}: traced over steps"))
    if len(labels) > HIGHLIGHTED:
        for prompts in sets:
            members = [curve for curve in curves if curve.prompts == prompts]
            figures.append(_each_method(members, prompts, next(iter(styles))))
    return figures


def _each_method(curves: Sequence[Curve], prompts: str, base: str) -> Figure:
    family = curves[0].family
    title = f"{family} on {prompts or 'all prompts'}: gold, a panel for each method"
    drawing = small_multiples(curves, "gold", "kl", title, base=base)
    grey = "; grey: the others" * (len(curves) <= MAX_BACKGROUND)
    return Figure(f"{family}-{prompts}-each-method", drawing, f"Dashed: {base}{grey}. {_BANDS}")


def accuracy_section(rows: Sequence[Row], colours: Mapping[str, int]) -> Section | None:
    """Accuracy on suites of pairs, regimes ("ID" of "pairs/ID") side by side.

    None unless at least two suites have it.
    """
    groups: dict[str, dict[str, Metric]] = {}
    for row in rows:
        if "accuracy" in row.metrics and math.isfinite(row.metrics["accuracy"].value):
            groups.setdefault(_regime(row.suite), {})[row.label] = row.metrics["accuracy"]
    if len(groups) < 2:
        return None
    section = Section("accuracy", "Accuracy", "by method and regime")
    chances = dict.fromkeys(groups, _CHANCE["accuracy"])
    section.figures.append(
        bar_figure("accuracy", groups, style_of("accuracy"), "Accuracy by method and regime",
                   chances, colours)
    )  # fmt: skip
    return section


def bar_figure(
    name: str,
    groups: Mapping[str, Mapping[str, Metric]],
    style: Style,
    title: str,
    chances: Mapping[str, float],
    colours: Mapping[str, int],
) -> Figure:
    """Bars of several groups, which stack where the page is narrow."""
    drawing = bars(groups, style, title, chances=chances, colours=colours)
    panels: list[Drawing] = []
    for group in groups:
        panel = f"{title}: {group}"
        panels.append(
            bars(groups, style, panel, chances=chances, colours=colours, panels=[group])
        )  # fmt: skip
    caption = f"{title}; lines are 95 % intervals."
    if chances:
        levels = sorted(set(chances.values()))
        listed = ", ".join(show(level, style) for level in levels)
        caption += f" Dashed: chance ({listed}{' %' * style.percent})."
    return Figure(name, drawing, caption, tuple(panels))


def suite_section(
    number: int,
    suite: str,
    rows: Sequence[Row],
    paired: Sequence[Paired],
    colours: Mapping[str, int],
    *,
    drawn: bool,
) -> Section:
    """A suite's section.

    Args:
        number: of its anchor.
        suite: its name as shown.
        rows: its models and views.
        paired: differences of the suite.
        colours: the index of each method in the palette.
        drawn: whether another figure shows it already.
    """
    kind = rows[0].kind
    totals, subsets = split_names(rows)
    section = Section(f"suite-{number}", suite, ", ".join(dict.fromkeys(row.kind for row in rows)))
    if kind in SEPARATE:
        section.blocks += _check_tables(rows)
    elif totals:
        table = narrow_table(rows, paired)
        section.blocks += [table] if table else []
        if not drawn:
            section.figures.append(_suite_bars(suite, rows, colours))
        correlations = correlation_table(rows)
        if correlations:
            section.folds.append(Fold("Correlations by attribute", [correlations]))
    if totals:
        title = f"All {len(totals)} numbers of each method"
        section.folds.append(Fold(title, [summary_table(rows, totals)]))
    if subsets:
        title = f"All {len(subsets)} subsets"
        section.folds.append(Fold(title, [subset_table(rows, subsets)]))
    notes = _notes(rows)
    if notes:
        section.folds.append(Fold("Notes", notes))
    return section


def _check_tables(rows: Sequence[Row]) -> list[Block]:
    """Which models passed the tests of their kind, and what failed."""
    if rows[0].kind == "difference":
        return []
    lines, failed = [], []
    for row in rows:
        verdict = f"{len(row.failures)} failed" if row.failures else "passed"
        cell = Cell(verdict, failed=bool(row.failures))
        lines.append(TableRow(row.label, "", [cell], row.sources))
        failed += [(f"{row.label}: failed", str(failure)) for failure in row.failures]
    blocks: list[Block] = [Table(["model", "tests"], lines, wide=False)]
    return [*blocks, Notes(failed)] if failed else blocks


def _suite_bars(suite: str, rows: Sequence[Row], colours: Mapping[str, int]) -> Figure:
    """Bars of a suite's leading metric and its sections; of an unknown suite, its first metric."""
    names = metric_names(rows)
    lead, labels = _bar_labels(suite, rows[0].kind, names)
    groups: dict[str, dict[str, Metric]] = {}
    for name, label in labels.items():
        for row in rows:
            if name in row.metrics:
                groups.setdefault(label, {})[row.label] = row.metrics[name]
    style = Style("comparisons won", True) if lead == "overall" else style_of(lead)
    chances = dict.fromkeys(groups, _CHANCE[lead]) if lead in _CHANCE else {}
    title = f"{suite}: {style.label}"
    return bar_figure(f"{suite}-{rows[0].kind}", groups, style, title, chances, colours)


def _bar_labels(suite: str, kind: str, names: Sequence[str]) -> tuple[str, dict[str, str]]:
    """The metric whose style the bars have, and the metrics drawn with their labels."""
    if "accuracy" in names:
        return "accuracy", _PAIR_GROUPS
    if "overall" in names:
        return "overall", {name: name for name in SECTIONS}
    sizes, subsets = {}, {}
    lead = (leading(kind, names) or list(names))[0]
    for name in names:
        parsed = MetricName.parse(name)
        if parsed.name == "gold" and parsed.n is not None:
            sizes[name] = f"best of {parsed.n}"
        if parsed.name == lead and parsed.subset:
            subsets[name] = parsed.subset
    if sizes:
        return "gold", sizes
    return lead, subsets or {lead: suite}


def _regime(suite: str) -> str:
    return suite.partition("/")[2] or suite


def _notes(rows: Sequence[Row]) -> list[Block]:
    """What was counted; a note that all rows share is listed once."""
    shared = [note for note in rows[0].notes if all(note in row.notes for row in rows)]
    items = [("", note) for note in shared]
    for row in rows:
        items += [(row.label, note) for note in row.notes if note not in shared]
    return [Notes(items)] if items else []


def training_section(curves: Sequence[Curve]) -> Section | None:
    """Loss over steps, a panel for each method; None without training curves."""
    measured = [curve for curve in curves if curve.kind == "training" and "loss" in curve.values]
    if not measured:
        return None
    thinned = [_thinned(curve) for curve in measured]
    caption = _LOSS
    if thinned != measured:
        caption += f" Neighbouring steps are averaged to at most {_MAX_POINTS} points."
    title = "Training loss of each method"
    drawing = small_multiples(thinned, "loss", "step", title, shared=False)
    section = Section("training", "Training", "loss by step")
    section.figures.append(Figure("training-loss", drawing, caption))
    return section


def _thinned(curve: Curve) -> Curve:
    """The curve with neighbouring points averaged, ends of intervals too."""
    width = math.ceil(len(curve.at) / _MAX_POINTS)
    if width <= 1:
        return curve
    starts = np.arange(0, len(curve.at), width)
    counts = np.diff([*starts, len(curve.at)])
    at = np.add.reduceat(np.array(curve.at), starts) / counts
    means = np.add.reduceat(curve.table("loss"), starts, axis=1) / counts
    losses = []
    for start, (value, low, high) in zip(starts, means.T.tolist(), strict=True):
        losses.append(Metric(value, curve.values["loss"][start].n, low, high))
    return replace(curve, at=tuple(at.tolist()), values={"loss": tuple(losses)})


def cost_section(rows: Sequence[Row]) -> Section | None:
    """What each method costs; None without results of kind "cost"."""
    costs = [row for row in rows if row.kind == "cost"]
    if not costs:
        return None
    section = Section("cost", "Cost")
    section.folds.append(Fold("Parameters, passes and tokens", [cost_table(costs)]))
    return section
