"""`smorm parity` of a tiny model of each architecture against vLLM serving its export."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from engines.commands import run_smorm
from engines.models import VIEW, TinyModel
from engines.results import Outcome, Row
from engines.servers import vllm_server
from smorm import files

NAME = "vLLM"
REQUEST_SECONDS = 600  # a shared machine may be slow, which is no fault of the engine
# What else an architecture needs: vLLM has no class of the name that transformers gives.
OPTIONS: dict[str, tuple[str, ...]] = {
    "gemma3_text": (
        "--convert", "classify", "--hf-overrides", '{"architectures": ["Gemma3ForCausalLM"]}',
    ),
}  # fmt: skip


def parity_with_vllm(
    binary: Path, model: TinyModel, workplace: Path,
    ask_clients: Callable[[str], None] | None = None,
) -> Iterator[Row]:  # fmt: skip
    """Rows of vLLM started without further options and, where it then gives no scores, with them;
    one row for each way to ask it. `ask_clients` is called with the address while it runs."""
    rows = _rows(binary, model, workplace, (), ask_clients)
    yield from rows
    if rows[0].outcome == Outcome.REFUSED and model.architecture in OPTIONS:
        yield from _rows(binary, model, workplace, OPTIONS[model.architecture], ask_clients)


def _rows(
    binary: Path,
    model: TinyModel,
    workplace: Path,
    options: Sequence[str],
    ask_clients: Callable[[str], None] | None,
) -> list[Row]:
    log, output = workplace / "vllm.log", workplace / "parity.json"
    output.unlink(missing_ok=True)
    words = shlex.join(options)
    try:
        with vllm_server(binary, model.export, log, options=options) as server:
            ended = run_smorm(
                "parity", model.folder, server.url, "--view", VIEW, "--output", output,
                "--timeout", REQUEST_SECONDS, codes=(0, 1),
            )  # fmt: skip
            if ask_clients is not None:
                ask_clients(server.url)
    except RuntimeError as error:
        return [refusal(model.architecture, "start", str(error), words)]
    if not output.is_file():
        return [refusal(model.architecture, "parity", ended.output.splitlines()[-1], words)]
    return rows_of_parity(files.read_json(output), model.architecture, words)


def refusal(architecture: str, target: str, problem: str, options: str) -> Row:
    """The row of an engine that gave no score at all."""
    outcome = Outcome.REFUSED
    return Row(NAME, target, architecture, outcome, 0, 0, problem=problem, options=options)


def rows_of_parity(content: Mapping[str, Any], architecture: str, options: str = "") -> list[Row]:
    """The rows of a parity result file: its paths by what they send, whatever the batch."""
    by_target: dict[str, list[Mapping[str, Any]]] = {}
    for item in content["items"]:
        # `vllm /classify of ids, batch 8`
        server, _, path = item["path"].partition(" ")
        if server == "vllm":
            by_target.setdefault(path.partition(", ")[0], []).append(item)
    rows = []
    for target, items in by_target.items():
        rows.append(_row(content, architecture, options, target, items))
    return rows


def _row(
    content: Mapping[str, Any], architecture: str, options: str, target: str,
    items: Sequence[Mapping[str, Any]],
) -> Row:  # fmt: skip
    metrics = content["metrics"]
    count = metrics["largest_difference"]["n"]
    gate = content["fingerprint"]["gate"]
    allowed = max(gate * metrics["spread"]["value"], gate)
    differences = [item["difference"] for item in items if item["difference"] is not None]
    refused = max(item.get("refused", 0) for item in items)
    outcome = Outcome.AGREES
    if any(difference > allowed for difference in differences):
        outcome = Outcome.DIFFERS
    elif refused or len(differences) < len(items):
        outcome = Outcome.REFUSED
    largest = max((item["in_spreads"] for item in items if item["in_spreads"] is not None),
                  default=None)  # fmt: skip
    known = [item["same_tokens"] for item in items if item["same_tokens"] is not None]
    texts = [failure["text"] for failure in content.get("failures", ())]
    # A failure names the first of its paths, which may be of another row.
    about = [text for text in texts if any(item["path"] in text for item in items)]
    problem = "" if outcome == Outcome.AGREES else "; ".join(about or texts)
    return Row(
        NAME, target, architecture, outcome, count - refused if differences else 0, count, largest,
        all(known) if known else None, problem, options, list(items),
    )  # fmt: skip
