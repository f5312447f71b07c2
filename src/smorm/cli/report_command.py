"""`smorm report`."""

from itertools import chain
from pathlib import Path

from typer import Argument, Option

from smorm.cli.options import File, Texts
from smorm.errors import ConfigError
from smorm.terminal import echo


def run(
    results: list[Path] = Argument(help="Result files, JSON."),
    output: Path = Option(..., "--output", "-o", help="HTML file."),
    title: str = Option("Reward model results", help="Heading of the page."),
    figures: File = Option(
        None, help="Folder for every figure as SVG and PNG; default: beside the page."
    ),
    no_figures: bool = Option(False, "--no-figures", help="Write the page only."),
    baseline: Texts = Option(
        None, help="Compare with this method (repeatable); default: the first, and SM."
    ),
    highlight: Texts = Option(None, help="Draw this method in colour (repeatable)."),
) -> None:
    """Make one HTML page of result files: findings, curves, tables, fingerprints.

    The page loads nothing from elsewhere. Results that differ in their seed only become one row,
    and methods are compared over the seeds that they have in common."""
    from smorm.evaluation.result import read_results
    from smorm.files import is_stream, refuse_unwritable
    from smorm.report.page import write_page

    if no_figures and figures is not None:
        raise ConfigError("report: give either --figures or --no-figures")
    refuse_unwritable(output)
    # Beside a device or pipe no folder can be.
    no_figures = no_figures or (figures is None and is_stream(output))
    # Beside the page, under its name: several pages in one folder keep their figures apart.
    folder = figures or output.with_name(f"{output.stem}-figures")
    if not no_figures:
        refuse_unwritable(folder / "figure.svg")
    measured = [result.as_dict() for result in chain.from_iterable(map(read_results, results))]
    written = write_page(
        measured, output, title, figures=None if no_figures else folder,
        baselines=baseline or (), highlighted=highlight or (),
    )  # fmt: skip
    echo(f"page: {output}")
    if written:
        echo(f"figures: {len(written)} files in {folder}")
