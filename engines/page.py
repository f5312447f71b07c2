"""The page of the results: `results/engines/README.md`, made of the JSON file alone."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from engines.models import ARCHITECTURES, VIEW
from engines.results import Outcome, Results, Row
from smorm.files import write_text

NOT_RUN = """\
| program | why |
|---|---|
| SGLang | its server does not start without CUDA |
| OpenRLHF's and verl's trainers, their own engines | need CUDA (flash-attn, NCCL): their clients run, fed with given rollouts |
| flash-attn | CUDA alone: OpenRLHF imports it and, without packing, never calls it; a stand-in takes its place |
| LLaMA-Factory's reward models | a causal model with a `v_head`, another format; its client of a server runs |
| NeMo-RL | is not on the package index |
"""  # noqa: E501


def rewrite(folder: Path) -> None:
    """Write the page of a folder's JSON file."""
    write_text(folder / "README.md", page(Results.load(folder)))


def page(results: Results) -> str:
    """The whole page."""
    parts = [
        "# Real engines and clients",
        f"Written by `make engines` (docs/engines.md). Tiny models trained for a few steps on the "
        f"generated world, view {VIEW} exported as one row, everything in float32 on a CPU: what "
        "agrees here says that weights, tokens, heads and protocols are read right, not how fast "
        "anything is.",
        _summary(results),
        "## Engines",
        "The built-in conversations of `smorm parity`, sent in each way that the engine takes, one "
        "and several a request. The difference is the largest, in standard deviations of the "
        "scores; the gate is 1e-5. *Token ids* of a server are compared by their number.",
        _engines_table(results.engines),
        _details("What was refused or differs", results.engines),
        "## Clients",
        "The clients' own code, from their packages, each in an environment of its own. Every "
        "number is compared with that of `smorm score` for the same conversation, within 1e-5 of "
        "the standard deviation (an export's head has no bias: there without the view's constant).",
        _clients_table(results.clients),
        _details("What was refused or differs", results.clients),
        "## What was not run, and why",
        NOT_RUN.rstrip(),
        "## Versions",
        _versions(results),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _summary(results: Results) -> str:
    rows = [*results.engines, *results.clients]
    counts = [
        f"{sum(row.outcome == outcome for row in rows)} {word}"
        for outcome, word in (
            (Outcome.AGREES, "agree"),
            (Outcome.DIFFERS, "differ"),
            (Outcome.REFUSED, "are refused, in part or whole"),
        )
    ]
    return f"Of {len(rows)} comparisons {', '.join(counts)}."


def _engines_table(rows: Sequence[Row]) -> str:
    lines = [
        "| engine | architecture | options | asked by | conversations | difference | token ids | |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in sorted(rows, key=_engine_order):
        cells = [row.name, row.architecture, _code(row.options), row.target, _count(row),
                 _difference(row), _tokens(row), str(row.outcome)]  # fmt: skip
        lines.append(_line(cells))
    return "\n".join(lines)


def _clients_table(rows: Sequence[Row]) -> str:
    lines = [
        "| client | asked | architecture | conversations | difference | |",
        "|---|---|---|---|---|---|",
    ]
    for row in sorted(rows, key=lambda row: (row.name, row.target, _position(row.architecture))):
        cells = [row.name, row.target, row.architecture, _count(row), _difference(row),
                 str(row.outcome)]  # fmt: skip
        lines.append(_line(cells))
    return "\n".join(lines)


def _details(title: str, rows: Iterable[Row]) -> str:
    lines = []
    for row in rows:
        if row.outcome != Outcome.AGREES:
            options = f", {_code(row.options)}" if row.options else ""
            problem = row.problem or "the scores differ"
            lines.append(
                f"- {row.name}, {row.target}, {row.architecture}{options}: {_inline(problem)}"
            )
    return f"**{title}**\n\n" + "\n".join(lines) if lines else ""


def _versions(results: Results) -> str:
    machine = results.machine
    lines = [
        f"{machine.get('cpu')}, {machine.get('cores')} cores, {machine.get('system')}, Python "
        f"{machine.get('python')}.",
        "",
        "| environment | packages |",
        "|---|---|",
    ]
    for environment, versions in sorted(results.versions.items()):
        packages = ", ".join(f"{name} {version}" for name, version in sorted(versions.items()))
        lines.append(f"| {environment} | {packages} |")
    return "\n".join(lines)


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _engine_order(row: Row) -> tuple[str, int, str, str]:
    return (row.name, _position(row.architecture), row.options, row.target)


def _position(architecture: str) -> int:
    known = list(ARCHITECTURES)
    return known.index(architecture) if architecture in known else len(known)


def _count(row: Row) -> str:
    if row.compared == row.conversations:
        return str(row.compared)
    return f"{row.compared} of {row.conversations}"


def _difference(row: Row) -> str:
    return "–" if row.difference is None else f"{row.difference:.1e}"


def _tokens(row: Row) -> str:
    return {True: "equal", False: "differ", None: "–"}[row.same_tokens]


def _code(text: str) -> str:
    return f"`{text}`" if text else ""


def _inline(text: str) -> str:
    """On one line, and short: the whole of it is in the JSON file."""
    line = " ".join(text.split())
    return line if len(line) <= 300 else f"{line[:299]}…"
