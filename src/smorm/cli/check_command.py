"""`smorm check`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def run(
    data: Annotated[
        list[str] | None, typer.Argument(help="Files, folders or data set ids to train on.")
    ] = None,
    against: Annotated[
        list[str] | None,
        typer.Option(help="A benchmark: its name, a path, or NAME=PATH (suite or format)."),
    ] = None,
    config: Annotated[
        Path | None, typer.Option(help="A run's YAML: its sources, tokenizer and limits.")
    ] = None,
    dev: Annotated[
        list[str] | None, typer.Option(help="Held-out data, which must not be in the other.")
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="Model folder whose tokenizer counts the tokens.")
    ] = None,
    max_tokens: Annotated[int | None, typer.Option(min=8, help="Token limit to check.")] = None,
    value_range: Annotated[
        list[str] | None,
        typer.Option("--range", help="NAME=LOW..HIGH: an attribute's lowest and highest value."),
    ] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Findings, JSON.")] = None,
    limit: Annotated[int | None, typer.Option(help="The most records of a source.")] = None,
    format: Annotated[str, typer.Option("--format", help="Shape of the rows.")] = "auto",
    split: Annotated[str, typer.Option(help="Of folders and data set ids.")] = "train",
) -> None:
    """Look for faults in data before training on it.

    Each finding says how often, where, what it means and what to do. The exit code is 1 when
    something must be fixed.
    """
    from smorm.checks import plan as planning
    from smorm.checks.report import check
    from smorm.cli.check_page import print_report
    from smorm.errors import ConfigError
    from smorm.files import write_json

    if config is None and not data:
        raise ConfigError("nothing to check: give data, or --config with a run's YAML")
    if config is not None and model is not None:
        raise ConfigError("--config and --model: give one; the config names its own tokenizer")
    if max_tokens is not None and config is None and model is None:
        raise ConfigError("--max-tokens: needs a tokenizer: give --config or --model")
    options = {"format": format, "split": split, "limit": limit}
    readings = planning.readings_of(data or [], dev or [], options)
    tokens = None
    if config is not None:
        from smorm.config import load_config

        loaded = load_config(config)
        readings = (*planning.readings_of_config(loaded, limit), *readings)
        tokens = planning.tokens_of_config(loaded, max_tokens)
    elif model is not None:
        tokens = planning.tokens_of_model(model, max_tokens)
    plan = planning.Plan(
        readings,
        tuple(planning.parse_against(text) for text in against or []),
        dict(planning.parse_range(text) for text in value_range or []),
        tokens,
    )
    report = check(plan)
    if output is not None:
        write_json(output, report.as_dict())
    print_report(report)
    if output is not None:
        typer.echo(f"findings: {output}")
    if report.must_fix:
        raise typer.Exit(1)
