"""Results and their metrics as tables on the terminal."""

import math
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import chain, product
from operator import attrgetter

from rich.console import Console
from rich.table import Table

from smorm.evaluation.alarms import Alarm, alarm_lines
from smorm.evaluation.metric_names import MetricName, SuiteName
from smorm.evaluation.metrics import Metric
from smorm.evaluation.result import Result
from smorm.report.rows import metric_names
from smorm.report.selection import grouped, present_in
from smorm.terminal import open_console

_SHOWN = {
    "pairs": ("accuracy", "length_correlation"),
    "rated": ("spearman", "mse", "mse_of_mean"),
}
# Beside every accuracy: what two rules without a model get, of the first result that has them.
_RULES = {"longest": "length_only", "shortest": "shortest_only"}
_TITLES = {"difference": "paired differences", "sanity": "sanity tests"}
# Characters, borders included.
_NAME_WIDTH, _CELL_WIDTH, _RULE_WIDTH = 26, 27, 10


def terminal() -> Console:
    """Where results are printed: lines wrap on a terminal only, so that a pipe gets whole ones."""
    return open_console(soft_wrap=not sys.stdout.isatty())


def print_notes(console: Console, notes: Iterable[str]) -> None:
    for note in notes:
        console.print(f"  {note}", style="dim")


def print_alarms(console: Console, label: str, alarms: Iterable[Alarm]) -> None:
    """A line for each alarm that fired, and one for all others."""
    fired, quiet = alarm_lines(alarms)
    for sentence in fired:
        console.print(f"  ALARM {label}: {sentence}", style="bold red")
    if quiet:
        console.print(f"  {label}: {quiet}", style="dim")


def print_results(results: Sequence[Result]) -> None:
    """A table for each suite, its differences below it, and what was counted."""
    console = terminal()
    for (kind, suite), rows in grouped(results, attrgetter("kind", "suite")).items():
        title = suite
        if kind in _TITLES:
            title = f"{suite}: {_TITLES[kind]}" if suite != kind else _TITLES[kind]
        checked = [result for result in rows if result.checks]
        for result in checked:
            console.print(_check_table(title, result))
        if not checked:
            _print_table(console, title, rows)
        for result in rows:
            print_alarms(console, f"{result.model} {result.view}", result.alarms)
        notes = chain.from_iterable(map(attrgetter("reported"), rows))
        # A note that several models share is printed once.
        print_notes(console, dict.fromkeys(notes))


def _check_table(title: str, result: Result) -> Table:
    """A model's tests: what was expected of it, what was observed, and the verdict."""
    title = f"{title}, {result.model} {result.view}"
    table = Table("", "expected", "observed", "", title=title, title_justify="left")
    for check in result.checks:
        verdict = "pass" if check.passed else "FAIL"
        table.add_row(check.test.replace("_", " "), check.expected, check.observed, verdict)
    return table


