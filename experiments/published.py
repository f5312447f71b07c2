"""The paper's averages beside those of result files: `python -m experiments.published RESULT...`

Prints a Markdown table. A result belongs to a row by the folder of its run (`runs/NAME`, or
`runs/NAME-1gpu` for adapters on one GPU), its suite and its view."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from experiments.tables import table
from smorm.evaluation.result import Result, read_results


@dataclass(frozen=True, slots=True)
class Published:
    """An average of the paper, in per cent, and that of its baseline; None: not found."""

    run: str
    suite: str
    view: str
    smorm: float | None
    baseline: float | None = None
    baseline_name: str = ""


# Of arXiv 2507.07375, by its public digest.
ROWS = (
    Published("gemma-2b-uf40k-helpsteer2", "rewardbench", "F", 71.0, 64.2, "Single"),
    Published("mistral-7b-uf40k-helpsteer2", "rewardbench", "L", 79.9, 66.0, "Multi"),
    Published("mistral-7b-uf40k-helpsteer2", "rm-bench", "L", 64.4, 52.0, "Multi"),
    Published("mistral-7b-uf400k-ultrafeedback", "rewardbench", "F", None),
    Published("llama-8b-skywork-helpsteer2", "rewardbench", "L", 90.4),
)
SUFFIXES = ("", "-1gpu")
METRIC = "overall"
"""The average of both benchmarks, as `smorm eval` names it."""
HEADINGS = ("run", "benchmark", "view", "paper: SMORM", "paper: baseline", "measured")


def beside_the_paper(results: Sequence[Result]) -> str:
    """The table; a run with adapters has a line of its own where it was measured."""
    lines = []
    for row in ROWS:
        for suffix in SUFFIXES:
            measured = _measured(row, row.run + suffix, results)
            if measured is None and suffix:
                continue
            baseline = _number(row.baseline)
            if row.baseline_name:
                baseline += f" ({row.baseline_name})"
            cells = [row.run + suffix, row.suite, row.view, _number(row.smorm), baseline]
            lines.append([*cells, measured or "not run"])
    return table(HEADINGS, lines)


def _measured(row: Published, run: str, results: Sequence[Result]) -> str | None:
    for result in results:
        if (result.suite, result.view) != (row.suite, row.view):
            continue
        if run in Path(result.model).parts:
            metric = result.metrics[METRIC]
            interval = f"{100 * metric.low:.1f} to {100 * metric.high:.1f}"
            return f"{100 * metric.value:.1f} ({interval}, n {metric.n})"
    return None


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table."""
    paths = sys.argv[1:] if arguments is None else arguments
    results = [result for path in paths for result in read_results(Path(path))]
    print(beside_the_paper(results))
    return 0


if __name__ == "__main__":
    sys.exit(main())
