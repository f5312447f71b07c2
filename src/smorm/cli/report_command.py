"""`smorm report`."""

from pathlib import Path
from typing import Annotated, Any

import typer
from typer import Argument, Option

from smorm.cli.options import File, Texts


def run(
    results: Annotated[list[Path], Argument(help="Result files, JSON.")],
    output: Annotated[Path, Option("--output", "-o", help="HTML file.")],
    title: Annotated[str, Option(help="Heading of the page.")] = "Reward model results",
    figures: Annotated[
        File, Option(help="Folder for every figure as SVG and PNG; default: beside the page.")
    ] = None,
    no_figures: Annotated[bool, Option("--no-figures", help="Write the page only.")] = False,
    baseline: Annotated[
        Texts, Option(help="Compare with this method (repeatable); default: the first, and SM.")
    ] = None,
    highlight: Annotated[Texts, Option(help="Draw this method in colour (repeatable).")] = None,
) -> None:
    """Make one HTML page of result files: findings, curves, tables, fingerprints.

    The page loads nothing from elsewhere. Results that differ in their seed only become one row,
    and methods are compared over the seeds that they have in common.
    """
    from smorm.errors import ConfigError
    from smorm.evaluation.result import read_results
    from smorm.report.page import PageOptions, write_page

    if no_figures and figures is not None:
        raise ConfigError("report: give either --figures or --no-figures")
    measured: list[dict[str, Any]] = []
    for path in results:
        measured += [result.as_dict() for result in read_results(path)]
    # Beside the page, under its name: several pages in one folder keep their figures apart.
    folder = figures or output.with_name(f"{output.stem}-figures")
    options = PageOptions(tuple(baseline or ()), tuple(highlight or ()))
    written = write_page(
        measured, output, title, figures=None if no_figures else folder, options=options
    )
    typer.echo(f"page: {output}")
    if written:
        typer.echo(f"figures: {len(written)} files in {folder}")
