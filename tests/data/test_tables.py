"""Parquet files and saved data sets that unpack to far more than they are."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import datasets
import pyarrow
import pytest
from pyarrow import parquet

from smorm.data.readers import read_rows, scan_rows
from smorm.errors import DataError
from smorm.limits import bounded_memory

MIB = 1 << 20


def written(path: Path, columns: dict[str, Any], **options: Any) -> Path:
    parquet.write_table(pyarrow.table(columns), path, compression="zstd", **options)
    return path


def texts(text: str, count: int) -> pyarrow.Array:
    """One text so many times, of which a file holds it once."""
    indices = pyarrow.array([0] * count, pyarrow.int32())
    return pyarrow.DictionaryArray.from_arrays(indices, pyarrow.array([text]))


def repeated(text: str, counts: list[int]) -> pyarrow.Array:
    """Lists that name one text so many times."""
    ends = [0]
    for count in counts:
        ends.append(ends[-1] + count)
    values = texts(text, ends[-1])
    return pyarrow.ListArray.from_arrays(pyarrow.array(ends, pyarrow.int32()), values)


def told(path: Path) -> str:
    with pytest.raises(DataError) as caught:
        for _ in scan_rows(path):
            pass
    message = str(caught.value)
    assert message.startswith(f"{path}:")
    assert len(message.splitlines()) == 1
    return message


def test_a_small_file_of_a_huge_cell_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path / "d.parquet", {"a": texts("x" * (70 * MIB), 3)}, store_schema=False)
    assert path.stat().st_size < 50_000
    assert "refused as a bomb: unpacks to 73,400," in told(path)


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        ({"a": ["y", "x" * 3000]}, ":2: a: 3,004 bytes, over the limit of 2,000 bytes a cell; S"),
        ({"a": [["x" * 100] * 30]}, ":1: a: 3,1"),
        ({"a": [[{"role": "user", "content": "x" * 100}] * 30]}, ":1: a: "),
        ({"a": [{"b": {"c": "x" * 3000}}]}, ":1: a: 3,004 bytes"),
        (
            {"a": [["y"], [1, 2], list(range(200))][2:]},
            ":1: row: 200 values, over the limit of 100",
        ),
        ({"a": [[{"b": 1, "c": 2}] * 60]}, ":1: row: 180 values, over the limit of 100 values a r"),
        ({"a": [{"b": [1] * 60, "c": [1] * 60}]}, ":1: row: 122 values"),
        ({f"c{n}": [1] for n in range(31)}, ": 31 columns, over the limit of 30 columns a table"),
        ({"a": [[[[[[[1]]]]]]]}, ": column a: 6 levels, over the limit of 5 levels"),
    ],
    ids=range(9),
)
def test_limits_hold_in_tables(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, columns: dict[str, Any], expected: str
) -> None:
    for name, most in {"cell_bytes": 2000, "row_values": 100, "columns": 30, "depth": 5}.items():
        monkeypatch.setenv(f"SMORM_LIMIT_{name.upper()}", str(most))
    path = written(tmp_path / "d.parquet", columns)
    assert f"d.parquet{expected}" in told(path)
    saved = tmp_path / "saved"
    datasets.Dataset(pyarrow.table(columns)).save_to_disk(str(saved))
    with pytest.raises(DataError, match="over the limit of") as caught:
        list(read_rows(saved))
    assert expected.rpartition(": ")[2][:10] in str(caught.value)


def test_maps_and_dictionaries_are_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SMORM_LIMIT_ROW_VALUES", "100")
    kind = pyarrow.map_(pyarrow.string(), pyarrow.int64())
    of_map = pyarrow.array([[("a", 1)], [(f"k{n}", n) for n in range(51)]], kind)
    path = written(tmp_path / "map.parquet", {"a": of_map})
    assert ":2: row: 102 values, over the limit of 100 values a row" in told(path)
    monkeypatch.setenv("SMORM_LIMIT_CELL_BYTES", "2000")
    encoded = pyarrow.array(["a", "b" * 3000, "a"]).dictionary_encode()
    path = written(tmp_path / "dictionary.parquet", {"a": encoded})
    assert ":2: a: 3,005 bytes, over the limit of 2,000 bytes a cell" in told(path)
    path = written(tmp_path / "inside.parquet", {"a": repeated("x", [1, 2])})
    assert "column a: a dictionary inside of a list or an object is not read" in told(path)


def test_rows_that_are_too_much_together_are_read_one_by_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = "x" * MIB
    columns = {"a": texts(text, 60), "b": list(range(60))}
    path = written(tmp_path / "d.parquet", columns, store_schema=False)
    monkeypatch.setenv("SMORM_LIMIT_BATCH_BYTES", "40MiB")
    rows = [row for _, row in read_rows(path)]
    assert [row["b"] for row in rows] == list(range(60))
    assert all(row["a"] == text for row in rows)


def test_a_call_of_bounded_memory_gets_no_more() -> None:
    before = resource.getrlimit(resource.RLIMIT_DATA)
    # More than any earlier test has left free in this process.
    with pytest.raises(MemoryError), bounded_memory("config_bytes"):
        bytearray(8 << 30)
    assert resource.getrlimit(resource.RLIMIT_DATA) == before


@pytest.mark.slow
def test_bombs_in_tables_take_bounded_memory(tmp_path: Path) -> None:
    # Beside texts that do not shrink, so that the file's sizes look usual.
    noise = [os.urandom(20_000).hex() for _ in range(100)]
    lists = repeated("y" * 60_000, [3] * 19 + [10_000] + [3] * 80)
    hidden = {"a": lists, "noise": noise}
    cells = {"a": texts("x" * (4 * MIB), 100), "noise": noise}
    paths = [
        written(tmp_path / "hidden.parquet", hidden, store_schema=False),
        written(tmp_path / "cells.parquet", cells, store_schema=False),
    ]
    code = (
        "import resource, sys\n"
        "import pyarrow.parquet\n"
        "from smorm.data.readers import scan_rows\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "for path in sys.argv[1:]:\n"
        "    try:\n"
        "        print(sum(1 for _ in scan_rows(path)))\n"
        "    except ValueError as error:\n"
        "        print(str(error).replace(path, 'FILE'))\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)\n"
    )
    command = [sys.executable, "-c", code, *map(str, paths)]
    environment = {**os.environ, "SMORM_LIMIT_BATCH_BYTES": "256MiB"}
    run = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert run.returncode == 0, run.stderr
    hidden_says, cells_say, kilobytes = run.stdout.splitlines()
    assert hidden_says == (
        "FILE:20: row: its next rows take over the limit of 256 MiB a batch; "
        "SMORM_LIMIT_BATCH_BYTES raises it"
    )
    assert cells_say == "100"
    assert int(kilobytes) < 600_000
