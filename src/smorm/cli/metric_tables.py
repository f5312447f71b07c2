"""Metrics of one result as tables on the terminal."""

from __future__ import annotations

import math
from collections.abc import Mapping

from rich.table import Table

from smorm.evaluation.metrics import Metric


def metric_list(title: str, metrics: Mapping[str, Metric]) -> Table:
    """One metric a line, with interval and n."""
    table = Table("", "value", "95 % interval", "n", title=title, title_justify="left")
    for name, metric in metrics.items():
        label = name.replace("_", " ")
        table.add_row(label, _number(metric.value), _interval(metric), str(metric.n))
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
        texts = [_cell(by_column.get(column)) for column in columns]
        most = max(metric.n for metric in by_column.values())
        table.add_row(row.replace("_", " "), *texts, str(most))
    return table


def _cell(metric: Metric | None) -> str:
    if metric is None:
        return "–"
    if math.isnan(metric.low):
        return _number(metric.value)
    return f"{_number(metric.value)}\n{_interval(metric)}"


def _number(value: float) -> str:
    if math.isnan(value):
        return "–"
    return "infinite" if math.isinf(value) else f"{value:.4g}"


def _interval(metric: Metric) -> str:
    return "–" if math.isnan(metric.low) else f"[{metric.low:.4g}, {metric.high:.4g}]"
