"""`smorm score` and `smorm relabel`: every line of a file with its rewards, or their labels."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import typer
from typer import Argument, Option

from smorm.cli import options
from smorm.data.reading import Source
from smorm.errors import ConfigError

if TYPE_CHECKING:
    from smorm.rewards.ensemble import Ensemble


def run(
    rewards: list[str] = Argument(help=f"{options.REWARD_HELP} Several with --combine."),
    input: str = Option(..., "--input", "-i", help="File or data set id."),
    output: Path = Option(..., "--output", "-o", help="Scores, JSON lines."),
    view: options.Texts = Option(
        None,
        help="F, L, M, published weights (helpsteer2-...) or a JSON file; with --combine one "
        "for all rewards or one for each.",
    ),
    combine: options.CombineOption = None,
    kappa: options.KappaOption = None,
    standardise: options.StandardiseOption = None,
    format: str = Option("auto", help="Shape of the input's rows."),
    overlong: options.OverlongOption = None,
    skip_bad: bool = Option(
        False, "--skip-bad", help="Give a bad line an error object, and go on."
    ),
    token_file: options.TokenFileOption = None,
    max_batch_tokens: options.BatchTokensOption = 8192,
    device: options.DeviceOption = "cpu",
) -> None:
    """Score every line of a file, in its order.

    Each line gives {"id", "preference", "attributes", "view", "tokens", "truncated"}; a line with
    several responses (a pair, best-of-N) gives them as a list under "responses". Several rewards
    with --combine give {"id", "view", "members", "tokens", "truncated"}: all of them as one."""
    from smorm.rewards.ensemble import Ensemble
    from smorm.rewards.protocol import ScoringOptions
    from smorm.rewards.scores_file import score_file

    sections = options.sections_of(rewards, token_file)
    section = options.combined(sections, view, combine, kappa, standardise)
    chosen = None
    if section is None:
        if len(rewards) > 1:
            raise ConfigError(
                "several rewards: say how they become one, --combine mean, min or uwo"
            )
        if len(view or []) > 1:
            raise ConfigError("--view: several views of one reward: score once for each")
        section = sections[0]
        if view:
            chosen = options.view_for(section, view[0])
    policy = options.choice("--overlong", overlong, options.OVERLONG)
    scoring = ScoringOptions(device, max_batch_tokens, policy, (chosen,))
    on_bad = options.ON_BAD[skip_bad]
    reward = options.open_section(section, scoring, on_bad)
    report = score_file(
        reward, Source(input, format=format), output, view=chosen, on_bad_record=on_bad
    )
    # Each member of an ensemble counts for itself.
    for name, census in report.counted.items():
        prefix = f"{name}: " * isinstance(reward, Ensemble)
        for line in census.lines():
            typer.echo(f"{prefix}{line}", err=True)
    if isinstance(reward, Ensemble):
        _print_ensemble(reward, report.tokens)
    errors = f", {report.errors} without a score" * (report.errors > 0)
    typer.echo(f"{output}: {report.responses} responses in {report.lines} lines{errors}")


def _print_ensemble(ensemble: Ensemble, tokens: int) -> None:
    typer.echo(f"combined: {ensemble.rule.name} of")
    for facts in ensemble.facts.values():
        standard = ""
        if ensemble.standardise is not None:
            standard = f", less {facts['centre']:.4g}, over {facts['spread']:.4g}"
        typer.echo(f"  {facts['name']}: view {facts['view']}{standard}")
    typer.echo(f"{ensemble.cost()}, {tokens:,} tokens in all")


def relabel(
    file: str = Argument(help="Preference pairs: a file or data set id."),
    gold: str = Option(help=options.REWARD_HELP),
    output: Path = Option(..., "--output", "-o", help="Pairs, JSON lines."),
    view: options.Text = Option(None, help="Of the gold model, or server."),
    temperature: float | None = Option(None, help="Of Bradley-Terry noise, in units of the gold."),
    seed: int = Option(0, help="Of the noise."),
    ties: str = Option("drop", help="Pairs of equal gold: drop, or keep the label."),
    token_file: options.TokenFileOption = None,
    format: str = Option("auto", help="Shape of the rows."),
    split: str = Option("train", help="Of a data set."),
    overlong: options.OverlongOption = None,
    skip_bad: options.SkipBadOption = False,
    max_batch_tokens: options.BatchTokensOption = 8192,
    device: options.DeviceOption = "cpu",
) -> None:
    """Swap the labels of pairs where a gold reward disagrees.

    Every field of a row is kept; gold_chosen, gold_rejected and swapped are added. With a
    temperature labels are drawn by Bradley-Terry, the same ones for the same seed and texts."""
    from smorm.rewards.protocol import ScoringOptions
    from smorm.rewards.section import parse_reward
    from smorm.stress.proxies import open_gold
    from smorm.stress.relabel import relabel_file

    policy = options.choice("--overlong", overlong, options.OVERLONG)
    section = parse_reward(gold, "--gold", view=view, token_file=token_file)
    reward = open_gold(section, ScoringOptions(device, max_batch_tokens, policy))
    report = relabel_file(
        Source(file, format=format, split=split), reward, output, temperature=temperature,
        seed=seed, ties=options.choice("--ties", ties, ("drop", "keep")),
        on_bad_record=options.ON_BAD[skip_bad],
        skip_unscored=overlong == "drop" and reward.drops_overlong,
    )  # fmt: skip
    for line in report.census.lines():
        typer.echo(line, err=True)
    summary = f"{output}: {report.pairs} pairs, {report.swapped} swapped; {report.ties} ties"
    if temperature is not None:
        summary += f"; noise set {report.overturned} against the gold"
    elif ties == "drop" and report.ties:
        summary += f" ({report.ties} left out)"
    typer.echo(summary)
