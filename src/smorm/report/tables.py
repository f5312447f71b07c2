"""The page's tables: value, interval and n of every number; narrow ones in sight, wide ones folded.

A narrow table has the columns that answer its section's question and fits a phone."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from operator import attrgetter, itemgetter

from smorm.evaluation.metric_names import MetricName
from smorm.evaluation.metrics import Metric
from smorm.report.blocks import MISSING, Cell, Table, TableRow
from smorm.report.curves import Curve, Peak, peak_of
from smorm.report.paired import Paired, leading, representative_sizes
from smorm.report.rows import Row, metric_names, separated_best
from smorm.report.selection import by_attribute, distinct, grouped, present_in, select
from smorm.report.style import style_of

SYMBOLS = (
    "* the interval excludes 0; † it still does after Holm's correction for all comparisons of "
    "this page."
)
_NARROW_COLUMNS = 3
_LENGTH_RULES = ("length_only_accuracy", "length_only/overall", "length_only")
_SHORTEST_RULES = ("shortest_only_accuracy", "shortest_only/overall")
_SUMMARIES = {
    "stress": ("gain", "regret"),
    "rl": ("gold@first", "gold@peak", "gold@last", "kl@last"),
}
_CORRELATION = "spearman"
# Per cent of colour at a correlation of 1: text stays readable on it.
_MAX_SHADE = 72
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
Column = tuple[str, Callable[[Row], Cell]]
Curves = Mapping[str, Curve]


def narrow_table(rows: Sequence[Row], paired: Sequence[Paired], curves: Curves) -> Table:
    """The leading number of each method of a suite, its difference from the baseline, and one more
    column: gold lost, with `curves` by label of methods that were optimised against."""
    present = metric_names(rows)
    totals, _ = split_names(rows)
    lead = (leading(rows[0].kind, present) or totals)[-1]
    # A policy's gold at its peak cannot be known without the gold: its end is what one gets.
    if "gold@last" in present:
        lead = "gold@last"
    columns = [_metric_column(rows, lead), *_difference_columns(rows, paired, lead)[:1]]
    extra = present_in(_LENGTH_RULES, present)[:1]
    if curves:
        columns.append(_drop_column(curves))
    elif len(columns) == 1:
        # Nothing to compare with: the room goes to further numbers of the suite.
        extra = list(dict.fromkeys([*extra, *totals]))
        extra.remove(lead)
    columns += _metric_columns(rows, extra)
    # A phone has no room for links to fingerprints either: the wide tables have them.
    table = _table(rows, columns[:_NARROW_COLUMNS])
    lines = [replace(line, small="", sources=()) for line in table.rows]
    return Table(table.headings, lines, _yardsticks(rows, lead), wide=False)


def _yardsticks(rows: Sequence[Row], lead: str) -> str:
    """The note of what chance and the two rules on length get of a suite's leading number."""
    notes = []
    if lead in rows[0].chance_levels:
        style = style_of(lead)
        level = style.show(rows[0].chance_levels[lead])
        notes.append(f"Chance level of {style.label}: {level}{' %' * style.percent}.")
    present = metric_names(rows)
    # Files from before the shortest response was a rule have the longest in a column alone.
    for shortest in present_in(_SHORTEST_RULES, present)[:1]:
        (longest,) = present_in(_LENGTH_RULES, present)[:1]
        levels = []
        for name in (longest, shortest):
            metric = next(row.metrics[name] for row in rows if name in row.metrics)
            levels.append(style_of(name).show(metric.value))
        notes.append(f"The longest response wins: {levels[0]} %; the shortest: {levels[1]} %.")
    return " ".join(notes)


