"""`smorm train`."""

import os
from pathlib import Path

from typer import Argument, Option

from smorm.cli.options import Texts
from smorm.terminal import echo


def run(
    config: Path = Argument(help="YAML configuration."),
    overrides: Texts = Argument(None, help="dotted.key=value, e.g. training.seed=1"),
    resume: bool = Option(False, "--resume", help="Go on with a stopped run."),
) -> None:
    """Train a reward model from a YAML config.

    Ctrl-C, SIGTERM and SIGHUP write a checkpoint and exit with 130; --resume goes on from it, bit
    for bit on a CPU. On several devices or machines: torchrun ... -m smorm train CONFIG."""
    from smorm.config import load_config
    from smorm.training.loop import train

    folder = train(load_config(config, overrides or ()), resume=resume)
    if int(os.environ.get("RANK") or 0) == 0:  # of the processes that torchrun started, one says it
        echo(f"model: {folder}")
