"""`smorm report` and `smorm card`: what result files say, as a page and as a model card."""

from itertools import chain
from pathlib import Path

import typer
from typer import Argument, Option

from smorm.cli.options import File, Text, Texts
from smorm.errors import ConfigError


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
    from smorm.report.page import write_page

    if no_figures and figures is not None:
        raise ConfigError("report: give either --figures or --no-figures")
    measured = [result.as_dict() for result in chain.from_iterable(map(read_results, results))]
    # Beside the page, under its name: several pages in one folder keep their figures apart.
    folder = figures or output.with_name(f"{output.stem}-figures")
    written = write_page(
        measured, output, title, figures=None if no_figures else folder,
        baselines=baseline or (), highlighted=highlight or (),
    )  # fmt: skip
    typer.echo(f"page: {output}")
    if written:
        typer.echo(f"figures: {len(written)} files in {folder}")


def card(
    model: Path = Argument(help="Model folder, or its run's folder."),
    output: Path = Option(..., "--output", "-o", help="Markdown file: README.md."),
    results: list[Path] | None = Argument(None, help="Result files, JSON."),
    name: Text = Option(None, help="What the results call it; default: found by its hashes."),
    license_id: Text = Option(None, "--license", help="As the hub names it, e.g. apache-2.0."),
    language: Text = Option(None, help="Of the data, e.g. en."),
    repo: Text = Option(None, help="Where readers find it, e.g. a hub id; default: its name."),
) -> None:
    """Write a Hugging Face model card with what the files say: rows, training, results, limits.

    Nothing is loaded or run. The front matter is what the hub reads."""
    from smorm.evaluation.result import read_results
    from smorm.files import write_text
    from smorm.report.card import model_card, read_facts

    text = model_card(
        read_facts(model), list(chain.from_iterable(map(read_results, results or ()))), name=name,
        license_id=license_id, language=language, repo=repo,
    )  # fmt: skip
    write_text(output, text)
    typer.echo(f"card: {output}")
