"""`smorm parity`."""

from __future__ import annotations

import logging
import math
from typing import TYPE_CHECKING, Any

from rich import box
from rich.table import Table
from typer import Argument, Option

from smorm.cli import options
from smorm.cli.options import File, ResultOption, StepOption, Text, Texts, at_step, view_of
from smorm.errors import ConfigError, SmormError
from smorm.terminal import echo

if TYPE_CHECKING:
    from smorm.evaluation.parity.check import Parity
    from smorm.scoring.reward_model import RewardModel

_SAME_TOKENS = {True: "equal", False: "differ", None: "–"}


@options.loads_models
def run(
    model: str = Argument(help="Model folder, ours or any reward model's."),
    target: Text = Argument(
        None, help="Exported folder, or a server's http address; with --as the model by default."
    ),
    clients: Texts = Option(
        None,
        "--as",
        help="verl, openrlhf, llamafactory, vllm, sglang or trl: the tokens that it "
        "makes, offline. May be repeated.",
    ),
    view: Text = Option(
        None, help="The view that the target gives; default: what it says, or the model's."
    ),
    conversations: Text = Option(
        None, help="File of conversations; default: 72 that come with smorm."
    ),
    gate: float | None = Option(
        None,
        help="Largest difference, in standard deviations of the scores; default: 1e-5, or "
        "0.02 in bfloat16.",
    ),
    token_file: File = Option(None, help="File that holds the server's bearer token."),
    protocol: str = Option("auto", help="auto, smorm, vllm or sglang."),
    timeout: float = Option(60.0, help="Seconds that a request may take."),
    step: StepOption = None,
    loading: options.Loading = options.LOADING,
    output: ResultOption = None,
) -> None:
    """Compare a model's scores with an export's or a server's.

    The same conversations go through training's path, scoring's in every layout, and the target:
    plain transformers with both padding sides, or each endpoint of a server. With --as a folder is
    given the tokens that a client's program would make. Exit code 1 when a score differs by more
    than the gate, or a client's tokens differ; the likely cause is named."""
    from smorm.client import RewardClient
    from smorm.client.transport import read_token
    from smorm.evaluation.parity.clients import clients_of
    from smorm.files import refuse_unwritable
    from smorm.scoring.reward_model import RewardModel

    logging.getLogger("httpx2").setLevel(logging.WARNING)  # it logs every request
    for name, number in (("--gate", gate), ("--timeout", timeout)):
        if number is not None and not 0 < number < math.inf:
            raise ConfigError(f"{name} {number:g}: expected a number above 0")
    chosen = clients_of(clients or [])
    if target is None and not chosen:
        raise ConfigError("parity: name what to compare with: a folder, an address, or --as CLIENT")
    if chosen and "://" in (target or ""):
        raise ConfigError(f"--as is offline and reads a folder: leave {target} out")
    if output is not None:
        refuse_unwritable(output)
    # From a file: as an option the token would stand in lists of processes.
    token = read_token(token_file, "--token-file") if token_file else None
    requested = view_of(view)
    start = str(at_step(model, step))
    loaded = RewardModel.load(start, **loading.options)
    target = target or start
    if "://" in target:
        from smorm.evaluation.parity.check import against_server

        with RewardClient(
            target,
            protocol,
            token,
            timeout,
            views=[loaded.view(requested).name],
            renderer=loaded.renderer,
        ) as remote:
            ours = _measured(loaded, conversations)
            compared = against_server(ours, remote, requested, gate=gate)
    else:
        from smorm.evaluation.parity.check import against_folder
        from smorm.model.store import resolve

        resolve(target)  # refused before our own paths, which take a while
        ours = _measured(loaded, conversations)
        compared = against_folder(ours, target, requested, gate=gate, clients=chosen)
    # Written before it is printed: a closed pipe must not lose the result.
    if output is not None:
        compared.as_result().write(output)
    print_parity(compared)
    if output is not None:
        echo(f"result: {output}")
    if not compared.passed:
        raise SmormError("\n  ".join(["parity fails:", *map(str, compared.failures)]))


def _measured(model: RewardModel, conversations: str | None) -> Any:
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
    from smorm.cli.tables import print_notes, terminal

    console = terminal()
    title = f"{parity.comparison.ours.model.name} against {parity.target}"
    table = Table(title=title, title_justify="left", header_style="bold", box=box.SIMPLE)
    for heading in ("path", "difference", "in std", "worst", "tokens", ""):
        table.add_column(heading, overflow="fold")
    for row in parity.rows:
        numbers = ["–", "–", "–"]
        if row.worst is not None:
            numbers[:2] = f"{row.difference:.1e}", f"{row.in_stds:.1e}"
        # Where nothing differs, no conversation is the worst.
        if row.worst is not None and row.difference:
            numbers[2] = str(row.worst + 1)
        cells = [row.path.name, *numbers, _SAME_TOKENS[row.same_tokens]]
        if row.passed:
            table.add_row(*cells, "ok")
        else:
            table.add_row(*cells, "FAILS", style="red")
    console.print(table)
    print_notes(console, parity.notes)
