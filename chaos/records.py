"""Fuzzed records in all file kinds, through check, score and eval."""

from __future__ import annotations

import csv
import gzip
import io
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

from chaos.stage import Stage
from chaos.trial import Command, Ended, Fault, Trial, verb
from chaos.values import change, damage, dumps

_KINDS = ("jsonl", "jsonl", "jsonl", "json", "csv", "jsonl.gz", "jsonl.zst", "parquet", "bytes")


def trials(stage: Stage, seed: int, count: int) -> Iterator[Trial]:
    """Each trial writes six rows, one to three of them changed, and runs one verb on them."""
    plain = {
        "pairs": stage.rows(stage.pairs, 6),
        "rated": stage.rows(stage.rated, 6),
        "messages": _messages(stage),
        "candidates": _candidates(stage),
    }
    for index in range(count):
        random = Random(f"records-{seed}-{index}")
        if index % 8 == 0:
            yield _nonsense(random, stage, index)
            continue
        shape = random.choice(list(plain))
        rows: list[Any] = list(plain[shape])
        for _ in range(random.randrange(1, 4)):
            index_of_row = random.randrange(len(rows))
            rows[index_of_row] = change(random, rows[index_of_row])
        kind = random.choice(_KINDS)
        name, content = write_rows(random, rows, kind)
        command = _command(random, stage, name, shape)
        yield Trial(
            f"records/{index}/{shape}/{kind}", [Command(_with_file(name, content, command))]
        )


_RATINGS: tuple[Any, ...] = (
    1e30, -1e30, 10**400, float("nan"), float("inf"), True, "high", "1e999",
    {"style": 1}, "\x1b]0;x\x07", 2**63,
)  # fmt: skip


def _nonsense(random: Random, stage: Stage, index: int) -> Trial:
    """A rating, a margin or a name that can mean nothing: no verb may go on with it."""
    field, value = random.choice(("scores", "margin", "name")), random.choice(_RATINGS)
    rows: list[Any] = stage.rows(stage.pairs if field == "margin" else stage.rated, 6)
    row = random.choice(rows)
    if field == "margin":
        row["margin"] = value
    elif field == "scores":
        row["scores"][next(iter(row["scores"]))] = value
    else:
        row["scores"][random.choice(("", "preference", "a\x1b]0;x\x07", "\u202eb", "n" * 999))] = 1
    content = "".join(dumps(each) + "\n" for each in rows).encode("utf-8", "surrogatepass")
    suite = "pairs" if field == "margin" else "rated"
    # `smorm score` has no use for ratings, and says so.
    verbs = (
        ("check", "data.jsonl"),
        ("eval", str(stage.model), "--suite", f"{suite}=data.jsonl", "-o", "out.json"),
    )
    act = _with_file("data.jsonl", content, verb(*random.choice(verbs)))
    return Trial(f"records/{index}/nonsense/{field} {value!r:.20}", [Command(act)], _refused)


def _refused(folder: Path, ended: Ended) -> Iterator[tuple[Fault, str]]:
    if ended.code == 0:
        yield Fault.WRONG, f"accepted: {ended.output[-300:]}"


def _with_file(name: str, content: bytes, act: Callable[[Path], None]) -> Callable[[Path], None]:
    def both(folder: Path) -> None:
        (folder / name).write_bytes(content)
        act(folder)

    return both


def _command(random: Random, stage: Stage, name: str, shape: str) -> Callable[[Path], None]:
    skip = ["--skip-bad"] if random.random() < 0.5 else []
    suite = {"rated": "rated", "candidates": "best-of-k"}.get(shape, "pairs")
    commands = (
        ("check", name),
        ("score", str(stage.model), "--input", name, "--output", "out.jsonl", *skip),
        ("eval", str(stage.model), "--suite", f"{suite}={name}", "-o", "out.json", *skip),
    )
    return verb(*random.choice(commands))


def _messages(stage: Stage) -> list[Any]:
    """Pairs as messages, with a system message, a tool call and reasoning among them."""
    rows = []
    for row in stage.rows(stage.pairs, 6):
        question = {"role": "user", "content": row["prompt"]}
        answers = {}
        for side in ("chosen", "rejected"):
            answers[side] = [{"role": "assistant", "content": row[side], "reasoning_content": "so"}]
        rows.append({"prompt": [{"role": "system", "content": "be kind"}, question], **answers})
    return rows


def _candidates(stage: Stage) -> list[Any]:
    rows = []
    for row in stage.rows(stage.pairs, 6):
        answers = [row["chosen"], row["rejected"], "so it is"]
        rows.append({"prompt": row["prompt"], "responses": answers, "labels": [1, 0, 0]})
    return rows


def write_rows(random: Random, rows: list[Any], kind: str) -> tuple[str, bytes]:
    """A file name and its bytes."""
    lines = "\n".join(dumps(row) for row in rows) + "\n"
    content = lines.encode("utf-8", "surrogatepass")
    if kind == "bytes":
        return "data.jsonl", damage(random, content)
    if kind == "json":
        return "data.json", ("[" + ",".join(dumps(row) for row in rows) + "]").encode(
            "utf-8", "surrogatepass"
        )
    if kind == "jsonl.gz":
        packed = gzip.compress(content)
        return "data.jsonl.gz", damage(random, packed) if random.random() < 0.5 else packed
    if kind == "jsonl.zst":
        import pyarrow

        packed = pyarrow.compress(content, codec="zstd", asbytes=True)
        return "data.jsonl.zst", damage(random, packed) if random.random() < 0.5 else packed
    if kind == "csv":
        return "data.csv", _as_csv(rows)
    if kind == "parquet":
        return "data.parquet", _as_parquet(random, rows, content)
    return "data.jsonl", content


def _as_csv(rows: list[Any]) -> bytes:
    columns: list[str] = []
    for row in rows:
        if isinstance(row, dict):
            columns += [str(name) for name in row if str(name) not in columns]
    stream = io.StringIO()
    writer = csv.writer(stream)
    writer.writerow(columns)
    for row in rows:
        if isinstance(row, dict):
            cells = {str(name): value for name, value in row.items()}
            writer.writerow([_cell(cells.get(name, "")) for name in columns])
    return stream.getvalue().encode("utf-8", "surrogatepass")


def _cell(value: Any) -> str:
    return value if isinstance(value, str) else dumps(value)


def _as_parquet(random: Random, rows: list[Any], fallback: bytes) -> bytes:
    import pyarrow
    import pyarrow.parquet

    # Rows whose columns have several types fit no table: their text is written under the name.
    try:
        table = pyarrow.Table.from_pylist([row for row in rows if isinstance(row, dict)])
        stream = io.BytesIO()
        pyarrow.parquet.write_table(table, stream)
    except (pyarrow.ArrowException, ValueError, TypeError, OverflowError, UnicodeError):
        return fallback
    content = stream.getvalue()
    return damage(random, content) if random.random() < 0.4 else content
