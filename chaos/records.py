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
from chaos.trial import Command, Trial, verb
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
        shape = random.choice(list(plain))
        rows: list[Any] = list(plain[shape])
        for _ in range(random.randrange(1, 4)):
            place = random.randrange(len(rows))
            rows[place] = change(random, rows[place])
        kind = random.choice(_KINDS)
        name, content = write_rows(random, rows, kind)
        command = _command(random, stage, name, shape)
        yield Trial(
            f"records/{index}/{shape}/{kind}", [Command(_with_file(name, content, command))]
        )


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
