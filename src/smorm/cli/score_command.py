"""`smorm score`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from smorm.cli.options import BatchTokensOption, DeviceOption, OverlongOption
from smorm.cli.reward_options import (
    REWARD_HELP,
    CombineOption,
    KappaOption,
    StandardiseOption,
    TokenFileOption,
)

if TYPE_CHECKING:
    from smorm.rewards.ensemble import Ensemble


def run(
    rewards: Annotated[list[str], typer.Argument(help=f"{REWARD_HELP} Several with --combine.")],
    input: Annotated[str, typer.Option("--input", "-i", help="File or data set id.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Scores, JSON lines.")],
    view: Annotated[
        list[str] | None,
        typer.Option(
            "--view",
            help="F, L, M, published weights (helpsteer2-...) or a JSON file; with --combine one "
            "for all rewards or one for each.",
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
    token_file: TokenFileOption = None,
    max_batch_tokens: BatchTokensOption = 8192,
    device: DeviceOption = "cpu",
) -> None:
    """Score every line of a file, in its order.

    Each line gives {"id", "preference", "attributes", "view", "tokens", "truncated"}; a line with
    several responses (a pair, best-of-N) gives them as a list under "responses". Several rewards
    with --combine give {"id", "view", "members", "tokens", "truncated"}: all of them as one.
    """
    from smorm.cli.options import OVERLONG, choice
    from smorm.cli.reward_options import combined, open_section, sections_of, view_for
    from smorm.data.reading import Source
    from smorm.errors import ConfigError
    from smorm.rewards.ensemble import Ensemble
    from smorm.rewards.protocol import ScoringOptions
    from smorm.rewards.scores_file import score_file

    sections = sections_of(rewards, token_file)
    section = combined(sections, view, combine, kappa, standardise)
    chosen = None
    if section is None:
        if len(rewards) > 1:
            raise ConfigError(
                "several rewards: say how they become one, --combine mean, min or uwo"
            )
        if len(view or []) > 1:
            raise ConfigError("--view: several views of one reward: score once for each")
        section = sections[0]
        chosen = view_for(section, view[0]) if view else None
    policy = choice("--overlong", overlong, OVERLONG)
    options = ScoringOptions(device, max_batch_tokens, policy, (chosen,))
    on_bad: Literal["stop", "skip"] = "skip" if skip_bad else "stop"
    reward = open_section(section, options, on_bad)
    source = Source(input, format=format)
    report = score_file(reward, source, output, view=chosen, on_bad_record=on_bad)
    for name, census in report.counted.items():
        prefix = f"{name}: " if isinstance(reward, Ensemble) else ""
        for line in census.lines():
            typer.echo(f"{prefix}{line}", err=True)
    if isinstance(reward, Ensemble):
        _print_ensemble(reward, report.tokens)
    errors = f", {report.errors} without a score" if report.errors else ""
    typer.echo(f"{output}: {report.responses} responses in {report.lines} lines{errors}")


def _print_ensemble(ensemble: Ensemble, tokens: int) -> None:
    typer.echo(f"combined: {ensemble.rule.name} of")
    for facts in ensemble.facts.values():
        standard = ""
        if ensemble.standardise is not None:
            standard = f", less {facts['centre']:.4g}, over {facts['spread']:.4g}"
        typer.echo(f"  {facts['name']}: view {facts['view']}{standard}")
    typer.echo(f"{ensemble.cost()}, {tokens:,} tokens in all")
