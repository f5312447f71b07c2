"""`smorm card`."""

from itertools import chain
from pathlib import Path

from typer import Argument, Option

from smorm.cli.options import Text
from smorm.terminal import echo


def run(
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
    from smorm.files import refuse_unwritable, write_text
    from smorm.report.card import model_card
    from smorm.report.facts import read_facts

    refuse_unwritable(output)
    text = model_card(
        read_facts(model), list(chain.from_iterable(map(read_results, results or ()))), name=name,
        license_id=license_id, language=language, repo=repo,
    )  # fmt: skip
    write_text(output, text)
    echo(f"card: {output}")
