"""`smorm relabel`."""

from pathlib import Path

from typer import Argument, Option

from smorm.cli import options
from smorm.data.reading import Source
from smorm.terminal import echo


@options.loads_models
def run(
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
    loading: options.Loading = options.LOADING,
) -> None:
    """Swap the labels of pairs where a gold reward disagrees.

    Every field of a row is kept; gold_chosen, gold_rejected and swapped are added. With a
    temperature labels are drawn by Bradley-Terry, the same ones for the same seed and texts."""
    from smorm.files import refuse_unwritable
    from smorm.rewards.protocol import ScoringOptions
    from smorm.rewards.section import parse_reward
    from smorm.stress.proxies import open_gold
    from smorm.stress.relabel import relabel_file

    refuse_unwritable(output)
    policy = options.choice("--overlong", overlong, options.OVERLONG)
    section = parse_reward(gold, "--gold", view=view, token_file=token_file)
    scoring = ScoringOptions(
        max_batch_tokens=max_batch_tokens, overlong=policy,
        **loading.options,
    )  # fmt: skip
    reward = open_gold(section, scoring)
    report = relabel_file(
        Source(file, format=format, split=split), reward, output, temperature=temperature,
        seed=seed, ties=options.choice("--ties", ties, ("drop", "keep")),
        on_bad_record=options.ON_BAD[skip_bad],
    )  # fmt: skip
    for line in report.census.lines():
        echo(line, err=True)
    summary = f"{output}: {report.pairs} pairs, {report.swapped} swapped; {report.ties} ties"
    if temperature is not None:
        summary += f"; noise set {report.overturned} against the gold"
    elif ties == "drop" and report.ties:
        summary += f" ({report.ties} left out)"
    echo(summary)
