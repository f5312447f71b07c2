"""Studies: `smorm lab` with its tables, `smorm demo`, the same in minutes, and `smorm stress`."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from typer import Argument, Option

from smorm.cli.options import File, Text, Texts
from smorm.errors import ConfigError

if TYPE_CHECKING:
    from smorm.evaluation.metrics import Metric
    from smorm.evaluation.result import Result
    from smorm.lab.config import LabConfig
    from smorm.lab.run import Step
    from smorm.lab.world_artifacts import WorldArtifacts

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


DEMO_METHODS = ["Single", "Multi", "SM", "GRM", "ODIN", "SMORM-F", "SMORM-L", "SMORM-M"]

ABOUT_DEMO = """

Single is trained on preference pairs alone, Multi on rated answers alone, SMORM on both \
together; F, L and M are SMORM's preference row, the mean of its attribute rows, and both. SM \
averages Single and Multi at two passes a score. GRM keeps a language head as a regulariser, ODIN \
takes length out of the reward.

A few seeds are an illustration: differences of a few hundredths between methods change from \
seed to seed. The command smorm lab is the same with more of everything."""


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
    study(values, "smorm lab")


def study(config: LabConfig, title: str, about: str = "") -> None:
    """Run a study, write its results, and print its tables."""
    from smorm.evaluation.result import write_results
    from smorm.lab.artifacts import describe_other_versions
    from smorm.lab.run import run_lab, write_config, write_table
    from smorm.report.page import write_page

    folder = config.output
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
        typer.echo(notice, err=True)
    typer.echo(
        f"\nresults: {folder / 'results.json'}\nnumbers: {folder / 'numbers.csv'}\n"
        f"page:    {folder / 'report.html'}"
    )


@contextmanager
def progress_bar() -> Iterator[Callable[[Step], None]]:
    """A bar with the last job and the remaining time; in a log, a line for each job."""
    from rich.console import Console
    from rich.markup import escape
    from rich.progress import BarColumn, Progress, TextColumn

    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda step: console.print(str(step), markup=False, highlight=False, soft_wrap=True)
        return
    count, title = TextColumn("{task.completed}/{task.total}"), TextColumn("{task.description}")
    with Progress(count, BarColumn(), title, console=console) as bar:
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


def demo_values(output: Path, seed: int, seeds: int) -> dict[str, Any]:
    """The demo as a configuration of `smorm lab`."""
    return {
        "output": str(output), "methods": DEMO_METHODS, "first_seed": seed, "seeds": seeds,
        "data": {"eval_pairs": 400, "eval_rated": 150}, "pools": {"prompts": 16, "answers": 128},
    }  # fmt: skip


def demo(
    output: Path = Option("demo", "--output", "-o", help="New folder."),
    seed: int = Option(0, help="The first seed of data and training."),
    seeds: int = Option(3, min=1, help="How many runs."),
) -> None:
    """See what resists reward hacking: train and compare on a small generated world.

    Trains Single, Multi, GRM, ODIN and SMORM from one small pretrained policy, lets each pick the
    best of many answers of that policy, in and out of distribution, and writes models, results and
    a page that shows the true quality of what they pick. Needs no download; takes about three
    minutes on two cores. A demo that was stopped goes on when the command is given again."""
    from smorm.config.reading import parse_section
    from smorm.lab.config import LabConfig
    from smorm.lab.world_artifacts import WorldArtifacts

    if output.is_file():
        raise ConfigError(f"--output {output}: is a file; name a new folder")
    # A demo that was stopped left its artifacts in `work`, and goes on from them.
    if output.exists() and {path.name for path in output.iterdir()} - {"work"}:
        raise ConfigError(f"--output {output}: is not empty; name a new folder, or remove it")
    started = time.monotonic()
    config = parse_section(LabConfig, demo_values(output, seed, seeds), "demo")
    study(config, "smorm demo", ABOUT_DEMO)
    publish(WorldArtifacts(config), output, seed)
    typer.echo(
        f"models:  {output / 'models'}\ndata:    {output / 'data'}\n"
        f"({time.monotonic() - started:.0f} s)"
    )


def publish(artifacts: WorldArtifacts, output: Path, seed: int) -> None:
    """Copy the first run's models and data to where recipes and readers look for them."""
    from smorm.lab.methods import needed_arms

    for name in chain.from_iterable(needed_arms(artifacts.config)):
        shutil.copytree(artifacts.arm(name, seed) / "model", output / "models" / name)
    for name, path in artifacts.data(seed).items():
        (output / "data").mkdir(exist_ok=True)
        shutil.copyfile(path, output / "data" / f"{name}.jsonl")


def stress(
    config: Path = Argument(help="YAML configuration: see docs/stress.md."),
    overrides: Texts = Argument(None, help="dotted.key=value, e.g. gold=lab"),
    output: File = Option(None, "--output", "-o", help="Results, JSON; else the config's."),
) -> None:
    """Over-optimise rewards by best-of-n, read a gold, and look for symptoms.

    Of pools of answers: gold and proxy as n grows, in closed form over all subsets; peak, fall and
    the law of over-optimisation; what the picks look like; what attack strings gain; paired
    differences to the first reward. Everything has an interval over prompts, or over seeds."""
    from smorm.cli.tables import print_results
    from smorm.config import load_section
    from smorm.evaluation.result import write_results
    from smorm.files import refuse_unwritable
    from smorm.stress.config import StressConfig
    from smorm.stress.run import run_stress

    changes = list(overrides or ())
    if output is not None:
        # As JSON, which is YAML too: a path may hold what YAML would read as something else.
        changes.append(f"output={json.dumps(str(output))}")
    section = load_section(StressConfig, config, changes)
    refuse_unwritable(section.output)
    results = run_stress(section, tell=lambda line: typer.echo(line, err=True))
    write_results(section.output, results)
    print_results(summary(results))
    typer.echo(f"results: {section.output}")


def summary(results: list[Any]) -> list[Any]:
    """What a terminal has room for: seeds put together, the curve of gold, and its sums."""
    from smorm.evaluation.metrics import Metric
    from smorm.evaluation.result import Result
    from smorm.report.rows import rows_of

    hidden = ("proxy@", "probe_wins/", "slope/distinct_2", "law/r2", "disagreement_auc@")
    summaries = []
    for row in rows_of(results):
        sizes = [name.partition("@")[2] for name in row.metrics if name.startswith("gold@")]
        visible: tuple[str, ...] = ()
        # Of what is hidden at every n the largest is shown.
        if sizes:
            visible = (f"proxy@{sizes[-1]}", f"disagreement_auc@{sizes[-1]}")
        metrics = {}
        for name, metric in row.metrics.items():
            if name.startswith(hidden) and name not in visible:
                continue
            # Sizes n double: over seeds their mean says little, and Student's t nothing.
            if row.seeds > 1 and name in ("peak", "onset"):
                metric = Metric(metric.value, metric.n)
            metrics[name] = metric
        summaries.append(Result(row.kind, row.suite, row.model, row.view, metrics, notes=row.notes))
    return summaries
