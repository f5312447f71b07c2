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
    "rm-bench": ("overall", "easy", "normal", "hard"),
}


def number(metric: Metric | None) -> str:
    """The value, and its interval on a line below."""
    if metric is None or math.isnan(metric.value):
        return "–"
    if math.isnan(metric.low):
        return f"{metric.value:.3f}"
    return f"{metric.value:.3f}\n[{metric.low:.3f}, {metric.high:.3f}]"


def print_results(results: Sequence[Result]) -> None:
    """A table per suite, and what was counted below it."""
    console = Console(soft_wrap=not Console().is_terminal)
    for suite in dict.fromkeys(result.suite for result in results):
        rows = [result for result in results if result.suite == suite]
        names = SHOWN.get(suite.partition("/")[0], tuple(rows[0].metrics))
        table = Table(title=suite, title_justify="left", header_style="bold")
        for heading in ("model", "view", *names, "n"):
            table.add_column(heading.replace("_", " "))
        for result in rows:
            cells = [number(result.metrics.get(name)) for name in names]
            first = result.metrics.get(names[0])
            table.add_row(result.model, result.view, *cells, str(first.n if first else 0))
        console.print(table)
        for note in dict.fromkeys(note for result in rows for note in result.notes):
            console.print(f"  {note}", style="dim", markup=False, highlight=False)


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
    console = Console(soft_wrap=not Console().is_terminal)
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
