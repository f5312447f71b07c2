"""Results as a table on the terminal."""

from __future__ import annotations

import math
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from smorm.evaluation.metrics import Metric
from smorm.evaluation.result import Result

SHOWN = {
    "pairs": ("accuracy", "length_only_accuracy", "length_correlation"),
    "rated": ("spearman", "mse", "mse_of_mean"),
}
BESIDE = ("length_only/overall", "length_correlation")
"""What stands beside every benchmark's own numbers."""
TITLES = {"difference": "paired differences", "sanity": "sanity tests"}
_NAME_WIDTH, _CELL_WIDTH = 26, 27  # characters, borders included


def shown(suite: str, metrics: Sequence[str]) -> tuple[str, ...]:
    """The columns of a suite's table: its main numbers, and what length alone would give."""
    from smorm.evaluation.benchmarks import BENCHMARKS

    kind = suite.partition("/")[0]
    if kind in BENCHMARKS:
        names = (*BENCHMARKS[kind].shown, *BESIDE)
    else:
        names = SHOWN.get(kind, tuple(metrics))
    return tuple(name for name in names if name in metrics)


def number(metric: Metric | None, *, signed: bool = False) -> str:
    """The value and its interval; with signs, and a star where it leaves 0 out."""
    if metric is None or math.isnan(metric.value):
        return "–"
    form = "+z.3f" if signed else "z.3f"  # z: no -0.000
    if math.isnan(metric.low):
        return f"{metric.value:{form}}"
    star = " *" if signed and not metric.low <= 0 <= metric.high else ""
    return f"{metric.value:{form}} [{metric.low:{form}}, {metric.high:{form}}]{star}"


def print_results(results: Sequence[Result]) -> None:
    """A table per suite, the differences below it, and what was counted."""
    console = Console(soft_wrap=not Console().is_terminal, markup=False)
    for kind, suite in dict.fromkeys((result.kind, result.suite) for result in results):
        rows = [result for result in results if (result.kind, result.suite) == (kind, suite)]
        difference = kind == "difference"
        title = f"{suite}: {TITLES[kind]}" if kind in TITLES else suite
        _print_table(console, title, suite, rows, signed=difference)
        for note in dict.fromkeys(note for result in rows for note in result.reported):
            console.print(f"  {note}", style="dim", markup=False, highlight=False)


def _print_table(
    console: Console, title: str, suite: str, rows: Sequence[Result], *, signed: bool
) -> None:
    """Numbers down, models across, as many beside each other as a terminal has room for."""
    found = list(dict.fromkeys(name for row in rows for name in row.metrics))
    names = tuple(found) if rows[0].kind == "sanity" else shown(suite, found)
    if signed:  # how the longer response fares is the same for all models
        names = tuple(name for name in names if not name.startswith("length_"))
    room = (
        max(1, (console.width - _NAME_WIDTH) // _CELL_WIDTH) if console.is_terminal else len(rows)
    )
    for start in range(0, len(rows), room):
        part = rows[start : start + room]
        table = Table(title=title, title_justify="left", header_style="bold")
        table.add_column("")
        for one in part:
            table.add_column(f"{one.model}\n{one.view}", overflow="fold")
        for name in names:
            cells = [number(one.metrics.get(name), signed=signed) for one in part]
            table.add_row(name.replace("_", " "), *cells)
        table.add_row("n", *(_count(one, names) for one in part), style="dim")
        console.print(table)


def _count(result: Result, names: Sequence[str]) -> str:
    return str(next((result.metrics[name].n for name in names if name in result.metrics), 0))


def label(result: Result) -> str:
    """`SMORM-F`, or the bare model where a view would add nothing."""
    return result.model if result.model in ("Single", "Multi") else f"{result.model}-{result.view}"


def brief(metric: Metric | None) -> str:
    """`0.741 ± 0.029`: half the interval's width, for a table with many columns."""
    if metric is None or math.isnan(metric.value):
        return "–"
    return f"{metric.value:.3f} ± {(metric.high - metric.low) / 2:.3f}"


def print_comparison(results: Sequence[Result], metric: str) -> None:
    """Methods by suites, for the suites that have the metric; the length-only rule below."""
    console = Console(soft_wrap=not Console().is_terminal, markup=False)
    rows = [result for result in results if metric in result.metrics]
    suites = list(dict.fromkeys(result.suite for result in rows))
    title = f"{metric} ± half its 95 % interval, which resamples prompts"
    table = Table(title=title, title_justify="left", header_style="bold")
    for heading in ("method", *(suite.partition("/")[2] or suite for suite in suites)):
        table.add_column(heading, no_wrap=True)
    for name in dict.fromkeys(label(result) for result in rows):
        found = {r.suite: r.metrics[metric] for r in rows if label(r) == name}
        table.add_row(name, *(brief(found.get(suite)) for suite in suites))
    lengths = {r.suite: r.metrics.get("length_only_accuracy") for r in rows}
    table.add_row("longer wins", *(brief(lengths[suite]) for suite in suites), style="dim")
    console.print(table)
