"""`smorm export` and `smorm merge`, which write new model folders, and `smorm parity`."""

from __future__ import annotations

import logging
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from rich import box
from rich.table import Table
from typer import Argument, Option

from smorm.cli.options import DeviceOption, File, ResultOption, Text, choice, view_of
from smorm.errors import ConfigError, SmormError

if TYPE_CHECKING:
    from smorm.evaluation.parity.check import Parity
    from smorm.scoring.reward_model import RewardModel

DTYPES = ("float32", "bfloat16")
_SAME_TOKENS = {True: "equal", False: "differ", None: "–"}
# Tokens of the longest conversations of an export's check; `smorm parity` takes longer ones.
LONGEST = 256


def run(
    model: str = Argument(help="Model folder."),
    output: Path = Option(..., "--output", "-o", help="New folder."),
    view: Text = Option(None, help="F, L, M or a JSON file: folded into one row."),
    all_rows: bool = Option(False, "--all-rows", help="Keep every row (adapters are merged)."),
) -> None:
    """Write a plain model folder that other programs load.

    With --view, an ordinary one-label ...ForSequenceClassification for TRL, verl, OpenRLHF, vLLM,
    SGLang or RewardBench. The folder is loaded again by plain transformers and must give the same
    scores (`smorm parity` shows every path, and compares a running server too)."""
    from smorm.data.census import Census
    from smorm.evaluation.parity.check import against_folder, measure_model
    from smorm.evaluation.parity.conversations import built_in
    from smorm.model.export import export_all_rows, export_view
    from smorm.model.views import fold
    from smorm.scoring.reward_model import RewardModel

    if (view is None) == (not all_rows):
        raise ConfigError("export: give either --view or --all-rows")
    if output.exists():
        raise ConfigError(f"--output {output}: exists already; name a new folder")
    loaded = RewardModel.load(model)
    chosen = None if all_rows else loaded.view(view_of(view))
    if chosen is not None:
        # A view that does not fold is refused before any work.
        fold(chosen, loaded.network.head.weight, loaded.card.scales)
    census = Census()
    conversations = built_in(loaded.renderer, census, longest=LONGEST)
    # Before the export, which merges adapters in place: the check then covers the merge.
    ours = measure_model(loaded, conversations, census.lines(), quick=True)
    contents = loaded.network, loaded.tokenizer, loaded.card
    if chosen is None:
        exported = export_all_rows(output, *contents)
    else:
        exported = export_view(output, *contents, chosen)
    _report(against_folder(ours, str(output), chosen, quick=True), output)
    if exported.new_pad is not None:
        typer.echo(
            f"The pad token is now {exported.new_pad}: conversations could end with the one "
            "before, and plain transformers would have scored an earlier token."
        )
    if exported.offset:
        typer.echo(
            f"The view's constant {exported.offset:+.6g} is not in the folder's one row (its head "
            "has no bias; it cancels in every comparison). smorm adds it; other programs do not."
        )


def _report(parity: Parity, folder: Path) -> None:
    """Fail where plain transformers gives other scores by the weights, else print how near."""
    if not parity.passed and not parity.only_tokens_differ:
        raise SmormError(
            f"{folder}: plain transformers gives other scores: do not use it. "
            + "; ".join(map(str, parity.failures))
        )
    largest = max(row.difference for row in parity.rows if row.passed)
    typer.echo(
        f"{folder}: plain transformers gives the same scores (largest difference {largest:.1e}, "
        f"standard deviation of the scores {parity.std:.2f})"
    )
    if parity.only_tokens_differ:
        typer.echo(
            "warning: that holds for the model's token ids. Of text, AutoTokenizer makes other "
            "tokens than the model was trained on (it prefers a class of its own for this model "
            "type): give other programs token ids, or load the tokenizer with "
            "PreTrainedTokenizerFast.",
            err=True,
        )


def merge(
    models: list[str] = Argument(help="Model folders, two or more."),
    output: Path = Option(..., "--output", "-o", help="New folder."),
    weight: list[float] | None = Option(
        None, help="A model's part in the average, in the models' order; default: equal."
    ),
) -> None:
    """Average the weights of models trained from one start (WARM).

    The models need the same architecture, tokenizer, rows and scaling; LoRA adapters are merged
    first. The result is an ordinary model folder with the cost of one model, in fp32."""
    from smorm.scoring.merge import merge_models

    if output.exists():
        raise ConfigError(f"--output {output}: exists already; name a new folder")
    merged = merge_models(models, output, weight or None)
    for note in merged.notes:
        typer.echo(note, err=True)
    # Nothing is before the first model, which therefore has no cosine.
    alike = ["", *(f", cosine to those before {cosine:.4f}" for cosine in merged.cosines)]
    for name, share, note in zip(merged.names, merged.shares, alike, strict=True):
        typer.echo(f"{share:.4g} of {name}{note}")
    typer.echo(f"cost: 1 forward pass a response, {merged.parameters:,} parameters")
    typer.echo(f"merged: {output}")


def parity(
    model: str = Argument(help="Model folder, ours or any reward model's."),
    target: str = Argument(help="Exported folder, or a server's http address."),
    view: Text = Option(
        None, help="The view that the target gives; default: what it says, or the model's."
    ),
    conversations: Text = Option(
        None, help="File of conversations; default: 64 that come with smorm."
    ),
    dtype: str = Option("float32", help="float32 or bfloat16, for both sides."),
    gate: float | None = Option(
        None,
        help="Largest difference, in standard deviations of the scores; default: 1e-5, or "
        "0.02 in bfloat16.",
    ),
    token_file: File = Option(None, help="File that holds the server's bearer token."),
    protocol: str = Option("auto", help="auto, smorm, vllm or sglang."),
    timeout: float = Option(60.0, help="Seconds that a request may take."),
    device: DeviceOption = "cpu",
    output: ResultOption = None,
) -> None:
    """Compare a model's scores with an export's or a server's.

    The same conversations go through training's path, scoring's in every layout, and the target:
    plain transformers with both padding sides, or each endpoint of a server. Exit code 1 when a
    score differs by more than the gate; the likely cause is named."""
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
            compared = against_server(ours, remote, requested, gate=gate)
    else:
        from smorm.evaluation.parity.check import against_folder
        from smorm.model.store import resolve

        resolve(target)  # refused before our own paths, which take a while
        ours = _measured(loaded, conversations)
        compared = against_folder(ours, target, requested, gate=gate)
    print_parity(compared)
    if output is not None:
        compared.as_result().write(output)
        typer.echo(f"result: {output}")
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
