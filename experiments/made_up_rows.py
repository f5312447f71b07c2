"""Made-up texts, and writers of the kinds of files that benchmarks are published as."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from smorm.files import write_bytes

Row = dict[str, Any]
# A word that every good response has, and no other.
MARK = "indeed"

_WORDS = (
    "the", "a", "small", "old", "bright", "quiet", "river", "garden", "letter", "stone", "bird",
    "child", "winter", "table", "story", "window", "morning", "friend", "found", "gave", "took",
    "wrote", "counted", "opened", "carried", "answered", "because", "while", "after", "under",
    "near", "without", "seven", "forty", "slowly", "again", "never", "always", "often", "about",
    "water", "bread", "music", "road",
)  # fmt: skip


class Texts:
    """Made-up texts, the same for the same seed, of unequal length."""

    def __init__(self, seed: str) -> None:
        self.random = random.Random(seed)

    def words(self, least: int, most: int) -> list[str]:
        return self.random.choices(_WORDS, k=self.random.randint(least, most))

    def prompt(self) -> str:
        return " ".join(["what of", *self.words(3, 9)]) + "?"

    def good(self) -> str:
        words = self.words(3, 24)
        words.insert(self.random.randrange(len(words)), MARK)
        return " ".join(words) + "."

    def bad(self) -> str:
        return " ".join(self.words(3, 24)) + "."

    def goods(self, count: int) -> list[str]:
        return [self.good() for _ in range(count)]

    def bads(self, count: int) -> list[str]:
        return [self.bad() for _ in range(count)]

    def turns(self, index: int) -> list[str]:
        """The turns before a response: one, or three where the index is odd."""
        # Benchmarks mix both, and a reader that knows only one would fail on half the rows.
        if index % 2 == 0:
            return [self.prompt()]
        return [self.prompt(), self.bad(), self.prompt()]

    def coin(self) -> bool:
        return self.random.random() < 0.5

    def sides(self) -> tuple[str, str, bool]:
        """Two responses in a random order, and whether the first is the good one."""
        if self.coin():
            return self.good(), self.bad(), True
        return self.bad(), self.good(), False


def dialogue(*turns: str) -> list[dict[str, str]]:
    """A conversation, the user first."""
    roles = ("user", "assistant")
    return [{"role": roles[at % 2], "content": turn} for at, turn in enumerate(turns)]


def write_json(path: Path, rows: Sequence[Row]) -> Path:
    """Rows as one JSON array."""
    write_bytes(path, json.dumps(rows, indent=1).encode())
    return path


def write_lines(path: Path, rows: Sequence[Row]) -> Path:
    """Rows as JSON lines."""
    write_bytes(path, b"".join(json.dumps(row).encode() + b"\n" for row in rows))
    return path


def write_parquet(path: Path, rows: Sequence[Row]) -> Path:
    """Rows as a Parquet file."""
    import pyarrow as arrow
    from pyarrow import parquet

    parquet.write_table(arrow.Table.from_pylist(list(rows)), path)
    return path


def save_splits(folder: Path, splits: Mapping[str, Sequence[Row]]) -> Path:
    """Rows of each split as `datasets` saves them."""
    from datasets import Dataset, DatasetDict

    made = {name: Dataset.from_list(list(rows)) for name, rows in splits.items()}
    DatasetDict(made).save_to_disk(str(folder))
    return folder
