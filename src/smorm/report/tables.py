"""HTML tables of rows: value, interval and n in every cell. All text from outside is escaped."""

from __future__ import annotations

import html
from collections.abc import Sequence

from smorm.evaluation.metrics import Metric
from smorm.report.names import clean, show, show_interval, style_of
from smorm.report.rows import Row, separated_best


def escape(text: object) -> str:
    """Text that is safe between tags and inside quoted attributes."""
    return html.escape(clean(text), quote=True)


def metric_names(rows: Sequence[Row]) -> tuple[list[str], list[str]]:
    """The metrics of some rows: those for the table, and parts ("spearman/clarity") for below.

    A suite that has parts only shows them in its table.
    """
    names = list(dict.fromkeys(name for row in rows for name in row.metrics))
    whole = [name for name in names if "/" not in name]
    parts = [name for name in names if "/" in name]
    return (whole, parts) if whole else (parts, [])


def summary_table(rows: Sequence[Row], names: Sequence[str]) -> str:
    """Models and views as rows, metrics as columns."""
    best = {name: separated_best(rows, name) for name in names}
    lines = []
    for place, row in enumerate(rows):
        cells = "".join(cell(row, name, best[name] == place) for name in names)
        lines.append(f'<tr><th scope="row">{escape(row.label)}{row_detail(row)}</th>{cells}</tr>')
    return table(["model", *(style_of(name).heading for name in names)], lines)


def detail_table(rows: Sequence[Row], names: Sequence[str]) -> str:
    """Metrics as rows, models and views as columns: for suites with many parts."""
    lines = []
    for name in names:
        best = separated_best(rows, name)
        cells = "".join(cell(row, name, best == place) for place, row in enumerate(rows))
        heading = escape(style_of(name).heading)
        lines.append(f'<tr><th scope="row">{heading}</th>{cells}</tr>')
    return table(["metric", *(row.label for row in rows)], lines)


def table(headings: Sequence[str], lines: Sequence[str]) -> str:
    """A table that scrolls by itself where the page is narrow; `lines` are rows of HTML."""
    head = "".join(f'<th scope="col">{escape(heading)}</th>' for heading in headings)
    body = "\n".join(lines)
    return (
        f'<div class="wide" tabindex="0"><table><thead><tr>{head}</tr></thead>\n'
        f"<tbody>\n{body}\n</tbody></table></div>"
    )


def row_detail(row: Row) -> str:
    """The view, how many seeds, and where the fingerprints stand."""
    parts = [f"view {escape(row.view)}"] if row.view and row.label == row.model else []
    if row.seeds > 1:
        parts.append(f"mean of {row.seeds} seeds")
    links = " ".join(f'<a href="#source-{one}">[{one}]</a>' for one in row.sources)
    return f'<br><span class="soft">{" · ".join([*parts, links])}</span>'


def cell(row: Row, name: str, best: bool = False, *, brief: bool = False) -> str:
    """A metric's value and interval; its n too, unless `brief`."""
    metric = row.metrics.get(name)
    if metric is None:
        return '<td title="not measured">–</td>'
    style = style_of(name)
    kind = ' class="best"' if best else ""
    smallest, largest = row.sizes.get(name, (metric.n, metric.n))
    count = str(metric.n) if smallest == largest else f"{smallest}–{largest}"
    seeds = f" × {row.seeds} seeds" if row.seeds > 1 else ""
    size = "" if brief else f"<small>n = {count}{seeds}</small>"
    return (
        f"<td{kind}>{show(metric.value, style)}<small>{_interval(metric, name)}</small>{size}</td>"
    )


def _interval(metric: Metric, name: str) -> str:
    return show_interval(metric, style_of(name)) or "no interval"
