"""Rows of Parquet files and saved data sets. A file of 50 kB may stand for a cell of gigabytes, so
sizes are looked at before anything becomes a Python object."""

import contextlib
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from smorm.data.jsonlines import Row
from smorm.data.streams import refuse_other_kinds
from smorm.errors import DataError, first_line
from smorm.file_kinds import HEAD
from smorm.limits import bounded_memory, limit, refusal

_BATCH_ROWS, _BATCH_BYTES = 256, 64 << 20


def scan_parquet(path: Path) -> Iterator[tuple[str, Row]]:
    """`(path:row, row)`; `DataError` where the file is damaged or over a limit."""
    import pyarrow as arrow
    from pyarrow import parquet

    number = 0
    try:
        with parquet.ParquetFile(path) as table:
            _refuse_bomb(path, table.metadata)
            _refuse_schema(str(path), table.schema_arrow)
            for group in range(table.metadata.num_row_groups):
                for batch in _batches(table, group):
                    for row in _rows(str(path), number, batch):
                        number += 1
                        yield f"{path}:{number}", row
    except MemoryError as error:  # Arrow's own is one too
        problem = f"its next rows take {refusal('batch_bytes')}"
        raise DataError(f"{path}:{number + 1}: row: {problem}") from error
    except (arrow.ArrowException, OSError, UnicodeDecodeError) as error:
        _refuse_pointers(path)
        raise DataError(f"{path}: not a readable Parquet file: {first_line(error)}") from error


def _refuse_pointers(path: Path) -> None:
    """`DataError` where another kind of file, such as a Git LFS pointer, stands under the name."""
    with contextlib.suppress(OSError), path.open("rb") as file:
        head = file.read(HEAD)
        if not head.startswith(b"PAR1"):
            refuse_other_kinds(path, head)


def scan_dataset(name: str, dataset: Any) -> Iterator[tuple[str, Row]]:
    """`(name:row, row)` of a data set of the `datasets` library."""
    plain = dataset.with_format(None)  # a saved dataset may ask for tensors
    columns = dataset.with_format("arrow")
    _refuse_schema(name, dataset.features.arrow_schema)
    for number in range(len(plain)):
        where = f"{name}:{number + 1}"
        try:
            if number % _BATCH_ROWS == 0:
                with bounded_memory("batch_bytes"):
                    batch = columns[number : number + _BATCH_ROWS]
                _refuse_cells(name, number, batch)
            row = plain[number]
        except DataError:
            raise
        except Exception as error:  # damaged Arrow data shows itself only when it is read
            raise DataError(f"{where}: row: unreadable: {first_line(error)}") from error
        yield where, row


def scan_stream(name: str, dataset: Any) -> Iterator[tuple[str, Row]]:
    """`(name:row, row)` of a data set of the `datasets` library that is read while it is
    downloaded."""
    number = 0
    if dataset.features is not None:
        _refuse_schema(name, dataset.features.arrow_schema)
    try:
        for table in dataset.with_format("arrow").iter(batch_size=_BATCH_ROWS):
            _refuse_schema(name, table.schema)
            for batch in table.to_batches():
                for row in _rows(name, number, _decoded(batch)):
                    number += 1
                    yield f"{name}:{number}", row
    except DataError:
        raise
    except Exception as error:  # of the network and of damaged files: each has its own class
        problem = f"row: could not be streamed: {first_line(error)}"
        raise DataError(f"{name}:{number + 1}: {problem}") from error


def _refuse_bomb(path: Path, metadata: Any) -> None:
    """By what the file says of itself: its columns' sizes, and a byte for each value at least."""
    unpacked = 0
    for group in range(metadata.num_row_groups):
        for index in range(metadata.num_columns):
            column = metadata.row_group(group).column(index)
            unpacked += max(column.total_uncompressed_size, column.num_values)
    most = max(limit("unpacked_bytes"), path.stat().st_size * limit("zstd_ratio"))
    if unpacked > most:
        problem = f"refused as a bomb: unpacks to {unpacked:,} bytes, {refusal('zstd_ratio')}"
        raise DataError(f"{path}: {problem}")


