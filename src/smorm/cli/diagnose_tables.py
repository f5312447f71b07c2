"""A diagnosis on the terminal: a table for each section, what was counted, the advice."""

from __future__ import annotations

import math
from collections.abc import Mapping

from rich.console import Console
from rich.table import Table

from smorm.evaluation.metrics import Metric
from smorm.theory.run import Diagnosis

TITLES = {
    "preference": "Preference on these pairs",
    "spectrum": "Second moment of the pairs' differences, Sigma_S",
    "alpha": "alpha: attribute margins on preference pairs",
    "alpha_accuracy": "Share of pairs whose chosen response has more of it",
    "alpha_total": "Sum of the alphas",
    "c": "Theorem 1: the constant c, four ways",
    "epsilon": "Theorem 1: what the inequality says with each c",
    "within_prompt": "Preference and mean attribute within a prompt",
    "ood": "The same out of distribution",
    "probe": "Linear probes of the hidden state, on prompts not fitted on",
    "rows": "The model's own attribute rows",
    "probe_minus_rows": "Probe less own row",
    "weight": "Regression weight by maximum likelihood",
    "gradient": "Gradients of the two losses on the trunk, over batches",
    "lemma": "Lemma 1 against the gold",
    "theorem_2": "Theorem 2: matched runs",
    "view": "Views on pairs that weights did not see",
}
GRIDS = {"epsilon": 1, "ood": 0, "probe": 1, "rows": 1, "probe_minus_rows": 1}
"""Sections shown as a grid, and which part of a metric's name is the row."""


def print_diagnosis(found: Diagnosis) -> None:
    """Print it all; the advice comes last."""
    console = Console(soft_wrap=not Console().is_terminal, markup=False)
    sections: dict[str, dict[str, Metric]] = {}
    for name, metric in found.result.metrics.items():
        section, _, rest = name.partition("/")
        sections.setdefault(section, {})[rest or name] = metric
    for section, metrics in sections.items():
        console.print(_grid(section, metrics) if section in GRIDS else _list(section, metrics))
    for note in found.result.notes[: len(found.result.notes) - len(found.advice)]:
        console.print(f"  {note}", style="dim", markup=False, highlight=False)
    console.print("\nWhat follows", style="bold")
    for line in found.advice:
        console.print(f"- {line}", markup=False, highlight=False)


def _list(section: str, metrics: Mapping[str, Metric]) -> Table:
    table = Table("", "value", "95 % interval", "n", title=TITLES[section], title_justify="left")
    for name, metric in metrics.items():
        label = name.replace("_", " ")
        table.add_row(label, _digits(metric.value), _between(metric), str(metric.n))
    return table


def _grid(section: str, metrics: Mapping[str, Metric]) -> Table:
    places = [name.split("/", 1) for name in metrics]
    down = GRIDS[section]
    rows, columns = (list(dict.fromkeys(place[at] for place in places)) for at in (down, 1 - down))
    headings = [name.replace("_", " ") for name in columns]
    table = Table("", *headings, "n", title=TITLES[section], title_justify="left")
    for row in rows:
        names = ["/".join((row, one) if down == 0 else (one, row)) for one in columns]
        found = [metrics[name] for name in names if name in metrics]
        cells = [_cell(metrics.get(name)) for name in names]
        table.add_row(row.replace("_", " "), *cells, str(max(one.n for one in found)))
    return table


def _cell(metric: Metric | None) -> str:
    if metric is None or math.isnan(metric.low):
        return "–" if metric is None else _digits(metric.value)
    return f"{_digits(metric.value)}\n{_between(metric)}"


def _digits(value: float) -> str:
    if math.isnan(value):
        return "–"
    return "infinite" if math.isinf(value) else f"{value:.4g}"


def _between(metric: Metric) -> str:
    return "–" if math.isnan(metric.low) else f"[{metric.low:.4g}, {metric.high:.4g}]"
