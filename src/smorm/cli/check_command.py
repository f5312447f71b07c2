"""`smorm check`: the command and its page on the terminal; plain text where it is none."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import typer
from rich import box, text
from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from typer import Argument, Option

from smorm import terminal
from smorm.checks.findings import Finding, Severity, meaning
from smorm.cli.options import (
    ColumnsOption,
    File,
    IgnoreOption,
    Text,
    Texts,
    listed,
    parse_columns,
)
from smorm.errors import ConfigError
from smorm.files import refuse_unwritable, write_json
from smorm.printing import message

if TYPE_CHECKING:
    from smorm.checks.report import Report

PLAIN_WIDTH = 160
INDENT = 9
LEVELS = ("50", "95", "99")
STYLES = {"must fix": "bold red", "look": "yellow", "fine": "green"}
BARS = "▁▂▃▄▅▆▇█"


def run(
    data: Texts = Argument(
        None,
        help="Files, folders or data set ids to train on; with --config also dotted.key=value.",
    ),
    against: Texts = Option(
        None, help="A benchmark: its name, a path, or NAME=PATH (suite or format)."
    ),
    config: File = Option(None, help="A run's YAML: its sources, tokenizer and limits."),
    dev: Texts = Option(
        None, help="Held-out data, PATH or PATH:SPLIT, which must not be in the other."
    ),
    model: Text = Option(None, help="Model folder whose tokenizer counts the tokens."),
    max_tokens: int | None = Option(None, min=8, help="Token limit to check."),
    value_range: Texts = Option(
        None, "--range", help="NAME=LOW..HIGH: an attribute's lowest and highest value."
    ),
    output: File = Option(None, "--output", "-o", help="Findings, JSON."),
    limit: int | None = Option(None, help="The most records of a source."),
    format: str = Option("auto", help="Shape of the rows."),
    columns: ColumnsOption = None,
    ignore: IgnoreOption = None,
    attributes: Texts = Option(None, help="Flat columns of ratings: helpfulness,correctness."),
    split: str = Option("train", help="Of folders and data set ids."),
) -> None:
    """Look for faults in data before training on it.

    Each finding says how often, where, what it means and what to do. The exit code is 1 when
    something must be fixed."""
    from smorm.checks import plan as planning
    from smorm.checks.report import check

    if output is not None:
        refuse_unwritable(output)
    paths, overrides = _paths_and_overrides(data or [], config)
    if config is None and not paths:
        raise ConfigError("nothing to check: give data, or --config with a run's YAML")
    if config is not None and model is not None:
        raise ConfigError("--config and --model: give one; the config names its own tokenizer")
    # Nothing can be over a limit in tokens where tokens are not counted.
    if max_tokens is not None and config is None and model is None:
        raise ConfigError("--max-tokens: needs a tokenizer: give --config or --model")
    options = {
        "format": format,
        "split": split,
        "limit": limit,
        "columns": parse_columns(columns),
        "ignore": listed(ignore),
        "attributes": listed(attributes) or None,
    }
    sources = planning.sources_of_arguments(paths, dev or [], options)
    tokens = None
    attributes_of_run: tuple[str, ...] = ()
    # A config brings its own sources, which are checked beside those of the command line.
    if config is not None:
        from smorm.config import load_config

        loaded = load_config(config, overrides)
        sources = (*planning.sources_of_config(loaded, limit), *sources)
        tokens = planning.tokens_of_config(loaded, max_tokens)
        attributes_of_run = planning.attributes_of_config(loaded)
    elif model is not None:
        tokens = planning.tokens_of_model(model, max_tokens)
    benchmarks = tuple(map(planning.parse_against, against or []))
    ranges = dict(map(planning.parse_range, value_range or []))
    report = check(planning.Plan(sources, benchmarks, ranges, tokens, attributes_of_run))
    # Written before it is printed: a closed pipe must not lose the findings.
    if output is not None:
        write_json(output, report.as_dict())
    _print_report(report)
    if output is not None:
        terminal.echo(f"findings: {output}")
    if report.must_fix:
        raise typer.Exit(1)


def _paths_and_overrides(words: list[str], config: File) -> tuple[list[str], list[str]]:
    """The data among the words, and the overrides of the config."""
    paths: list[str] = []
    overrides: list[str] = []
    for word in words:
        # A file may be called `a=b.jsonl`: what exists is a path.
        if "=" not in word or Path(word).exists():
            paths.append(word)
        elif config is None:
            raise ConfigError(f"{word}: an override of a config's key: give --config")
        else:
            overrides.append(word)
    return paths, overrides


def _print_report(report: Report) -> None:
    console = terminal.open_console()
    # In a pipe or file a fixed width, so that tables do not depend on the caller's terminal.
    if not console.is_terminal:
        console.width = PLAIN_WIDTH
    for name, title in (("train", "data"), ("held_out", "held out")):
        held_out = name == "held_out"
        paths = [source["path"] for source in report.sources if source["held_out"] == held_out]
        if paths:
            kinds = ", ".join(f"{count:,} {kind}" for kind, count in report.records[name].items())
            line = f"{title}: {', '.join(paths)}: {kinds or 'no usable record'}"
            console.print(line, style="bold", soft_wrap=not console.is_terminal)
    console.print()
    for finding in report.findings:
        _print_finding(console, finding)
    console.print()
    _print_tables(console, report)
    counts = ", ".join(f"{report.num_findings(severity)} {severity}" for severity in Severity)
    style = "bold red" if report.must_fix else "bold green"
    console.print(f"{counts}.", style=style)


def _print_finding(console: Console, finding: Finding) -> None:
    head = text.Text(f"{finding.severity.value:<{INDENT}}", style=STYLES[finding.severity])
    head.append(finding.kind.value, style="bold")
    if finding.share is not None:
        head.append(f"  {finding.count:,} of {finding.of} ({finding.share:.1%})")
    elif finding.count and not finding.of:
        head.append(f"  {finding.count:,}")
    console.print(head, soft_wrap=True)
    lines = [text.Text(message(meaning(finding)))]
    if finding.locations:
        lines.append(text.Text(message(", ".join(finding.locations)), style="dim"))
    for line in lines:
        if console.is_terminal:
            console.print(Padding(line, (0, 0, 0, INDENT)))
        else:
            # Whole lines, for grep.
            console.print(text.Text(" " * INDENT).append(line), soft_wrap=True)


def _print_tables(console: Console, report: Report) -> None:
    if report.lengths:
        limit = ""
        if report.max_tokens is not None:
            limit = f", limit {report.max_tokens}"
        headings = ["n", "mean", *(f"{level} %" for level in LEVELS), "most", "histogram"]
        table = _table(f"lengths in {report.unit}{limit}", *headings)
        table.columns[-1].justify = "left"
        for name, lengths in report.lengths.items():
            percentiles = [f"{lengths['percentiles'][level]:,}" for level in LEVELS]
            table.add_row(
                name, f"{lengths['n']:,}", f"{lengths['mean']:.1f}", *percentiles,
                f"{lengths['max']:,}", _bars(lengths["histogram"]),
            )  # fmt: skip
        console.print(table)
    if report.attributes:
        title = "attributes: whole numbers, distinct values, rank correlation with length"
        headings = ["n", "missing", "min", "max", "mean", "whole", "values", "length"]
        with_raters = any("raters" in summary for summary in report.attributes.values())
        if with_raters:
            headings.append("raters")
        table = _table(title, *headings)
        for name, summary in report.attributes.items():
            # Without lengths there is no correlation.
            correlation = "–"
            if name in report.bias.correlations:
                correlation = f"{report.bias.correlations[name].value:+.2f}"
            cells = [
                name, f"{summary['n']:,}", f"{summary['missing']:,}", f"{summary['min']:.3g}",
                f"{summary['max']:.3g}", f"{summary['mean']:.3g}", f"{summary['integers']:.0%}",
                f"{summary['distinct']:,}", correlation,
            ]  # fmt: skip
            if with_raters:
                cells.append(f"{summary.get('raters', 1):.1f}")
            table.add_row(*cells)
        console.print(table)
    if report.benchmarks:
        headings = ["items", "prompts", "responses", "either"]
        title = "items of benchmarks that share 13 words in a row with the data"
        table = _table(title, *headings)
        for name, summary in report.benchmarks.items():
            table.add_row(name, *(f"{summary[heading]:,}" for heading in headings))
        console.print(table)


def _bars(histogram: list[list[int]]) -> str:
    """One bar for each power of two, from the first that is not empty to the last."""
    counts = {low: count for low, _, count in histogram}
    highest = max(counts.values())
    low, last, below = histogram[0][0], histogram[-1][0], histogram[-1][1]
    bars, step = "", low
    # Empty classes between full ones stay visible as gaps.
    while step <= last:
        # A space, then bars of eight heights.
        share = counts.get(step, 0) / highest
        bars += f" {BARS}"[min(8, int(share * 8) + (share > 0))]
        step = max(1, 2 * step)
    return f"{low:,} {bars} {below:,}"


def _table(title: str, *headings: str) -> Table:
    # The first column is of names, the others of numbers.
    table = Table("", title=title, title_justify="left", header_style="bold", box=box.SIMPLE_HEAD)
    for heading in headings:
        table.add_column(heading, justify="right", no_wrap=True)
    return table