def _refuse_schema(name: str, schema: Any) -> None:
    leaves = 0
    for field in schema:
        # each row becomes a dict: a matrix of features is no table of records
        count, depth = _shape(field.type)
        leaves += count
        if depth > limit("depth"):
            raise DataError(f"{name}: column {field.name}: {refusal('depth', depth)}")
        if depth and "dictionary<" in str(field.type):
            problem = "a dictionary inside of a list or an object is not read: write it as text"
            raise DataError(f"{name}: column {field.name}: {problem}")
    if leaves > limit("columns"):
        raise DataError(f"{name}: {refusal('columns', leaves)}")


def _shape(kind: Any) -> tuple[int, int]:
    """Columns without parts in a type, and the levels of lists and objects in it."""
    if not kind.num_fields:
        return 1, 0
    count = depth = 0
    for index in range(kind.num_fields):
        inside = _shape(kind.field(index).type)
        count += inside[0]
        depth = max(depth, 1 + inside[1])
    return count, depth


def _batches(table: Any, group: int) -> Iterator[Any]:
    about = table.metadata.row_group(group)
    mean = about.total_byte_size // max(about.num_rows, 1)
    # In batches, since `to_pylist` of a whole file would hold all of its rows.
    size = max(1, min(_BATCH_ROWS, _BATCH_BYTES // max(mean, 1)))
    done = 0
    try:
        for batch in _unpacked(table, group, size):
            yield batch
            done += batch.num_rows
    except MemoryError:
        # Together they are too much: each row by itself may be none of it.
        yield from itertools.islice(_unpacked(table, group, 1), done, None)


def _unpacked(table: Any, group: int, size: int) -> Iterator[Any]:
    batches = table.iter_batches(batch_size=size, row_groups=[group])
    while True:
        # What a row unpacks to is known only when it is unpacked: a list may name one long text a
        # million times.
        with bounded_memory("batch_bytes"):
            batch = next(batches, None)
            if batch is None:
                return
            batch = _decoded(batch)
        yield batch


def _decoded(batch: Any) -> Any:
    """A batch without dictionaries, whose every row would become a text of its own."""
    from pyarrow import types

    for index, field in enumerate(batch.schema):
        if types.is_dictionary(field.type):
            batch = batch.set_column(index, field.name, batch.column(index).dictionary_decode())
    return batch


def _rows(name: str, number: int, batch: Any) -> Iterator[Row]:
    _refuse_cells(name, number, batch)
    if batch.nbytes <= _BATCH_BYTES:
        yield from batch.to_pylist()
        return
    for index in range(batch.num_rows):
        yield from batch.slice(index, 1).to_pylist()


def _refuse_cells(name: str, number: int, batch: Any) -> None:
    """Refuse a cell or row over a limit among rows `number + 1` and on, of a batch or table."""
    most_bytes, most_values = limit("cell_bytes"), limit("row_values")
    if batch.nbytes <= most_bytes and _num_values(batch) <= most_values:
        return
    for index in range(batch.num_rows):
        row = batch.slice(index, 1)
        where = f"{name}:{number + index + 1}"
        for column, title in zip(row.columns, row.schema.names, strict=True):
            if column.nbytes > most_bytes:
                raise DataError(f"{where}: {title}: {refusal('cell_bytes', column.nbytes)}")
        if (count := _num_values(row)) > most_values:
            raise DataError(f"{where}: row: {refusal('row_values', count)}")


def _num_values(batch: Any) -> int:
    """Values in the lists and objects of a batch or table."""
    count = 0
    for column in batch.columns:
        for array in getattr(column, "chunks", [column]):
            count += _num_inside(array)
    return count


def _num_inside(array: Any) -> int:
    from pyarrow import types

    kind = array.type
    if types.is_struct(kind):
        fields = [array.field(index) for index in range(kind.num_fields)]
        return sum(len(field) + _num_inside(field) for field in fields)
    if types.is_map(kind):
        ends = array.offsets
        count: int = ends[-1].as_py() - ends[0].as_py()
        return 2 * count
    if hasattr(array, "flatten"):
        inside = array.flatten()
        return len(inside) + _num_inside(inside)
    return 0
