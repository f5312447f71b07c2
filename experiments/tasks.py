"""The real data sets of the comparison: their files, their recipes and their validation splits.

Nothing is ever chosen by looking at `dev`: hyper-parameters are tuned on groups of prompts split
off the training file (`split_validation`).
"""

from __future__ import annotations

import gzip
import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from smorm.errors import DataError
from smorm.files import read_json, write_bytes, write_json

RECIPES = Path(__file__).resolve().parent.parent / "recipes"
PARTS = ("pairs", "rated")


def _prompt(prompt: str) -> str:
    return prompt


def _debate(prompt: str) -> str:
    """Both sides of a debate share its first line."""
    return prompt.partition("\n")[0]


@dataclass(frozen=True, slots=True)
class Task:
    """A data set of pairs with one of ratings.

    Attributes:
        pairs, rated: folders below the data folder, each with `train` and `dev` files.
        group: what is kept together when validation is split off, from a prompt.
        validation_share: share of the groups that become validation.
    """

    name: str
    title: str
    pairs: str
    rated: str
    group: Callable[[str], str]
    validation_share: float

    @property
    def recipe(self) -> Path:
        """The configuration that every method of this task starts from."""
        return RECIPES / f"{self.name}.yaml"


TASKS = {
    task.name: task
    for task in (
        Task(
            "truthfulqa", "TruthfulQA", "truthfulqa_pairs", "truthfulqa_attributes", _prompt, 0.12
        ),
        Task("ukp", "UKP", "ukp_convarg1", "ukp_convarg_attributes", _debate, 0.2),
    )
}


@dataclass(frozen=True, slots=True)
class Files:
    """What a run trains on and what it is measured on."""

    train_pairs: Path
    train_rated: Path
    test_pairs: Path
    test_rated: Path
    label: str

    def paths(self) -> tuple[Path, ...]:
        """All four."""
        return self.train_pairs, self.train_rated, self.test_pairs, self.test_rated

    def hashes(self) -> list[str]:
        """SHA-256 of what is in each file, unpacked."""
        return [
            hashlib.sha256(gzip.decompress(path.read_bytes())).hexdigest() for path in self.paths()
        ]


def dev_files(task: Task, data: Path) -> Files:
    """Training on the whole training file, measured on `dev`.

    Raises:
        DataError: a file is missing.
    """
    found = Files(
        data / task.pairs / "train.jsonl.gz",
        data / task.rated / "train.jsonl.gz",
        data / task.pairs / "dev.jsonl.gz",
        data / task.rated / "dev.jsonl.gz",
        label="dev",
    )
    for path in found.paths():
        if not path.is_file():
            raise DataError(f"{path}: no such file; --data names the folder of the real data")
    return found


def split_validation(task: Task, data: Path, folder: Path) -> Files:
    """Split the training files by group; the parts are written to `folder` once.

    The groups with the smallest SHA-256 become validation, so that the split depends on nothing
    but the prompts. No group is on both sides, in the pairs or in the ratings.
    """
    files = dev_files(task, data)
    held = _held_groups(task, files.train_pairs)
    paths = {}
    for part, source in zip(PARTS, (files.train_pairs, files.train_rated), strict=True):
        for side in ("train", "validation"):
            paths[side, part] = folder / f"{side}-{part}.jsonl.gz"
            _write_rows(paths[side, part], _side(task, source, held, side == "validation"))
    return Files(
        paths["train", "pairs"],
        paths["train", "rated"],
        paths["validation", "pairs"],
        paths["validation", "rated"],
        label="validation",
    )


def _held_groups(task: Task, pairs: Path) -> set[str]:
    groups = {task.group(row["prompt"]) for row in read_lines(pairs)}
    ordered = sorted(groups, key=lambda group: hashlib.sha256(group.encode()).hexdigest())
    return set(ordered[: max(1, round(task.validation_share * len(ordered)))])


def _side(task: Task, source: Path, held: set[str], wanted: bool) -> list[dict[str, Any]]:
    return [row for row in read_lines(source) if (task.group(row["prompt"]) in held) == wanted]


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Rows of a gzip file of JSON lines, as they are."""
    with gzip.open(path, "rt", encoding="utf-8") as stream:
        return [json.loads(line) for line in stream]


def _write_rows(path: Path, rows: list[dict[str, Any]]) -> None:
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    # No time in the header: the same rows are the same bytes.
    write_bytes(path, gzip.compress(text.encode("utf-8"), mtime=0))


def readme_baseline(task: Task, data: Path) -> dict[str, float]:
    """`dev` and `dev_longer` as the data's README prints them: TF-IDF with length, and the longer.

    They are the README's figures, quoted; an empty dict where it does not have them.
    """
    path = data / task.pairs / "README.md"
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    for line in text.splitlines():
        if line.startswith("TF-IDF + length linear baseline"):
            numbers = json.loads(line.partition(":")[2])
            return {key: float(numbers[key]) for key in ("dev", "dev_longer") if key in numbers}
    return {}


TUNED = Path(__file__).resolve().parent / "tuning.json"


def read_tuning(path: Path = TUNED) -> dict[str, Any]:
    """What was tried and chosen.

    Raises:
        DataError: it has not been run.
    """
    found: dict[str, Any] = read_json(path)
    return found


def write_tuning(value: dict[str, Any], path: Path = TUNED) -> None:
    """Keep what was tried and chosen beside the code."""
    write_json(path, value)
