"""Rows from Parquet files, folders saved by `datasets`, and Hugging Face dataset ids."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from smorm.data.jsonlines import Row
from smorm.errors import DataError

BATCH_ROWS = 256
MAX_COLUMNS = 1000
# The branch on which the hub has each of its data sets as Parquet files.
CONVERTED = "refs/convert/parquet"


def scan_parquet(path: Path) -> Iterator[tuple[str, Row]]:
    """Rows of a Parquet file as `(path:row, row)`, row numbers from 1, read in small batches."""
    import pyarrow as arrow
    from pyarrow import parquet

    try:
        with parquet.ParquetFile(path) as table:
            # each row becomes a dict: a matrix of features is no table of records
            if table.metadata.num_columns > MAX_COLUMNS:
                raise DataError(f"{path}: {table.metadata.num_columns:,} columns: refused")
            # in batches, since `to_pylist` of a whole file would hold all of its rows
            number = 0
            for batch in table.iter_batches(batch_size=BATCH_ROWS):
                for row in batch.to_pylist():
                    number += 1
                    yield f"{path}:{number}", row
    except (arrow.ArrowException, OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: not a readable Parquet file: {_first_line(error)}") from error


def is_saved_dataset(folder: Path) -> bool:
    """Whether a folder was written by `datasets`' `save_to_disk`."""
    return (folder / "dataset_dict.json").is_file() or (folder / "state.json").is_file()


def scan_saved_dataset(folder: Path, split: str) -> Iterator[tuple[str, Row]]:
    """Rows of a saved `Dataset` or `DatasetDict` as `(folder[split]:row, row)`."""
    import datasets

    try:
        loaded = datasets.load_from_disk(str(folder))
    except Exception as error:  # a library's many errors for a damaged folder, as one line
        raise DataError(f"{folder}: cannot be loaded: {_first_line(error)}") from error
    if isinstance(loaded, dict):
        if split not in loaded:
            raise DataError(f"{folder}: no split {split!r}; it has: {', '.join(sorted(loaded))}")
        loaded = loaded[split]
    elif split not in ("train", str(loaded.split)):
        raise DataError(
            f"{folder}: no split {split!r}; it is one saved split ({loaded.split or 'unnamed'})"
        )
    yield from dataset_rows(f"{folder}[{split}]", loaded)


def load_hub(name: str, split: str, subset: str | None) -> Any:
    """A Hugging Face dataset by its id, from `datasets`' own cache. Remote code is never run."""
    import datasets

    try:
        try:
            return datasets.load_dataset(name, subset, split=split)
        except RuntimeError as error:
            # `datasets` has no class of its own for this
            if "script" not in str(error):
                raise
        return load_converted(name, split, subset)
    except Exception as error:  # offline, missing, gated: each has its own class
        raise DataError(
            f"{name}: no such local path, and as a Hugging Face dataset it could not be loaded "
            f"(offline, or not there): {_first_line(error)}"
        ) from error


def load_converted(name: str, split: str, subset: str | None) -> Any:
    """A data set that is published as a program, which is never run, from its copy in Parquet."""
    import datasets

    files = {split: f"{subset or 'default'}/{split}/*.parquet"}
    return datasets.load_dataset(name, data_files=files, revision=CONVERTED, split=split)


def dataset_rows(name: str, dataset: Any) -> Iterator[tuple[str, Row]]:
    """Rows of a loaded data set as `(name:row, row)`, row numbers from 1."""
    plain = dataset.with_format(None)  # a saved dataset may ask for tensors
    for number in range(len(plain)):
        try:
            row = plain[number]
        except Exception as error:  # damaged Arrow data shows itself only when it is read
            raise DataError(
                f"{name}:{number + 1}: row: unreadable: {_first_line(error)}"
            ) from error
        yield f"{name}:{number + 1}", row


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
