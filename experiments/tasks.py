"""The real data sets of the comparison: their files, their recipes and their validation splits.

Nothing is ever chosen by looking at `dev`: hyper-parameters are tuned on groups of prompts split
off the training file (`split_validation`)."""

from __future__ import annotations

import gzip
import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from smorm.errors import DataError
from smorm.files import read_json, write_bytes

RECIPES = Path(__file__).resolve().parent.parent / "recipes"


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
        validation_share: share of the groups that become validation."""

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


_TRUTHFULQA = Task(
    "truthfulqa", "TruthfulQA", "truthfulqa_pairs", "truthfulqa_attributes", _prompt, 0.12
)
# Its groups are whole debates, and few: a larger share of them, so that validation has some.
_UKP = Task("ukp", "UKP", "ukp_convarg1", "ukp_convarg_attributes", _debate, 0.2)
TASKS = {task.name: task for task in (_TRUTHFULQA, _UKP)}


@dataclass(frozen=True, slots=True)
class Files:
    """The files that a run trains on and is measured on."""

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
        hashes = []
        for path in self.paths():
            # Unpacked, since the same rows can be packed to other bytes.
            content = gzip.decompress(path.read_bytes())
            hashes.append(hashlib.sha256(content).hexdigest())
        return hashes


def dev_files(task: Task, data: Path) -> Files:
    """Training on the whole training file, measured on `dev`.

    Raises:
        DataError: a file is missing."""
    pairs, rated = data / task.pairs, data / task.rated
    train, dev = "train.jsonl.gz", "dev.jsonl.gz"
    files = Files(pairs / train, rated / train, pairs / dev, rated / dev, label="dev")
    for path in files.paths():
        if not path.is_file():
            raise DataError(f"{path}: no such file; --data names the folder of the real data")
    return files


def split_validation(task: Task, data: Path, folder: Path) -> Files:
    """Split the training files by group, and write both sides to `folder`.

    The groups with the smallest SHA-256 become validation, so that the split depends on nothing
    but the prompts. No group is on both sides, in the pairs or in the ratings."""
    files = dev_files(task, data)
    held_out = _held_out_groups(task, files.train_pairs)
    paths: list[Path] = []
    for side in ("train", "validation"):
        for name, source in (("pairs", files.train_pairs), ("rated", files.train_rated)):
            rows = []
            for row in read_lines(source):
                is_held_out = task.group(row["prompt"]) in held_out
                if is_held_out == (side == "validation"):
                    rows.append(row)
            path = folder / f"{side}-{name}.jsonl.gz"
            _write_rows(path, rows)
            paths.append(path)
    train_pairs, train_rated, test_pairs, test_rated = paths
    return Files(train_pairs, train_rated, test_pairs, test_rated, label="validation")


def _held_out_groups(task: Task, pairs: Path) -> set[str]:
    # Of the pairs alone: a group that only ratings have can never be validated on pairs.
    groups = {task.group(row["prompt"]) for row in read_lines(pairs)}
    ordered = sorted(groups, key=lambda group: hashlib.sha256(group.encode()).hexdigest())
    return set(ordered[: max(1, round(task.validation_share * len(ordered)))])


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Rows of a gzip file of JSON lines, as they are."""
    with gzip.open(path, "rt", encoding="utf-8") as stream:
        return list(map(json.loads, stream))


def _write_rows(path: Path, rows: list[dict[str, Any]]) -> None:
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    # A time in the gzip header would give the same rows another hash.
    write_bytes(path, gzip.compress(text.encode("utf-8"), mtime=0))


def readme_baseline(task: Task, data: Path) -> dict[str, float]:
    """`dev` and `dev_longer` as the data's README prints them, or an empty mapping: the accuracies
    of a linear model over TF-IDF and length, and of the longer response."""
    path = data / task.pairs / "README.md"
    if not path.is_file():
        return {}
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.startswith("TF-IDF + length linear baseline"):
            numbers = json.loads(line.partition(":")[2])
            return {key: float(numbers[key]) for key in ("dev", "dev_longer") if key in numbers}
    return {}


TUNED = Path(__file__).resolve().parent / "tuning.json"


def read_tuning(path: Path = TUNED) -> dict[str, Any]:
    """The tries of `experiments.tuning` and its choices."""
    tuning: dict[str, Any] = read_json(path)
    return tuning