def _print_table(console: Console, title: str, rows: Sequence[Result]) -> None:
    """Numbers down, models across, as many beside each other as a terminal has room for."""
    names = _names(rows)
    signed = rows[0].kind == "difference"
    beside = _beside(rows, names)
    across = len(rows)
    if console.is_terminal:
        room = console.width - _NAME_WIDTH - _RULE_WIDTH * len(beside)
        across = max(1, room // _CELL_WIDTH)
    for start in range(0, len(rows), across):
        results = rows[start : start + across]
        table = Table("", title=title, title_justify="left", header_style="bold")
        counts = []
        for result in results:
            table.add_column(f"{result.model}\n{result.view}", overflow="fold")
            # The n of the first of these numbers that a result has.
            sizes = [str(result.metrics[name].n) for name in names if name in result.metrics]
            counts += sizes[:1] or ["0"]
        for heading in beside:
            table.add_column(heading, justify="right")
        for name in names:
            cells = [_number(result.metrics.get(name), signed=signed) for result in results]
            levels = [_level(by_name.get(name)) for by_name in beside.values()]
            table.add_row(name.replace("_", " "), *cells, *levels)
        table.add_row("n", *counts, style="dim")
        console.print(table)


def _beside(rows: Sequence[Result], names: Sequence[str]) -> dict[str, dict[str, float]]:
    """By heading, what stands beside each number that has it: both length rules, and chance."""
    columns: dict[str, dict[str, float]] = {}
    for name, result in product(names, rows if rows[0].kind == "eval" else ()):
        for heading, rule in _RULES.items():
            by_rule = str(replace(MetricName.parse(name), over=rule))
            if by_rule in result.metrics:
                columns.setdefault(heading, {}).setdefault(name, result.metrics[by_rule].value)
        if name in result.chance_levels:
            columns.setdefault("chance", {}).setdefault(name, result.chance_levels[name])
    return columns


def _level(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def _names(rows: Sequence[Result]) -> list[str]:
    from smorm.evaluation.benchmarks import BENCHMARKS

    present = metric_names(rows)
    # Sanity tests have the name of the suite that they were made on.
    if rows[0].kind == "sanity":
        return present
    suite = SuiteName.parse(rows[0].suite).kind
    columns: Iterable[str] = _SHOWN.get(suite, present)
    if suite in BENCHMARKS:
        columns = (*BENCHMARKS[suite].columns, "length_correlation")
    names = present_in(columns, present)
    if rows[0].kind == "difference":
        # How the longer response fares is the same for all models.
        names = [name for name in names if not name.startswith("length_")]
    return names


def _number(metric: Metric | None, *, signed: bool) -> str:
    """The value and its interval; with signs, and a star where it excludes 0."""
    if metric is None or math.isnan(metric.value):
        return "–"
    # "z" writes a rounded -0.0001 as 0.000.
    if not signed:
        return f"{metric:z.3f}"
    return f"{metric:+z.3f}" + " *" * metric.excludes_zero


def brief(metric: Metric | None) -> str:
    """`0.741 ± 0.029`: half the interval's width, for a table with many columns."""
    if metric is None or math.isnan(metric.value):
        return "–"
    return f"{metric.value:.3f} ± {(metric.high - metric.low) / 2:.3f}"


def metric_list(title: str, metrics: Mapping[str, Metric]) -> Table:
    """One metric a line, with interval and n."""
    table = Table("", "value", "95 % interval", "n", title=title, title_justify="left")
    for name, metric in metrics.items():
        label = name.replace("_", " ")
        table.add_row(label, _plain(metric.value), _interval(metric), str(metric.n))
    return table


def metric_grid(title: str, metrics: Mapping[str, Metric], *, rows: int) -> Table:
    """Metrics by the two segments of their names; `rows` is the segment that makes the rows."""
    cells: dict[str, dict[str, Metric]] = {}
    # A dict keeps the order of first appearance.
    columns: dict[str, None] = {}
    for name, metric in metrics.items():
        # Only the first slash separates: names of attributes and arms may hold more.
        segments = name.split("/", 1)
        row, column = segments[rows], segments[1 - rows]
        cells.setdefault(row, {})[column] = metric
        columns[column] = None
    headings = [name.replace("_", " ") for name in columns]
    table = Table("", *headings, "n", title=title, title_justify="left")
    for row, by_column in cells.items():
        texts = []
        for column in columns:
            metric = by_column.get(column, Metric(math.nan, 0))
            text = f"{_plain(metric.value)}\n{_interval(metric)}"
            texts.append(text.removesuffix("\n–"))
        most = max(metric.n for metric in by_column.values())
        table.add_row(row.replace("_", " "), *texts, str(most))
    return table


def _plain(value: float) -> str:
    if math.isnan(value):
        return "–"
    return "infinite" if math.isinf(value) else f"{value:.4g}"


def _interval(metric: Metric) -> str:
    return "–" if math.isnan(metric.low) else f"[{metric.low:.4g}, {metric.high:.4g}]"
