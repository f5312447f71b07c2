"""The sections of a page: over-optimisation, every suite, training and cost."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from operator import attrgetter

import numpy as np

from smorm.evaluation.metric_names import MetricName, SuiteName
from smorm.evaluation.metrics import Metric
from smorm.report.bars import bars
from smorm.report.blocks import Block, Cell, Figure, Fold, Notes, Section, Table, TableRow
from smorm.report.curves import Curve, id_first
from smorm.report.paired import Paired, leading
from smorm.report.panels import (
    HIGHLIGHTED,
    MAX_BACKGROUND,
    line_styles,
    side_by_side,
    small_multiples,
)
from smorm.report.rows import SEPARATE, Row, metric_names
from smorm.report.selection import by_attribute, by_label_of, distinct, present_in, select
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
Colours = Mapping[str, int]


def optimisation_section(
    number: int,
    rows: Sequence[Row],
    curves: Sequence[Curve],
    paired: Sequence[Paired],
    highlighted: Sequence[str] = (),
) -> Section:
    """The section on best-of-n, or on an algorithm of RL, of rows and curves of one family."""
    kind, family = curves[0].kind, curves[0].family
    section = Section(f"optimised-{number}", f"Over-optimisation: {family}", _REMARKS[kind])
    section.figures += _curve_figures(curves, paired, highlighted)
    by_prompts = by_attribute(curves, "prompts")
    for prompts in id_first(by_prompts):
        by_label = by_label_of(by_prompts[prompts])
        suite, name = distinct(by_prompts[prompts], "suite"), show_prompts(prompts)
        members, differences = select(rows, suite=suite), select(paired, suite=suite)
        table = narrow_table(members, differences, by_label)
        section.blocks.append(replace(table, title=name[:1].upper() + name[1:]))
        tables: list[Block] = [optimisation_table(members, by_label, differences)]
        tables += _full_tables(members).values()
        section.folds.append(Fold(f"All numbers: {name}", [*tables, *_notes(members)]))
    if paired:
        over = " and ".join(distinct(paired, "over"))
        text = f"Differences (−) are paired over {over}. {SYMBOLS} {_PEAKS}"
        section.blocks.append(Notes([("", text)]))
        section.folds.append(Fold(f"All {len(paired)} paired differences", [paired_table(paired)]))
    return section


def _curve_figures(
    curves: Sequence[Curve], paired: Sequence[Paired], highlighted: Sequence[str]
) -> list[Figure]:
    family, kind = curves[0].family, curves[0].kind
    bases = distinct(paired, "base") or [curves[0].label]
    # One style for a method in all figures of the family.
    styles = line_styles(curves, bases, highlighted)
    by_prompts = by_attribute(curves, "prompts")
    methods = len(distinct(curves, "label"))
    caption = _BANDS
    if methods > len(styles):
        caption += _GREY.format(grey=methods - len(styles))
    if kind == "rl":
        caption += " KL and gold are means over seeds at equal steps."
    if dropped := sum(map(attrgetter("dropped_points"), curves)):
        caption += f" {dropped} points that not every seed has are left out."

    def figure(name: str, quantities: Sequence[str], axis: str, title: str) -> Figure:
        drawing = side_by_side(curves, quantities, axis, title, styles=styles)
        panels = []
        for prompts in id_first(by_prompts):
            text = f"{title}, {prompts}"
            panel = side_by_side(curves, quantities, axis, text, styles=styles, prompts=[prompts])
            panels.append(panel)
        return Figure(f"{family}-{name}", drawing, caption, tuple(panels))

    title = f"{family}: gold and proxy against KL"
    figures = [figure("gold-and-proxy-by-kl", ("gold", "proxy"), "kl", title)]
    if kind == "rl":
        shared = set.intersection(*map(set, map(attrgetter("values"), curves)))
        traced = present_in(_TRACED, shared)
        figures.append(figure("by-step", traced, "step", f"{family}: traced over steps"))
    # Grey lines have no names: then each method has a panel of its own too.
    if methods > HIGHLIGHTED:
        base = next(iter(styles))
        for prompts in id_first(by_prompts):
            members = by_prompts[prompts]
            title = f"{family} on {prompts or 'all prompts'}: gold, a panel for each method"
            drawing = small_multiples(members, "gold", "kl", title, base=base)
            grey = "; grey: the others" * (len(members) <= MAX_BACKGROUND)
            text = f"Dashed: {base}{grey}. {_BANDS}"
            figures.append(Figure(f"{family}-{prompts}-each-method", drawing, text))
    return figures


@dataclass(slots=True)
class _BarGroups:
    """What a figure of bars shows: metrics and chance levels by group."""

    metrics: dict[str, dict[str, Metric]] = field(default_factory=dict)
    chance_levels: dict[str, float] = field(default_factory=dict)

    def add(self, group: str, row: Row, name: str) -> None:
        """Add a row's metric to a group, where it has it."""
        if name not in row.metrics:
            return
        self.metrics.setdefault(group, {})[row.label] = row.metrics[name]
        if name in row.chance_levels:
            self.chance_levels[group] = row.chance_levels[name]

    def figure(self, name: str, style: Style, title: str, colours: Colours) -> Figure:
        """A panel for each group; panels stack where the page is narrow."""
        chances = self.chance_levels
        drawing = bars(self.metrics, style, title, chances=chances, colours=colours)
        panels = []
        for group in self.metrics:
            text = f"{title}: {group}"
            panel = bars(
                self.metrics, style, text, chances=chances, colours=colours, panels=[group]
            )  # fmt: skip
            panels.append(panel)
        caption = f"{title}; lines are 95 % intervals."
        if chances:
            levels = ", ".join(show(level, style) for level in sorted(set(chances.values())))
            caption += f" Dashed: chance ({levels}{' %' * style.percent})."
        return Figure(name, drawing, caption, tuple(panels))


