"""`smorm relabel`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from smorm.cli.options import BatchTokensOption, DeviceOption, OverlongOption, SkipBadOption


def run(
    file: Annotated[str, typer.Argument(help="Preference pairs: a file or data set id.")],
    gold: Annotated[
        str,
        typer.Option(
            help="Model folder, http address, module:function, field:NAME of the file, or lab."
        ),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="Pairs, JSON lines.")],
    view: Annotated[str | None, typer.Option(help="Of the gold model, or server.")] = None,
    temperature: Annotated[
        float | None, typer.Option(help="Of Bradley-Terry noise, in units of the gold.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the noise.")] = 0,
    ties: Annotated[str, typer.Option(help="Pairs of equal gold: drop, or keep the label.")] = (
        "drop"
    ),
    token_file: Annotated[Path | None, typer.Option(help="Holds the server's token.")] = None,
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
    from smorm.cli.options import OVERLONG, choice, view_of
    from smorm.config import parse_section
    from smorm.data.reading import Source
    from smorm.stress.config import RewardSection, reward_of_text
    from smorm.stress.gold import open_reward
    from smorm.stress.relabel import relabel_file
    from smorm.stress.rewards import Reading

    asked = {**reward_of_text(gold), "view": view, "token_file": token_file}
    section = parse_section(RewardSection, asked, where="--gold")
    reading = Reading(device, max_batch_tokens, choice("--overlong", overlong, OVERLONG))
    report = relabel_file(
        Source(file, format=format, split=split),
        open_reward(section, reading, view_of if section.model is not None else str),
        output,
        temperature=temperature,
        seed=seed,
        ties=choice("--ties", ties, ("drop", "keep")),
        on_bad_record="skip" if skip_bad else "stop",
        skip_unscored=overlong == "drop" and section.kind == "model",
    )
    for line in report.census.lines():
        typer.echo(line, err=True)
    dropped = report.ties if temperature is None and ties == "drop" else 0
    typer.echo(
        f"{output}: {report.pairs} pairs, {report.swapped} swapped; {report.ties} ties"
        + (f" ({dropped} left out)" if dropped else "")
        + (f"; noise set {report.overturned} against the gold" if temperature is not None else "")
    )
