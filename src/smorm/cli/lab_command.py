"""`smorm lab`: a study of methods on the generated world, and its tables."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from typing import TYPE_CHECKING, Any

import typer
from typer import Argument, Option

from smorm.cli.options import File, Text, Texts
from smorm.locks import only_run
from smorm.terminal import echo, open_console

if TYPE_CHECKING:
    from smorm.evaluation.metrics import Metric
    from smorm.evaluation.result import Result
    from smorm.lab.config import LabConfig
    from smorm.lab.run import Step

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


def run(
    config: Texts = Argument(
        None,
        help="A YAML configuration and dotted.key=value overrides, both optional: see docs/lab.md.",
    ),
    methods: Text = Option(None, help="Comma-separated, the first is the baseline; default: all."),
    seeds: int | None = Option(None, min=1, help="Runs, each with its own data."),
    output: File = Option(None, "--output", "-o", help="Folder."),
) -> None:
    """Compare methods on a generated world: methods x seeds x regimes.

    Pretrains policies where they are missing, trains every method on the same data, measures
    accuracy and best-of-n against the true quality in and out of distribution, and writes
    results, a table and a page. What is made stays: a call that was stopped goes on, and a
    study with other settings trains only what differs."""
    from smorm.config.reading import load_section, overridden, parse_section
    from smorm.lab.config import LabConfig

    arguments = config or []
    overrides = [argument for argument in arguments if "=" in argument]
    paths = [argument for argument in arguments if "=" not in argument]
    if len(paths) > 1:
        raise typer.BadParameter(f"expected one configuration, got {' and '.join(paths)}")
    # Options override as `key=value` too, in JSON, which YAML reads.
    if methods is not None:
        names: Any = [name.strip() for name in methods.split(",")]
        if names == ["all"]:
            names = "all"
        overrides.append(f"methods={json.dumps(names)}")
    if seeds is not None:
        overrides.append(f"seeds={seeds}")
    if output is not None:
        overrides.append(f"output={json.dumps(str(output))}")
    if paths:
        values = load_section(LabConfig, paths[0], overrides)
    else:
        values = parse_section(LabConfig, overridden({"output": "lab"}, overrides), "smorm lab")
    with only_run(values.output, "output"):
        study(values, "smorm lab")


def study(config: LabConfig, title: str, about: str = "") -> None:
    """Run a study, write its results, and print its tables."""
    from smorm.evaluation.result import write_results
    from smorm.files import refuse_unwritable, refuse_unwritable_folder
    from smorm.lab.artifacts import describe_other_versions
    from smorm.lab.run import run_lab, write_config, write_table
    from smorm.report.page import write_page

    folder = config.output
    for path in (folder / "results.json", folder / "figures" / "figure.svg"):
        refuse_unwritable(path)
    refuse_unwritable_folder(config.work_folder / "arms")
    with progress_bar() as on_step:
        results = run_lab(config, on_step)
    write_config(config, folder / "config.yaml")
    write_results(folder / "results.json", results)
    write_table(folder / "numbers.csv", results)
    # Development pairs are for tuning: they say nothing that the evaluation pairs do not.
    page = [result.as_dict() for result in results if result.suite != "pairs/development"]
    *regimes, last = [f"{REGIMES[name]} ({name})" for name in config.regimes]
    if regimes:
        last = f"{', '.join(regimes)} and {last}"
    intro = INTRO.format(regimes=last) + about
    write_page(page, folder / "report.html", title, intro, figures=folder / "figures")
    print_study(results, config)
    of_seeds: dict[int, list[Any]] = {}
    for result in results:
        of_seeds[result.fingerprint["seed"]] = result.fingerprint.get("artifacts", [])
    if notice := describe_other_versions(config.work_folder, chain(*of_seeds.values())):
        echo(notice, err=True)
    echo(
        f"\nresults: {folder / 'results.json'}\nnumbers: {folder / 'numbers.csv'}\n"
        f"page:    {folder / 'report.html'}"
    )


@contextmanager
def progress_bar() -> Iterator[Callable[[Step], None]]:
    """A bar with the last job and the remaining time; in a log, a line for each job."""
    from rich.markup import escape
    from rich.progress import BarColumn, Progress, TextColumn

    if not sys.stderr.isatty():
        yield lambda step: echo(step, err=True)
        return
    count, title = TextColumn("{task.completed}/{task.total}"), TextColumn("{task.description}")
    with Progress(count, BarColumn(), title, console=open_console(stderr=True)) as bar:
        task = bar.add_task("starting", total=None)
        yield lambda step: bar.update(
            task, completed=step.count, total=step.total, description=escape(step.text)
        )


def print_study(results: Sequence[Result], config: LabConfig) -> None:
    """For each regime a row for each method: accuracy, and gold under best-of-n."""
    from rich.table import Table

    from smorm.cli.tables import brief, terminal
    from smorm.report.blocks import short
    from smorm.report.rows import rows_of

    console, sizes = terminal(), config.sizes
    # A terminal has room for a few sizes n; at 1 all methods are alike.
    chosen = sorted({sizes[len(sizes) // 2], sizes[(3 * len(sizes)) // 4], sizes[-1]})
    columns = ["accuracy", *(f"gold@{size}" for size in chosen)]
    rows = rows_of([result for result in results if result.kind in ("pairs", "stress")])
    for regime in config.regimes:
        by_label: dict[str, dict[str, Metric]] = {}
        for row in rows:
            if row.suite in (f"pairs/{regime}", f"best-of-n/{regime}"):
                by_label.setdefault(row.label, {}).update(row.metrics)
        title = f"{regime}: accuracy on pairs, and gold of the best of n answers"
        table = Table(title=title, title_justify="left", header_style="bold")
        for name in ("method", *columns):
            table.add_column(name, no_wrap=True)
        for label, metrics in by_label.items():
            table.add_row(short(label), *(brief(metrics.get(name)) for name in columns))
        console.print(table)
    what = "over prompts; one seed is an illustration, not a measurement"
    if config.seeds > 1:
        what = "Student's t over seeds: data, prompts and training all differ between them"
    console.print(f"± is half a 95 % interval, {what}.", style="dim")
