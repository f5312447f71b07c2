"""What a source holds, told by its bytes and not by its path: the first half of a cache's key."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from smorm.data.readers import files_of, may_be_hub_id
from smorm.data.reading import Source
from smorm.data.tables import is_saved_dataset, load_hub
from smorm.errors import DataError
from smorm.files import fingerprint, sha256

Stamp = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Contents:
    """The files behind a source.

    Attributes:
        names: what the places of its records begin with, in the order of reading.
        files: the files whose bytes decide its rows; none where it has no files to tell it by.
        detail: what else decides them (a data set's features and number of rows).
        stamps: size and time of each file when it was looked at.
    """

    names: tuple[str, ...]
    files: tuple[Path, ...]
    detail: str
    stamps: tuple[Stamp, ...]

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(size for size, _ in self.stamps)

    def digest(self) -> str:
        """Hash of every file's size and bytes; the same wherever they lie.

        Raises:
            DataError: a file cannot be read.
        """
        try:
            sums = [
                [path.suffix, size, sha256(path)]  # the suffix says how the bytes are read
                for path, (size, _) in zip(self.files, self.stamps, strict=True)
            ]
        except OSError as error:
            raise DataError(f"{error.filename}: cannot be read: {error.strerror}") from error
        return hashlib.sha256(f"{self.detail} {fingerprint(sums)}".encode()).hexdigest()

    def refuse_change(self) -> None:
        """Tokens are kept under the sum of what was there: it must still be there.

        Raises:
            DataError: a file was written to meanwhile.
        """
        for path, before in zip(self.files, self.stamps, strict=True):
            if _stamp(path) != before:
                raise DataError(f"{path}: was changed while it was read: start again")


def contents_of(source: Source) -> Contents:
    """Find the files behind a source.

    Raises:
        DataError: there is no such file, folder, data set or split.
    """
    path, split = Path(source.path), source.split
    if path.is_dir() and is_saved_dataset(path):
        inner = path / split if (path / "dataset_dict.json").is_file() else path
        found = sorted(file for file in inner.rglob("*") if file.is_file())
        return _contents([f"{path}[{split}]"], found, split)
    if path.is_dir():
        found = files_of(path, split, source.subset)
        return _contents([str(file) for file in found], found, "")
    if not path.exists() and may_be_hub_id(str(source.path)):
        dataset = load_hub(str(source.path), split, source.subset)
        found = [Path(file["filename"]) for file in dataset.cache_files]
        detail = f"{split} {len(dataset)} {dataset.features}"
        return _contents([f"{source.path}[{split}]"], found, detail)
    return _contents([str(path)], [path] if path.is_file() else [], "")


def _contents(names: list[str], found: list[Path], detail: str) -> Contents:
    stamps = tuple(_stamp(path) for path in found)
    return Contents(tuple(names), tuple(found), detail, stamps)


def _stamp(path: Path) -> Stamp:
    try:
        status = path.stat()
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error
    return status.st_size, status.st_mtime_ns