def optimisation_table(rows: Sequence[Row], curves: Curves, paired: Sequence[Paired]) -> Table:
    """All that is known of each method on one suite of kind "stress" or "rl"."""
    kind, present = rows[0].kind, metric_names(rows)
    compared = distinct(paired, "metric") or [""]
    last = (present_in(["gold@last"], compared) or compared)[-1]
    columns = _metric_columns(rows, representative_sizes(present))
    columns += _difference_columns(rows, paired, last)
    columns += _metric_columns(rows, present_in(_SUMMARIES[kind], present))
    axis = {"stress": "n", "rl": "step"}[kind]

    def peak_cell(row: Row) -> Cell:
        peak = peak_for(row, curves)
        if peak is None:
            return MISSING
        if not peak.runs_at:
            return Cell(f"{peak.at:g}")
        return Cell(f"{peak.at:g}", (f"seeds: {min(peak.runs_at):g} to {max(peak.runs_at):g}",))

    columns += [(f"largest gold at {axis}", peak_cell), _drop_column(curves)]
    return _table(rows, columns)


def paired_table(paired: Sequence[Paired]) -> Table:
    """Every comparison of some suites: a row for two methods, a column for each number."""
    names = distinct(paired, "metric")
    couples: dict[tuple[str, str, str], dict[str, Cell]] = {}
    for pair in paired:
        cells = couples.setdefault((pair.suite, pair.label, pair.base), {})
        cells[pair.metric] = _paired_cell(pair)
    lines = []
    for (suite, label, base), cells in couples.items():
        row = [cells.get(name, MISSING) for name in names]
        lines.append(TableRow(f"{label} − {base}", suite, row))
    return Table(["difference", *(style_of(name).heading for name in names)], lines)


def full_tables(rows: Sequence[Row]) -> dict[str, Table]:
    """By title, all numbers: models as rows; of subsets, which can be many, models as columns."""
    totals, subsets = split_names(rows)
    tables = {}
    if totals:
        tables["All numbers"] = _table(rows, _metric_columns(rows, totals))
    if subsets:
        by_model = _table(rows, _metric_columns(rows, subsets))
        columns = zip(*map(attrgetter("cells"), by_model.rows), strict=True)
        lines = []
        for name, cells in zip(subsets, columns, strict=True):
            lines.append(TableRow(style_of(name).heading, "", cells))
        headings = ["metric", *map(attrgetter("heading"), by_model.rows)]
        tables[f"All {len(subsets)} subsets"] = Table(headings, lines)
    return tables


def correlation_table(rows: Sequence[Row]) -> Table | None:
    """How well attribute rows predict ratings, shaded; None without two attributes."""
    columns: list[Column] = []
    for name in metric_names(rows):
        parsed = MetricName.parse(name)
        if parsed.name == _CORRELATION and parsed.subset and not parsed.base:
            columns.append((parsed.subset, _shaded(name)))
    if len(columns) < 2:
        return None
    return _table(rows, [*columns, ("mean", _shaded(_CORRELATION))], _SHADES_NOTE)


def cost_table(rows: Sequence[Row]) -> Table:
    """What each method costs, of results of kind "cost"."""
    present = metric_names(rows)
    known = present_in(_COSTS, present)
    names = [*known, *sorted(set(present).difference(known))]
    return _table(rows, list(map(_count_column, names)), _COST_NOTE)


def split_names(rows: Sequence[Row]) -> tuple[list[str], list[str]]:
    """The metrics of some rows: totals (of a suite without any, its subsets), and subsets."""
    names = grouped(metric_names(rows), lambda name: MetricName.parse(name).is_detail)
    if False not in names:
        return names.get(True, []), []
    return names[False], names.get(True, [])


def peak_for(row: Row, curves: Curves) -> Peak | None:
    if row.label not in curves:
        return None
    if "drop" in row.metrics:
        return peak_of(curves[row.label], row.metrics["drop"])
    # Files from before drops were measured have the fall to the last point alone.
    fall = row.metrics.get("fall")
    return peak_of(curves[row.label], fall, to_end=fall is not None)


def show_count(metric: Metric | None) -> str:
    """A count with thousands separators; a mean of counts has one decimal where it needs it."""
    if metric is None or not math.isfinite(metric.value):
        return "–"
    integral = math.isclose(metric.value, round(metric.value), abs_tol=1e-9)
    digits = int(metric.value < 100 and not integral)
    return f"{metric.value:,.{digits}f}"


