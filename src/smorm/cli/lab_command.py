"""`smorm lab`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

INTRO = """\
A generated world with known true quality: prompts ask for facts about entities, simulated \
writers answer with varying skill, and gold is a fixed function that no method sees. All methods \
start from the same pretrained policy and see the same pairs in the same order. Each is asked \
which of two answers is truly better, and each picks the best of n answers that the policy gives, \
on {regimes}."""

REGIMES = {
    "ID": "prompts as in training",
    "OODtopic": "prompts of topics never seen in the reward data",
    "OODlong": "requests longer than any seen",
    "far": "longer requests of unseen topics",
}


def introduction(regimes: Sequence[str]) -> str:
    """What a study's page says first."""
    told = [f"{REGIMES[name]} ({name})" for name in regimes]
    listed = " and ".join([", ".join(told[:-1]), told[-1]] if len(told) > 1 else told)
    return INTRO.format(regimes=listed)


def run(
    config: Annotated[
        list[str] | None,
        typer.Argument(
            help="A YAML configuration and dotted.key=value overrides, both optional: see "
            "docs/lab.md."
        ),
    ] = None,
    methods: Annotated[
        str | None, typer.Option(help="Comma-separated, the first is the baseline; default: all.")
    ] = None,
    seeds: Annotated[int | None, typer.Option(min=1, help="Runs, each with its own data.")] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Folder.")] = None,
) -> None:
    """Compare methods on a generated world: methods x seeds x regimes.

    Pretrains policies where they are missing, trains every method on the same data, measures
    accuracy and best-of-n against the true quality in and out of distribution, and writes
    results, a table and a page. What is made is kept: a call that was stopped goes on, and a
    study with other settings trains only what differs.
    """
    from smorm.config.reading import load_section, overridden, parse_section
    from smorm.lab.config import LabConfig

    given = list(config or ())
    overrides = [one for one in given if "=" in one]
    named = [one for one in given if "=" not in one]
    if len(named) > 1:
        raise typer.BadParameter(f"expected one configuration, got {' and '.join(named)}")
    names = None if methods is None else [m.strip() for m in methods.split(",")]
    chosen = {
        "methods": "all" if names == ["all"] else names,
        "seeds": seeds,
        "output": None if output is None else str(output),
    }
    overrides += [f"{key}={json.dumps(value)}" for key, value in chosen.items() if value]
    if named:
        asked = load_section(LabConfig, named[0], overrides)
    else:
        asked = parse_section(LabConfig, overridden({"output": "lab"}, overrides), "smorm lab")
    study(asked, "smorm lab")


def study(config: Any, title: str, about: str = "") -> list[Any]:
    """Run a study, write what it found, and print it."""
    from smorm.cli.lab_tables import print_study, shown_progress
    from smorm.evaluation.result import write_results
    from smorm.lab.run import run_lab, write_config
    from smorm.lab.table import write_table
    from smorm.report.page import write_page

    folder: Path = config.output
    with shown_progress() as tell:
        results = run_lab(config, tell)
    write_config(config, folder / "config.yaml")
    write_results(folder / "results.json", results)
    write_table(folder / "numbers.csv", results)
    # development pairs are for tuning: they say nothing that the evaluation pairs do not
    page = [one.as_dict() for one in results if one.suite != "pairs/development"]
    intro = introduction(config.regimes) + about
    write_page(page, folder / "report.html", title, intro, figures=folder / "figures")
    print_study(results, config)
    typer.echo(
        f"\nresults: {folder / 'results.json'}\nnumbers: {folder / 'numbers.csv'}\n"
        f"page:    {folder / 'report.html'}"
    )
    return results