def accuracy_section(rows: Sequence[Row], colours: Colours) -> Section | None:
    """Accuracy on suites of pairs, regimes side by side; None unless two suites have it."""
    groups = _BarGroups()
    for row in rows:
        groups.add(SuiteName.parse(row.suite).shown, row, "accuracy")
    if len(groups.metrics) < 2:
        return None
    title = "Accuracy by method and regime"
    figure = groups.figure("accuracy", style_of("accuracy"), title, colours)
    return Section("accuracy", "Accuracy", "by method and regime", figures=[figure])


def suite_section(
    number: int, rows: Sequence[Row], paired: Sequence[Paired], colours: Colours, *, drawn: bool
) -> Section:
    """A suite's section; `drawn`: another figure shows it already."""
    kind, suite = rows[0].kind, rows[0].suite
    title = suite
    # Sanity tests and differences have the name of the suite that they were made on.
    if kind in SEPARATE and suite != kind:
        title = f"{suite}: {SEPARATE[kind]}"
    section = Section(f"suite-{number}", title, ", ".join(distinct(rows, "kind")))
    if kind in SEPARATE:
        section.blocks += _check_tables(rows)
    elif metric_names(rows):
        section.blocks.append(narrow_table(rows, paired))
        if not drawn:
            section.figures.append(_suite_bars(suite, rows, colours))
        correlations = correlation_table(rows)
        if correlations:
            section.folds.append(Fold("Correlations by attribute", [correlations]))
    for heading, table in _full_tables(rows).items():
        section.folds.append(Fold(heading, [table]))
    notes = _notes(rows)
    if notes:
        section.folds.append(Fold("Notes", notes))
    return section


def _full_tables(rows: Sequence[Row]) -> dict[str, Table]:
    totals, subsets = split_names(rows)
    tables = {}
    if totals:
        tables["All numbers"] = summary_table(rows, totals)
    if subsets:
        tables[f"All {len(subsets)} subsets"] = subset_table(rows, subsets)
    return tables


def _check_tables(rows: Sequence[Row]) -> list[Block]:
    if rows[0].kind == "difference":
        return []
    lines, failed = [], []
    for row in rows:
        verdict = f"{len(row.failures)} failed" if row.failures else "passed"
        cell = Cell(verdict, failed=bool(row.failures))
        lines.append(TableRow(row.label, "", [cell], row.sources))
        failed += [(f"{row.label}: failed", str(failure)) for failure in row.failures]
    blocks: list[Block] = [Table(["model", "tests"], lines, wide=False)]
    if failed:
        blocks.append(Notes(failed))
    return blocks


def _suite_bars(suite: str, rows: Sequence[Row], colours: Colours) -> Figure:
    """Bars of a suite's leading metric and its sections; of an unknown suite, its first metric."""
    kind = rows[0].kind
    lead, labels = _bar_labels(suite, kind, metric_names(rows))
    groups = _BarGroups()
    for name, label in labels.items():
        for row in rows:
            groups.add(label, row, name)
    style = style_of(lead)
    if lead == "overall":
        style = Style("comparisons won", percent=True)
    return groups.figure(f"{suite}-{kind}", style, f"{suite}: {style.label}", colours)


def _bar_labels(suite: str, kind: str, names: Sequence[str]) -> tuple[str, dict[str, str]]:
    """The metric whose style the bars have, and the metrics drawn with their labels."""
    if "accuracy" in names:
        return "accuracy", _PAIR_GROUPS
    if "overall" in names:
        return "overall", dict(zip(SECTIONS, SECTIONS, strict=True))
    # A suite that this version does not know: best-of-n sizes, else the parts of its first number.
    sizes, subsets = {}, {}
    lead = (leading(kind, names) or names)[0]
    for name in names:
        parsed = MetricName.parse(name)
        if parsed.name == "gold" and parsed.n is not None:
            sizes[name] = f"best of {parsed.n}"
        if parsed.name == lead and parsed.subset:
            subsets[name] = parsed.subset
    if sizes:
        return "gold", sizes
    return lead, subsets or {lead: suite}


def _notes(rows: Sequence[Row]) -> list[Block]:
    """What was counted; a note that all rows share is listed once."""
    # Most notes are about the suite: once for each of many methods they would hide the others.
    shared = set.intersection(*map(set, map(attrgetter("notes"), rows)))
    items: dict[tuple[str, str], None] = {}
    for row in rows:
        for note in row.notes:
            items[row.label * (note not in shared), note] = None
    return [Notes(list(items))] if items else []


def training_section(curves: Sequence[Curve]) -> Section | None:
    """Loss over steps, a panel for each method; None without training curves."""
    measured = [curve for curve in select(curves, kind=["training"]) if "loss" in curve.values]
    if not measured:
        return None
    thinned = list(map(_thinned, measured))
    caption = _LOSS
    if thinned != measured:
        caption += f" Neighbouring steps are averaged to at most {_MAX_POINTS} points."
    title = "Training loss of each method"
    drawing = small_multiples(thinned, "loss", "step", title, shared=False)
    figure = Figure("training-loss", drawing, caption)
    return Section("training", "Training", "loss by step", figures=[figure])


def _thinned(curve: Curve) -> Curve:
    """The curve with neighbouring points averaged, ends of intervals too."""
    width = math.ceil(len(curve.at) / _MAX_POINTS)
    if width <= 1:
        return curve
    # The last bin may be shorter: its own count divides it.
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
    costs = select(rows, kind=["cost"])
    if not costs:
        return None
    fold = Fold("Parameters, passes and tokens", [cost_table(costs)])
    return Section("cost", "Cost", folds=[fold])
