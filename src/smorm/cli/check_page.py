"""The findings of `smorm check` as a page on the terminal; plain text where it is none."""

from __future__ import annotations

from typing import Any

from rich import box
from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from smorm.checks.findings import SEVERITIES, Finding
from smorm.checks.report import Report

PLAIN_WIDTH = 160
INDENT = 9
SHOWN = ("50", "95", "99")
STYLES = {"must fix": "bold red", "look": "yellow", "fine": "green"}


def print_report(report: Report) -> None:
    """What was read, every finding, the tables, and how many must be fixed."""
    console = Console(highlight=False, markup=False)
    if not console.is_terminal:
        console = Console(highlight=False, markup=False, width=PLAIN_WIDTH)
    _sources(console, report)
    for finding in report.findings:
        _finding(console, finding)
    console.print()
    _lengths(console, report)
    _attributes(console, report)
    _benchmarks(console, report)
    counts = {s: sum(f.severity == s for f in report.findings) for s in SEVERITIES}
    told = ", ".join(f"{count} {severity}" for severity, count in counts.items())
    console.print(f"{told}.", style="bold red" if report.must_fix else "bold green")


def _sources(console: Console, report: Report) -> None:
    for name, title in (("train", "data"), ("held_out", "held out")):
        paths = [s["path"] for s in report.sources if s["held_out"] == (name == "held_out")]
        if paths:
            kinds = ", ".join(f"{n:,} {kind}" for kind, n in report.records[name].items())
            text = f"{title}: {', '.join(paths)}: {kinds or 'no usable record'}"
            console.print(text, style="bold", markup=False, soft_wrap=not console.is_terminal)
    console.print()


def _finding(console: Console, finding: Finding) -> None:
    head = Text(f"{finding.severity:<{INDENT}}", style=STYLES[finding.severity])
    head.append(finding.code, style="bold")
    if finding.share is not None:
        head.append(f"  {finding.count:,} of {finding.of} ({finding.share:.1%})")
    elif finding.count and not finding.of:
        head.append(f"  {finding.count:,}")
    console.print(head, soft_wrap=True)
    lines = [Text(finding.meaning)]
    if finding.places:
        lines.append(Text(", ".join(finding.places), style="dim"))
    for line in lines:
        if console.is_terminal:
            console.print(Padding(line, (0, 0, 0, INDENT)))
        else:  # whole lines, for grep
            console.print(Text(" " * INDENT).append(line), soft_wrap=True)


def _lengths(console: Console, report: Report) -> None:
    if not report.lengths:
        return
    limit = "" if report.max_tokens is None else f", limit {report.max_tokens}"
    table = _table(f"lengths in {report.unit}{limit}")
    for heading in ("", "n", "mean", *(f"{level} %" for level in SHOWN), "most", "histogram"):
        justify = "left" if heading in ("", "histogram") else "right"
        table.add_column(heading, justify=justify, no_wrap=True)
    for name, one in report.lengths.items():
        percentiles = [f"{one['percentiles'][level]:,}" for level in SHOWN]
        cells = [f"{one['n']:,}", f"{one['mean']:.1f}", *percentiles, f"{one['max']:,}"]
        table.add_row(name, *cells, _bars(one["histogram"]))
    console.print(table)


def _bars(histogram: list[list[int]]) -> str:
    """One bar for each power of two, from the first that is not empty to the last."""
    counts = {low: count for low, _, count in histogram}
    low, end = histogram[0][0], histogram[-1][0]
    steps = [low]
    while steps[-1] < end:
        steps.append(max(1, 2 * steps[-1]))
    highest = max(counts.values())
    marks = "".join(_mark(counts.get(step, 0) / highest) for step in steps)
    return f"{low:,} {marks} {histogram[-1][1]:,}"


def _mark(share: float) -> str:
    return " " if share == 0 else "▁▂▃▄▅▆▇█"[min(7, int(share * 8))]


def _attributes(console: Console, report: Report) -> None:
    if not report.attributes:
        return
    table = _table("attributes: whole numbers, distinct values, rank correlation with length")
    for heading in ("", "n", "missing", "min", "max", "mean", "whole", "values", "length"):
        table.add_column(heading, justify="right" if heading else "left", no_wrap=not heading)
    for name, one in report.attributes.items():
        metric = report.bias.correlations.get(name)
        numbers = (f"{one[key]:.3g}" for key in ("min", "max", "mean"))
        table.add_row(
            name, f"{one['n']:,}", f"{one['missing']:,}", *numbers, f"{one['integers']:.0%}",
            f"{one['distinct']:,}", "–" if metric is None else f"{metric.value:+.2f}",
        )  # fmt: skip
    console.print(table)


def _benchmarks(console: Console, report: Report) -> None:
    if not report.benchmarks:
        return
    table = _table("items of benchmarks that share 13 words in a row with the data")
    headings = ("items", "prompts", "responses", "either")
    for heading in ("", *headings):
        table.add_column(heading, justify="right" if heading else "left")
    for name, one in report.benchmarks.items():
        table.add_row(name, *(f"{one[heading]:,}" for heading in headings))
    console.print(table)


def _table(title: str) -> Any:
    return Table(title=title, title_justify="left", header_style="bold", box=box.SIMPLE_HEAD)
