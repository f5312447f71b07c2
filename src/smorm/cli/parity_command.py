"""`smorm parity`."""

from __future__ import annotations

import logging
import math
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer import Argument, Option

from smorm.cli.options import DeviceOption, File, ResultOption, Text

if TYPE_CHECKING:
    from smorm.evaluation.parity.check import Parity
    from smorm.evaluation.parity.paths import PathResult
    from smorm.scoring.reward_model import RewardModel

DTYPES = ("float32", "bfloat16")
_SAME_TOKENS = {True: "equal", False: "differ", None: "–"}


def run(
    model: Annotated[str, Argument(help="Model folder, ours or any reward model's.")],
    target: Annotated[str, Argument(help="Exported folder, or a server's http address.")],
    view: Annotated[
        Text, Option(help="The view that the target gives; default: what it says, or the model's.")
    ] = None,
    conversations: Annotated[
        Text, Option(help="File of conversations; default: 64 that come with smorm.")
    ] = None,
    dtype: Annotated[str, Option(help="float32 or bfloat16, for both sides.")] = "float32",
    gate: Annotated[
        float | None,
        Option(
            help="Largest difference, in standard deviations of the scores; default: 1e-5, or "
            "0.02 in bfloat16."
        ),
    ] = None,
    token_file: Annotated[File, Option(help="File that holds the server's bearer token.")] = None,
    protocol: Annotated[str, Option(help="auto, smorm, vllm or sglang.")] = "auto",
    timeout: Annotated[float, Option(help="Seconds that a request may take.")] = 60.0,
    device: DeviceOption = "cpu",
    output: ResultOption = None,
) -> None:
    """Compare a model's scores with an export's or a server's.

    The same conversations go through training's path, scoring's in every layout, and the target:
    plain transformers with both padding sides, or each endpoint of a server. Exit code 1 when a
    score differs by more than the gate; the likely cause is named.
    """
    from smorm.cli.options import choice, view_of
    from smorm.errors import ConfigError, SmormError
    from smorm.rewards.server import RewardClient, read_token
    from smorm.scoring.reward_model import RewardModel

    logging.getLogger("httpx2").setLevel(logging.WARNING)  # it logs every request
    kind: Any = choice("--dtype", dtype, DTYPES)
    for name, number in (("--gate", gate), ("--timeout", timeout)):
        if number is not None and not 0 < number < math.inf:
            raise ConfigError(f"{name} {number:g}: expected a number above 0")
    # From a file: as an option the token would stand in lists of processes.
    token = read_token(token_file, "--token-file") if token_file else None
    requested = view_of(view)
    loaded = RewardModel.load(model, device=device, dtype=kind)
    if "://" in target:
        from smorm.evaluation.parity.check import against_server

        with RewardClient(
            target, protocol, token, timeout,
            views=[loaded.view(requested).name], renderer=loaded.renderer,
        ) as remote:  # fmt: skip
            ours = _measured(loaded, conversations)
            parity = against_server(ours, remote, requested, gate=gate)
    else:
        from smorm.evaluation.parity.check import against_folder
        from smorm.model.store import resolve

        resolve(target)  # refused before our own paths, which take a while
        ours = _measured(loaded, conversations)
        parity = against_folder(ours, target, requested, gate=gate)
    print_parity(parity)
    if output is not None:
        parity.as_result().write(output)
        typer.echo(f"result: {output}")
    if not parity.passed:
        raise SmormError("\n  ".join(["parity fails:", *map(str, parity.failures)]))


def _measured(model: RewardModel, conversations: str | None) -> Any:
    """The model's own paths over the conversations of a file, or the committed ones."""
    from smorm.data.census import Census
    from smorm.evaluation.parity.check import measure_model
    from smorm.evaluation.parity.conversations import built_in, from_file

    census = Census()
    if conversations is None:
        compared = built_in(model.renderer, census)
    else:
        compared = from_file(conversations, model.renderer, census)
    return measure_model(model, compared, census.lines())


def print_parity(parity: Parity) -> None:
    """A row a path (largest difference, also in std, and where it is), then the notes."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    console = Console(soft_wrap=not Console().is_terminal, markup=False)
    title = f"{parity.comparison.ours.model.name} against {parity.target}"
    table = Table(title=title, title_justify="left", header_style="bold", box=box.SIMPLE)
    for heading in ("path", "difference", "in std", "worst", "tokens", ""):
        table.add_column(heading, overflow="fold")
    for row in parity.rows:
        if row.passed:
            table.add_row(*_cells(row), "ok")
        else:
            table.add_row(*_cells(row), "FAILS", style="red")
    console.print(table)
    for note in parity.notes:
        console.print(f"  {note}", style="dim", markup=False, highlight=False)


def _cells(row: PathResult) -> tuple[str, str, str, str, str]:
    tokens = _SAME_TOKENS[row.same_tokens]
    if row.worst is None:
        return row.path.name, "–", "–", "–", tokens
    worst = str(row.worst + 1) if row.difference else "–"
    return row.path.name, f"{row.difference:.1e}", f"{row.in_stds:.1e}", worst, tokens
