"""`smorm report`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def run(
    results: Annotated[list[Path], typer.Argument(help="Result files, JSON.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="HTML file.")],
    title: Annotated[str, typer.Option(help="Heading of the page.")] = "Reward model results",
) -> None:
    """Make one HTML page of result files: tables, figures, notes; it loads nothing."""
    from smorm.evaluation.result import read_results
    from smorm.report.page import write_page

    found = [result.as_dict() for path in results for result in read_results(path)]
    write_page(found, output, title)
    typer.echo(f"page: {output}")
