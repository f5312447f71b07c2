"""`smorm parity`."""

from __future__ import annotations

import logging
import math
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from smorm.cli.options import DeviceOption

if TYPE_CHECKING:
    from smorm.evaluation.parity import Parity
    from smorm.scoring.remote import RemoteReward
    from smorm.scoring.reward_model import RewardModel

DTYPES = ("float32", "bfloat16")


def run(
    model: Annotated[str, typer.Argument(help="Model folder, ours or any reward model's.")],
    target: Annotated[str, typer.Argument(help="Exported folder, or a server's http address.")],
    view: Annotated[
        str | None,
        typer.Option(help="The view that the target gives; default: what it says, or the model's."),
    ] = None,
    conversations: Annotated[
        str | None, typer.Option(help="File of conversations; default: 64 that come with smorm.")
    ] = None,
    dtype: Annotated[str, typer.Option(help="float32 or bfloat16, for both sides.")] = "float32",
    gate: Annotated[
        float | None,
        typer.Option(help="Largest difference, in spreads; default: 1e-5, or 0.02 in bfloat16."),
    ] = None,
    token_file: Annotated[
        Path | None, typer.Option(help="File that holds the server's bearer token.")
    ] = None,
    protocol: Annotated[str, typer.Option(help="auto, smorm, vllm or sglang.")] = "auto",
    timeout: Annotated[float, typer.Option(help="Seconds that a request may take.")] = 60.0,
    device: DeviceOption = "cpu",
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Result, JSON.")] = None,
) -> None:
    """Compare a model's scores with an export's or a server's.

    The same conversations go through training's path, scoring's in every layout, and the target:
    plain transformers with both padding sides, or each endpoint of a server. Exit code 1 when a
    score differs by more than the gate; the likely cause is named.
    """
    from smorm.cli.options import choice, view_of
    from smorm.errors import ConfigError, SmormError
    from smorm.scoring.reward_model import RewardModel

    logging.getLogger("httpx2").setLevel(logging.WARNING)  # it tells every request
    kind: Any = choice("--dtype", dtype, DTYPES)
    for name, number in (("--gate", gate), ("--timeout", timeout)):
        if number is not None and not 0 < number < math.inf:
            raise ConfigError(f"{name} {number:g}: expected a number above 0")
    asked_view, token = view_of(view), _token(token_file)
    loaded = RewardModel.load(model, device=device, dtype=kind)
    with ExitStack() as stack:
        remote = None
        if "://" in target:
            from smorm.scoring.remote import RemoteReward

            given = {"view": loaded.view(asked_view).name, "renderer": loaded.renderer}
            remote = RemoteReward(target, protocol, token, timeout, **given)  # type: ignore[arg-type]
            stack.enter_context(remote)
        found = _compare(loaded, target, remote, asked_view, conversations, gate)
    print_parity(found)
    if output is not None:
        found.as_result().write(output)
        typer.echo(f"result: {output}")
    if not found.passed:
        raise SmormError("\n  ".join(["parity fails:", *map(str, found.failures)]))


def _compare(
    model: RewardModel,
    target: str,
    remote: RemoteReward | None,
    view: Any,
    conversations: str | None,
    gate: float | None,
) -> Parity:
    from smorm.data.census import Census
    from smorm.evaluation.conversations import built_in, from_file
    from smorm.evaluation.parity import against_folder, against_server, measure_ours
    from smorm.model.store import resolve

    if remote is None:
        resolve(target)  # before our own paths, which take a while
    census, renderer = Census(), model.renderer
    asked = (
        built_in(renderer, census)
        if conversations is None
        else from_file(conversations, renderer, census)
    )
    ours = measure_ours(model, asked, census.lines())
    if remote is None:
        return against_folder(ours, target, view, gate=gate)
    return against_server(ours, remote, view, gate=gate)


def _token(path: Path | None) -> str | None:
    """A token from its file, so that it stands in no list of processes."""
    from smorm.errors import ConfigError

    if path is None:
        return None
    try:
        return path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"--token-file {path}: cannot be read: {error}") from error


def print_parity(found: Parity) -> None:
    """A row a path (its largest difference, the same in units of the scores' spread, the
    conversation that differs most), then what was counted."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    console = Console(soft_wrap=not Console().is_terminal, markup=False)
    title = f"{found.comparison.ours.model.name} against {found.target}"
    table = Table(title=title, title_justify="left", header_style="bold", box=box.SIMPLE)
    for heading in ("path", "difference", "spreads", "worst", "tokens", ""):
        table.add_column(heading, overflow="fold")
    known = {True: "equal", False: "differ", None: "–"}
    for row in found.rows:
        gave = row.worst is not None
        table.add_row(
            row.path.name,
            f"{row.difference:.1e}" if gave else "–",
            f"{row.in_spreads:.1e}" if gave else "–",
            str(row.worst + 1) if row.worst is not None and row.difference else "–",
            known[row.same_tokens],
            "ok" if row.passed else "FAILS",
            style=None if row.passed else "red",
        )
    console.print(table)
    for note in found.notes:
        console.print(f"  {note}", style="dim", markup=False, highlight=False)
