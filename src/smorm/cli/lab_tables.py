"""What `smorm lab` and `smorm demo` show: how far they are, and a table of each regime."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from smorm.cli.tables import brief
from smorm.evaluation.result import Result
from smorm.report.drawing import short
from smorm.report.rows import Row, rows_of

if TYPE_CHECKING:
    from smorm.lab.run import Tell


@contextmanager
def shown_progress() -> Iterator[Tell]:
    """A bar with what is happening and how long is left; in a log, a line for each part."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda step: console.print(str(step), markup=False, highlight=False, soft_wrap=True)
        return
    from rich.progress import BarColumn, Progress, TextColumn

    columns = (
        TextColumn("{task.completed}/{task.total}"),
        BarColumn(),
        TextColumn("{task.description}"),
    )
    with Progress(*columns, console=console) as bar:
        task = bar.add_task("starting", total=None)

        def tell(step: Any) -> None:
            _, _, said = str(step).partition("  ")
            bar.update(task, completed=step.count, total=step.total, description=escape(said))

        yield tell


def print_study(results: Sequence[Result], config: Any) -> None:
    """For each regime a row for each method: accuracy, and gold under best-of-n."""
    console = Console(soft_wrap=not Console().is_terminal, markup=False)
    rows = rows_of([one for one in results if one.kind in ("pairs", "stress")])
    for regime in config.regimes:
        console.print(_table(rows, regime, columns_of(config.sizes)))
    what = (
        "Student's t over seeds: data, prompts and training all differ between them"
        if config.seeds > 1
        else "over prompts; one seed is an illustration, not a measurement"
    )
    console.print(f"± is half a 95 % interval, {what}.", style="dim", markup=False, highlight=False)


def columns_of(sizes: Sequence[int]) -> list[str]:
    """The metrics that a terminal has room for: a few sizes n above 1, where all are alike."""
    kept = sorted({sizes[len(sizes) // 2], sizes[(3 * len(sizes)) // 4], sizes[-1]})
    return ["accuracy", *(f"gold@{size}" for size in kept)]


def _table(rows: Sequence[Row], regime: str, columns: Sequence[str]) -> Table:
    found: dict[str, dict[str, Any]] = {}
    for row in rows:
        if row.suite in (f"pairs/{regime}", f"best-of-n/{regime}"):
            found.setdefault(row.label, {}).update(row.metrics)
    title = f"{regime}: accuracy on pairs, and gold of the best of n answers"
    table = Table(title=title, title_justify="left", header_style="bold")
    for name in ("method", *columns):
        table.add_column(name, no_wrap=True)
    for label, metrics in found.items():
        table.add_row(short(label), *(brief(metrics.get(name)) for name in columns))
    return table
