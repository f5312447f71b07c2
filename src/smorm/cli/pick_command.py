"""`smorm pick`."""

from __future__ import annotations

import math
from pathlib import Path

from typer import Argument, Option

from smorm.cli import options
from smorm.data.reading import Source
from smorm.errors import ConfigError
from smorm.terminal import echo


def run(
    scores: Path = Argument(help="What smorm score wrote."),
    input: str = Option(..., "--input", "-i", help="The file or data set that was scored."),
    output: Path = Option(..., "--output", "-o", help="What was picked, JSON lines."),
    best: bool = Option(False, "--best", help="The best answer of each line."),
    worst: bool = Option(False, "--worst", help="The worst answer of each line."),
    pairs: bool = Option(False, "--pairs", help="The best beside the worst, with their margin."),
    as_rated: str | None = Option(
        None, help="All answers, rated by their scores: the name of the attribute."
    ),
    min_margin: float = Option(0.0, help="Of pairs: leave out those of a smaller margin."),
    format: str = Option("auto", help="Shape of the input's rows."),
    columns: options.ColumnsOption = None,
) -> None:
    """Pick answers by their scores, for rejection sampling, DPO or distillation.

    --best and --worst give {"id", "prompt", "response", "score"} a line, --pairs {"id", "prompt",
    "chosen", "rejected", "margin"}, --as-rated each answer as {"id", "prompt", "response",
    "scores": {NAME: score}} for smorm train. Scores are the view's. Answers without a score are
    left out and counted, and so are lines of equal scores that give no pair. Scores of another
    input are refused."""
    from smorm.scoring.pick import Choice, pick_file

    chosen: list[Choice] = []
    if best:
        chosen.append("best")
    if worst:
        chosen.append("worst")
    if pairs:
        chosen.append("pairs")
    if len(chosen) + (as_rated is not None) != 1:
        raise ConfigError("say what to pick: one of --best, --worst, --pairs and --as-rated")
    if min_margin and not pairs:
        raise ConfigError("--min-margin is for --pairs")
    if not 0 <= min_margin < math.inf:
        raise ConfigError(f"--min-margin {min_margin:g}: expected 0 or more")
    source = Source(input, format, columns=options.parse_columns(columns))
    if as_rated is not None:
        from smorm.cli.score_command import print_rated
        from smorm.scoring.as_rated import rated_file

        print_rated(output, rated_file(scores, source, output, as_rated))
        return
    report = pick_file(scores, source, output, chosen[0], min_margin=min_margin)
    for line in report.counted.lines():
        echo(line, err=True)
    echo(f"{output}: {report.picked:,} of {report.lines:,} lines give a row")
