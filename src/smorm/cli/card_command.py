"""`smorm card`."""

from pathlib import Path
from typing import Annotated

import typer
from typer import Argument, Option

from smorm.cli.options import Text


def run(
    model: Annotated[Path, Argument(help="Model folder, or its run's folder.")],
    output: Annotated[Path, Option("--output", "-o", help="Markdown file: README.md.")],
    results: Annotated[list[Path] | None, Argument(help="Result files, JSON.")] = None,
    name: Annotated[
        Text, Option(help="What the results call it; default: found by its hashes.")
    ] = None,
    license_id: Annotated[
        Text, Option("--license", help="As the hub names it, e.g. apache-2.0.")
    ] = None,
    language: Annotated[Text, Option(help="Of the data, e.g. en.")] = None,
    repo: Annotated[
        Text, Option(help="Where readers find it, e.g. a hub id; default: its name.")
    ] = None,
) -> None:
    """Write a Hugging Face model card with what the files say: rows, training, results, limits.

    Nothing is loaded or run. The front matter is what the hub reads.
    """
    from smorm.evaluation.result import Result, read_results
    from smorm.files import write_text
    from smorm.report.card import CardOptions, model_card
    from smorm.report.model_facts import read_facts

    measured: list[Result] = []
    for path in results or ():
        measured += read_results(path)
    options = CardOptions(name, license_id, language, repo)
    write_text(output, model_card(read_facts(model), measured, options))
    typer.echo(f"card: {output}")
