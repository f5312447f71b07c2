"""`smorm join`."""

from pathlib import Path

from typer import Argument

from smorm.cli.score_command import print_counted, print_totals


def run(
    output: Path = Argument(help="Scores, JSON lines: the --output of the shards."),
    shards: list[Path] = Argument(
        None, help="Files of the shards; default: those beside the output."
    ),
) -> None:
    """Join what `smorm score --shards 1/n` to `n/n` wrote into the file that one process writes.

    A shard that is missing, unfinished, damaged or of another run is named, and nothing is
    written."""
    from smorm.rewards.shards import join

    report = join(output, shards or [])
    print_counted(report, by_name=len(report.counted) > 1)
    print_totals(output, report)
