"""Writers of small sources, and short ways to read them."""

from __future__ import annotations

import gzip
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow
from hypothesis import HealthCheck, settings
from pyarrow import parquet

from smorm.data.census import Census
from smorm.data.reading import Source, read_records
from smorm.data.records import Kind, Record
from smorm.text.chat import Message

U, A, S = "user", "assistant", "system"

# files are written in each example: a busy machine must not fail a law
law = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


def save_parquet(path: Path, rows: list[Any]) -> Path:
    """Rows as a Parquet file, with the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    return path


def say(*turns: tuple[str, str]) -> list[dict[str, str]]:
    """Message dictionaries as they stand in a file."""
    return [{"role": role, "content": content} for role, content in turns]


def turns(*given: tuple[str, str]) -> tuple[Message, ...]:
    """The same as messages."""
    return tuple(Message(role, content) for role, content in given)


def jsonl(path: Path, rows: Sequence[Any]) -> Path:
    """Write rows as JSON lines; gzip where the name says so."""
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    return raw(path, text.encode("utf-8"))


def raw(path: Path, content: bytes) -> Path:
    """Write bytes; gzip where the name says so."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(content) if path.name.endswith(".gz") else content)
    return path


def records(
    path: Path, kind: Kind | None = None, census: Census | None = None, **settings: Any
) -> list[Record]:
    """All records of a source."""
    reading = {key: settings.pop(key) for key in ("on_bad_record", "quarantine") if key in settings}
    counted = Census() if census is None else census
    return list(read_records(Source(path, **settings), kind, counted, **reading))
