"""`smorm train`, and what it needs (`--plan`)."""

import os
from pathlib import Path
from typing import TYPE_CHECKING

import typer
from rich import box
from rich.table import Table
from typer import Argument, Option

from smorm.cli.options import File, Texts
from smorm.cli.tables import print_notes, terminal
from smorm.errors import ConfigError
from smorm.files import refuse_unwritable, write_json
from smorm.terminal import echo

if TYPE_CHECKING:
    from smorm.config import Config
    from smorm.training.plan import Plan, Row

PLAIN_WIDTH = 120
_BYTES = ("weights", "gradients", "moments", "gathered", "activations", "total")


def run(
    config: Path = Argument(help="YAML configuration."),
    overrides: Texts = Argument(None, help="dotted.key=value, e.g. training.seed=1"),
    resume: bool = Option(False, "--resume", help="Go on with a stopped run."),
    plan: bool = Option(
        False, "--plan", help="Say what it needs and where it fits, without weights and data."
    ),
    output: File = Option(None, "--output", "-o", help="With --plan: the plan, JSON."),
) -> None:
    """Train a reward model from a YAML config.

    Ctrl-C, SIGTERM and SIGHUP write a checkpoint and exit with 130; --resume goes on from it, bit
    for bit on a CPU. On several devices or machines: torchrun ... -m smorm train CONFIG."""
    from smorm.config import load_config

    if plan:
        if resume:
            raise ConfigError("--plan and --resume: give one")
        _plan(load_config(config, overrides or ()), output)
        return
    if output is not None:
        raise ConfigError("--output: goes with --plan; a run writes to output.folder")
    from smorm.training.loop import train

    folder = train(load_config(config, overrides or ()), resume=resume)
    if int(os.environ.get("RANK") or 0) == 0:  # of the processes that torchrun started, one says it
        echo(f"model: {folder}")


def _plan(config: "Config", output: File) -> None:
    from smorm.training.plan import plan

    if output is not None:
        refuse_unwritable(output)
    result = plan(config)
    # Written before it is printed: a closed pipe must not lose it.
    if output is not None:
        write_json(output, result.as_dict())
    _print_plan(result)
    if output is not None:
        echo(f"plan: {output}")
    if not result.fits:
        raise typer.Exit(1)


def _print_plan(plan: "Plan") -> None:
    title = f"{plan.parameters:,} parameters, {plan.trained:,} trained; GB on each device"
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("")
    table.add_column("parallel")
    for name in ("tokens", *_BYTES):
        table.add_column(name, justify="right")
    table.add_column("fits")
    for row in plan.rows:
        table.add_row(*_cells(row), style="bold" if row.configured else None)
    console = terminal()
    if not console.is_terminal:
        console.width = PLAIN_WIDTH
    console.print(table)
    print_notes(
        console, ("* the configuration's own values; tokens: max_batch_tokens", *plan.notes)
    )


def _cells(row: "Row") -> list[str]:
    name = f"{row.machine.name} *" if row.configured else row.machine.name
    sizes = row.as_dict()
    numbers = [f"{sizes[name] / 1e9:.2f}" for name in _BYTES]
    return [name, row.parallel, f"{row.tokens:,}", *numbers, "yes" if row.fits else "NO"]
