"""`smorm card`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def run(
    model: Annotated[Path, typer.Argument(help="Model folder, or its run's folder.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Markdown file: README.md.")],
    results: Annotated[list[Path] | None, typer.Argument(help="Result files, JSON.")] = None,
    name: Annotated[
        str | None, typer.Option(help="What the results call it; default: found by its hashes.")
    ] = None,
    license_id: Annotated[
        str | None, typer.Option("--license", help="As the hub names it, e.g. apache-2.0.")
    ] = None,
    language: Annotated[str | None, typer.Option(help="Of the data, e.g. en.")] = None,
    place: Annotated[
        str | None,
        typer.Option("--repo", help="Where readers find it, e.g. a hub id; default: its name."),
    ] = None,
) -> None:
    """Write a Hugging Face model card with what the files say: rows, training, results, limits.

    Nothing is loaded or run. The front matter is what the hub reads.
    """
    from smorm.evaluation.result import read_results
    from smorm.files import write_text
    from smorm.report.card import CardOptions, model_card
    from smorm.report.card_facts import read_facts

    found = [result for path in results or () for result in read_results(path)]
    wishes = CardOptions(name, license_id, language, place)
    write_text(output, model_card(read_facts(model), found, wishes))
    typer.echo(f"card: {output}")
