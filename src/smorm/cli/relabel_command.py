"""`smorm relabel`."""

from pathlib import Path
from typing import Annotated

import typer

from smorm.cli.options import BatchTokensOption, DeviceOption, OverlongOption, SkipBadOption
from smorm.cli.reward_options import REWARD_HELP, TokenFileOption


def run(
    file: Annotated[str, typer.Argument(help="Preference pairs: a file or data set id.")],
    gold: Annotated[str, typer.Option(help=REWARD_HELP)],
    output: Annotated[Path, typer.Option("--output", "-o", help="Pairs, JSON lines.")],
    view: Annotated[str | None, typer.Option(help="Of the gold model, or server.")] = None,
    temperature: Annotated[
        float | None, typer.Option(help="Of Bradley-Terry noise, in units of the gold.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the noise.")] = 0,
    ties: Annotated[str, typer.Option(help="Pairs of equal gold: drop, or keep the label.")] = (
        "drop"
    ),
    token_file: TokenFileOption = None,
    format: Annotated[str, typer.Option("--format", help="Shape of the rows.")] = "auto",
    split: Annotated[str, typer.Option(help="Of a data set.")] = "train",
    overlong: OverlongOption = None,
    skip_bad: SkipBadOption = False,
    max_batch_tokens: BatchTokensOption = 8192,
    device: DeviceOption = "cpu",
) -> None:
    """Swap the labels of pairs where a gold reward disagrees.

    Every field of a row is kept; gold_chosen, gold_rejected and swapped are added. With a
    temperature labels are drawn by Bradley-Terry, the same ones for the same seed and texts.
    """
    from smorm.cli.options import OVERLONG, choice
    from smorm.data.reading import Source
    from smorm.rewards.protocol import ScoringOptions
    from smorm.rewards.section import parse_reward
    from smorm.stress.proxies import open_gold
    from smorm.stress.relabel import relabel_file

    section = parse_reward(gold, "--gold", view=view, token_file=token_file)
    options = ScoringOptions(device, max_batch_tokens, choice("--overlong", overlong, OVERLONG))
    reward = open_gold(section, options)
    report = relabel_file(
        Source(file, format=format, split=split),
        reward,
        output,
        temperature=temperature,
        seed=seed,
        ties=choice("--ties", ties, ("drop", "keep")),
        on_bad_record="skip" if skip_bad else "stop",
        skip_unscored=overlong == "drop" and reward.drops_overlong,
    )
    for line in report.census.lines():
        typer.echo(line, err=True)
    summary = f"{output}: {report.pairs} pairs, {report.swapped} swapped; {report.ties} ties"
    if temperature is not None:
        summary += f"; noise set {report.overturned} against the gold"
    elif ties == "drop" and report.ties:
        summary += f" ({report.ties} left out)"
    typer.echo(summary)