def _table(rows: Sequence[Row], columns: Sequence[Column], note: str = "") -> Table:
    headings = ["method", *map(itemgetter(0), columns)]
    lines = []
    for row in rows:
        cells = [cell_of(row) for _, cell_of in columns]
        # A row of dashes only: the method is in another table of the suite.
        if set(cells) == {MISSING}:
            continue
        small = []
        if row.view and row.label == row.model:
            small.append(f"view {row.view}")
        if row.seeds > 1:
            small.append(f"mean of {row.seeds} seeds")
        lines.append(TableRow(row.label, " · ".join(small), cells, row.sources))
    return Table(headings, lines, note)


def _metric_columns(rows: Sequence[Row], names: Iterable[str]) -> list[Column]:
    return [_metric_column(rows, name) for name in names]


def _metric_column(rows: Sequence[Row], name: str) -> Column:
    style, best = style_of(name), separated_best(rows, name)

    def cell(row: Row) -> Cell:
        metric = row.metrics.get(name)
        if metric is None:
            return MISSING
        smallest, largest = row.n_ranges.get(name, (metric.n, metric.n))
        size = f"n = {smallest}" + (f"–{largest}" if largest > smallest else "")
        if row.seeds > 1:
            size += f" × {row.seeds} seeds"
        interval = style.interval(metric) or "no interval"
        return Cell(style.show(metric.value), (interval, size), best=row is best)

    return style.heading, cell


def _difference_columns(rows: Sequence[Row], paired: Sequence[Paired], metric: str) -> list[Column]:
    """A metric's difference from each baseline of at least half of all methods. The others are
    first views, which the further views of one model are compared with."""
    columns: list[Column] = []
    for base, members in by_attribute(select(paired, metric=[metric]), "base").items():
        if len(members) >= (len(rows) - 1) / 2:
            by_label = {pair.label: pair for pair in members}
            cell = partial(_difference_cell, base=base, by_label=by_label)
            columns.append((f"{style_of(metric).label} − {base}", cell))
    return columns


def _difference_cell(row: Row, base: str, by_label: Mapping[str, Paired]) -> Cell:
    if row.label == base:
        return Cell("baseline")
    if row.label not in by_label:
        return MISSING
    return _paired_cell(by_label[row.label], row.seeds)


def _paired_cell(pair: Paired, seeds: int | None = None) -> Cell:
    """A difference; how many seeds it has where they are not those of the row."""
    style, difference = style_of(pair.metric), pair.difference
    small = [style.signed_interval(difference)]
    # Where all seeds were paired, the row's number of seeds says it.
    if pair.over != "seeds" or seeds != difference.n:
        small.append(f"{difference.n} {pair.over}")
    text = f"{style.signed(difference.value)} {pair.symbol}".rstrip()
    return Cell(text, tuple(small), best=pair.symbol != "")


def _drop_column(curves: Curves) -> Column:
    style = style_of("fall")

    def cell(row: Row) -> Cell:
        peak = peak_for(row, curves)
        if peak is None:
            return MISSING
        # At the last point the drop is 0 by definition; an interval would be of nothing.
        if peak.at == peak.last and peak.drop.value == 0:
            return Cell("none")
        star = " *" * peak.drops
        return Cell(f"{style.show(peak.drop.value)}{star}", (style.signed_interval(peak.drop),))

    return "gold lost after its peak", cell


def _count_column(name: str) -> Column:
    heading = _COSTS.get(name, name.replace("_", " "))
    return heading, lambda row: Cell(show_count(row.metrics.get(name)))


def _shaded(name: str) -> Callable[[Row], Cell]:
    style = style_of(name)

    def cell(row: Row) -> Cell:
        metric = row.metrics.get(name)
        if metric is None or not math.isfinite(metric.value):
            return MISSING
        percent = round(_MAX_SHADE * min(1.0, abs(metric.value)))
        colour = "--above" if metric.value >= 0 else "--below"
        shade = f"color-mix(in srgb, var({colour}) {percent}%, transparent)"
        interval = style.interval(metric) or "no interval"
        return Cell(style.show(metric.value), (interval,), shade=shade)

    return cell
