"""`smorm score`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from smorm.cli.ensemble_options import CombineOption, KappaOption, StandardiseOption
from smorm.cli.options import BatchTokensOption, DeviceOption, OverlongOption

if TYPE_CHECKING:
    from smorm.data.reading import Source
    from smorm.scoring.ensemble import Rule


def run(
    models: Annotated[list[str], typer.Argument(help="Model folder; several with --combine.")],
    input: Annotated[str, typer.Option("--input", "-i", help="File or data set id.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Scores, JSON lines.")],
    view: Annotated[
        list[str] | None,
        typer.Option(
            "--view",
            help="F, L, M, published weights (helpsteer2-...) or a JSON file; with --combine one "
            "for all models or one for each.",
        ),
    ] = None,
    combine: CombineOption = None,
    kappa: KappaOption = None,
    standardise: StandardiseOption = None,
    format: Annotated[str, typer.Option("--format", help="Shape of the input's rows.")] = "auto",
    overlong: OverlongOption = None,
    skip_bad: Annotated[
        bool, typer.Option("--skip-bad", help="Give a bad line an error object, and go on.")
    ] = False,
    max_batch_tokens: BatchTokensOption = 8192,
    device: DeviceOption = "cpu",
) -> None:
    """Score every line of a file, in its order.

    Each line gives {"id", "preference", "attributes", "view", "tokens", "truncated"}; a line with
    several responses (a pair, best-of-N) gives them as a list under "responses". Several models
    with --combine give {"id", "view", "members", "tokens", "truncated"}: their rewards as one.
    """
    from smorm.cli.ensemble_options import rule_of
    from smorm.cli.options import OVERLONG, choice
    from smorm.data.reading import Source
    from smorm.errors import ConfigError

    rule = rule_of(combine, kappa, standardise)
    options: dict[str, Any] = {
        "overlong": choice("--overlong", overlong, OVERLONG),
        "on_bad_record": "skip" if skip_bad else "stop",
        "max_batch_tokens": max_batch_tokens,
    }
    source = Source(input, format=format)
    if rule is not None:
        _together(models, view, rule, standardise, source, output, device, options)
        return
    if len(models) > 1:
        raise ConfigError("several models: say how they become one, --combine mean, min or uwo")
    if len(view or []) > 1:
        raise ConfigError("--view: several views of one model: score once for each")
    _alone(models[0], (view or [None])[0], source, output, device, options)  # type: ignore[list-item]


def _alone(
    path: str, view: str | None, source: Source, output: Path, device: str, options: dict[str, Any]
) -> None:
    """Score by one model."""
    from smorm.cli.options import view_of
    from smorm.scoring.jobs import score_file
    from smorm.scoring.reward_model import RewardModel

    model = RewardModel.load(path, device=device)
    report = score_file(model, source, output, view=view_of(view), **options)
    for line in report.census.lines():
        typer.echo(line, err=True)
    typer.echo(_told(output, report))


def _together(
    paths: list[str],
    views: list[str] | None,
    rule: Rule,
    standardise: str | None,
    source: Source,
    output: Path,
    device: str,
    options: dict[str, Any],
) -> None:
    """Score by several models as one."""
    from smorm.cli.ensemble_options import members_of, standard_of_file
    from smorm.scoring.ensemble_jobs import cost_of, score_file_together

    specs = members_of(paths, views)
    standard = standard_of_file(standardise, rule, **options)
    report = score_file_together(
        specs, rule, source, output, device=device, standardise=standard, **options
    )
    typer.echo(f"combined: {rule.name} of")
    for member in report.members:
        for line in member.counted:
            typer.echo(f"{member.name}: {line}", err=True)
        place = member.standard
        told = f", less {place.centre:.4g}, over {place.spread:.4g}" if standardise else ""
        typer.echo(f"  {member.name}: view {member.view}{told}")
    typer.echo(f"{cost_of(report.members)}, {report.tokens:,} tokens in all")
    typer.echo(_told(output, report))


def _told(output: Path, report: Any) -> str:
    """How many responses and lines were scored."""
    errors = f", {report.errors} without a score" if report.errors else ""
    return f"{output}: {report.responses} responses in {report.lines} lines{errors}"
