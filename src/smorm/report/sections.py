"""The sections of a page: over-optimisation, every suite, training and cost."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import product
from operator import attrgetter

import numpy as np

from smorm.evaluation.metric_names import MetricName, SuiteName
from smorm.evaluation.metrics import Metric
from smorm.report import panels, tables
from smorm.report.bars import bars
from smorm.report.blocks import PALETTE, Block, Cell, Figure, Fold, Notes, Section, Table, TableRow
from smorm.report.curves import OPTIMISED, Curve, id_first
from smorm.report.paired import Paired, leading
from smorm.report.rows import SEPARATE, UNMEASURED, Row, in_distribution, metric_names
from smorm.report.selection import by_attribute, distinct, grouped, present_in, reject, select
from smorm.report.style import SECTIONS, Style, show_prompts, style_of

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
    "Gold lost after the peak is gold there less the lowest that follows; over seeds both points "
    "are those of the other seeds' mean. The n of every number is in the folded tables."
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
    "shortest_only_accuracy": "shortest-only rule",
}
Colours = Mapping[str, int]


def sections_of(
    rows: list[Row], curves: list[Curve], paired: list[Paired], highlighted: Sequence[str]
) -> list[Section]:
    """All sections of a page; `highlighted` are labels that curves show in colour in any case."""
    measured = reject(rows, kind=SEPARATE)
    labels = distinct([*measured, *rows], "label")
    colours = dict(zip(labels, range(len(labels)), strict=True))
    sections: list[Section | None] = []
    optimised = select(curves, kind=OPTIMISED)
    families = grouped(optimised, attrgetter("kind", "family"))
    for number, of_family in enumerate(families.values(), start=1):
        suites = {"kind": distinct(of_family, "kind"), "suite": distinct(of_family, "suite")}
        members, differences = select(rows, **suites), select(paired, **suites)
        sections.append(_optimisation_section(number, members, of_family, differences, highlighted))
    pairs = select(measured, family=["pairs"])
    sections.append(accuracy_section(pairs, colours))
    # The overview's bars once more would be, of many methods, a megabyte for each suite.
    repeated = bool(sections[-1]) and len(labels) > len(PALETTE)
    # A suite's sanity tests and differences have its name, and sections of their own.
    rows_of_suites = reject(rows, kind=UNMEASURED)
    by_suite = grouped(rows_of_suites, lambda row: (row.suite, SEPARATE.get(row.kind)))
    # Suites with curves have their tables in the sections on over-optimisation.
    for suite in distinct(optimised, "suite"):
        by_suite.pop((suite, None), None)
    for number, ((suite, _), in_suite) in enumerate(by_suite.items(), start=1):
        drawn = repeated and in_suite[0] in pairs
        differences = select(paired, suite=[suite])
        sections.append(_suite_section(number, in_suite, differences, colours, drawn=drawn))
    sections += [training_section(curves), cost_section(rows)]
    return list(filter(None, sections))


def _optimisation_section(
    number: int,
    rows: Sequence[Row],
    curves: Sequence[Curve],
    paired: Sequence[Paired],
    highlighted: Sequence[str],
) -> Section:
    kind, family = curves[0].kind, curves[0].family
    section = Section(f"optimised-{number}", f"Over-optimisation: {family}", _REMARKS[kind])
    section.figures += _curve_figures(curves, paired, highlighted)
    by_prompts = by_attribute(curves, "prompts")
    for prompts in id_first(by_prompts):
        by_label = {curve.label: curve for curve in by_prompts[prompts]}
        suite = distinct(by_prompts[prompts], "suite")
        members, differences = select(rows, suite=suite), select(paired, suite=suite)
        known = in_distribution(members).issuperset(suite)
        name = show_prompts(prompts, in_distribution=known)
        table = tables.narrow_table(members, differences, by_label)
        section.blocks.append(replace(table, title=name[:1].upper() + name[1:]))
        full = tables.optimisation_table(members, by_label, differences)
        blocks = [full, *tables.full_tables(members).values(), *_notes(members)]
        section.folds.append(Fold(f"All numbers: {name}", blocks))
    if paired:
        over = " and ".join(distinct(paired, "over"))
        text = f"Differences (−) are paired over {over}. {tables.SYMBOLS} {_PEAKS}"
        section.blocks.append(Notes([("", text)]))
        fold = Fold(f"All {len(paired)} paired differences", [tables.paired_table(paired)])
        section.folds.append(fold)
    return section


def _curve_figures(
    curves: Sequence[Curve], paired: Sequence[Paired], highlighted: Sequence[str]
) -> list[Figure]:
    family, kind = curves[0].family, curves[0].kind
    bases = distinct(paired, "base") or [curves[0].label]
    # One style for a method in all figures of the family.
    styles = panels.line_styles(curves, bases, highlighted)
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
        drawing = panels.side_by_side(curves, quantities, axis, title, styles=styles)
        of_prompts = []
        for prompts in id_first(by_prompts):
            text = f"{title}, {prompts}"
            panel = panels.side_by_side(
                curves, quantities, axis, text, styles=styles, prompts=[prompts]
            )
            of_prompts.append(panel)
        return Figure(f"{family}-{name}", drawing, caption, tuple(of_prompts))

    title = f"{family}: gold and proxy against KL"
    figures = [figure("gold-and-proxy-by-kl", ("gold", "proxy"), "kl", title)]
    if kind == "rl":
        shared = set.intersection(*map(set, map(attrgetter("values"), curves)))
        traced = present_in(_TRACED, shared)
        figures.append(figure("by-step", traced, "step", f"{family}: traced over steps"))
    # Grey lines have no names: then each method has a panel of its own too.
    if methods > panels.HIGHLIGHTED:
        base = next(iter(styles))
        for prompts in id_first(by_prompts):
            members = by_prompts[prompts]
            title = f"{family} on {prompts or 'all prompts'}: gold, a panel for each method"
            drawing = panels.small_multiples(members, "gold", "kl", title, base=base)
            grey = "; grey: the others" if len(members) <= panels.MAX_BACKGROUND else ""
            text = f"Dashed: {base}{grey}. {_BANDS}"
            figures.append(Figure(f"{family}-{prompts}-each-method", drawing, text))
    return figures


def _bar_figure(
    name: str, style: Style, title: str, colours: Colours, bars_of: Iterable[tuple[str, Row, str]]
) -> Figure:
    """Bars by panel, row and metric; panels stack where the page is narrow."""
    groups: dict[str, dict[str, Metric]] = {}
    chances: dict[str, float] = {}
    for group, row, metric in bars_of:
        if metric in row.metrics:
            groups.setdefault(group, {})[row.label] = row.metrics[metric]
            if metric in row.chance_levels:
                chances[group] = row.chance_levels[metric]
    draw = partial(bars, groups, style, chances=chances, colours=colours)
    panels_of_groups = [draw(f"{title}: {group}", panels=[group]) for group in groups]
    caption = f"{title}; lines are 95 % intervals."
    if chances:
        levels = ", ".join(style.show(level) for level in sorted(set(chances.values())))
        caption += f" Dashed: chance ({levels}{' %' * style.percent})."
    return Figure(name, draw(title), caption, tuple(panels_of_groups))


def accuracy_section(rows: Sequence[Row], colours: Colours) -> Section | None:
    """Accuracy on suites of pairs, regimes side by side; None unless two suites have it."""
    title = "Accuracy by method and regime"
    entries = ((SuiteName.parse(row.suite).shown, row, "accuracy") for row in rows)
    figure = _bar_figure("accuracy", style_of("accuracy"), title, colours, entries)
    if len(figure.panels) < 2:
        return None
    return Section("accuracy", "Accuracy", "by method and regime", figures=[figure])


def _suite_section(
    number: int, rows: Sequence[Row], paired: Sequence[Paired], colours: Colours, *, drawn: bool
) -> Section:
    kind, suite = rows[0].kind, rows[0].suite
    title = suite
    # Sanity tests and differences have the name of the suite that they were made on.
    if kind in SEPARATE and suite != kind:
        title = f"{suite}: {SEPARATE[kind]}"
    section = Section(f"suite-{number}", title, ", ".join(distinct(rows, "kind")))
    if kind in SEPARATE:
        section.blocks += _check_tables(rows)
    elif metric_names(rows):
        section.blocks.append(tables.narrow_table(rows, paired, {}))
        if not drawn:
            section.figures.append(_suite_bars(suite, rows, colours))
        correlations = tables.correlation_table(rows)
        if correlations:
            section.folds.append(Fold("Correlations by attribute", [correlations]))
    for heading, table in tables.full_tables(rows).items():
        section.folds.append(Fold(heading, [table]))
    notes = _notes(rows)
    if notes:
        section.folds.append(Fold("Notes", notes))
    return section


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
    blocks += [_check_table(row) for row in rows if row.checks]
    return blocks


def _check_table(row: Row) -> Table:
    """Each test of a model: what was expected, what was seen."""
    lines = []
    for check in row.checks:
        verdict = Cell("passed" if check.passed else "failed", failed=not check.passed)
        cells = [Cell(check.expected), Cell(check.observed), verdict]
        lines.append(TableRow(check.test.replace("_", " "), "", cells))
    return Table([row.label, "expected", "observed", ""], lines, wide=True)


def _suite_bars(suite: str, rows: Sequence[Row], colours: Colours) -> Figure:
    kind = rows[0].kind
    lead, labels = _bar_labels(suite, kind, metric_names(rows))
    style = style_of(lead)
    if lead == "overall":
        style = Style("comparisons won", percent=True)
    entries = [(label, row, name) for (name, label), row in product(labels.items(), rows)]
    return _bar_figure(f"{suite}-{kind}", style, f"{suite}: {style.label}", colours, entries)


def _bar_labels(suite: str, kind: str, names: Sequence[str]) -> tuple[str, dict[str, str]]:
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
    drawing = panels.small_multiples(thinned, "loss", "step", title, shared=False)
    figures = [Figure("training-loss", drawing, caption)]
    return Section("training", "Training", "loss by step", figures=figures)


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
    fold = Fold("Parameters, passes and tokens", [tables.cost_table(costs)])
    return Section("cost", "Cost", folds=[fold])
