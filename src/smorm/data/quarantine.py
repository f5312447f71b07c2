"""A record that cannot be used, and the file where such records are kept for repair."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Any

import orjson

from smorm.errors import DataError, OutputError


class BadRecord(DataError):  # noqa: N818  (also a value that stands for the row)
    """One row that cannot be used; the rows after it can.

    `defect` is what it is counted under (most often a `Defect`), `problem` says it in full. `raw`
    is the text of a row that could not even be parsed.
    """

    def __init__(
        self, where: str, field: str, defect: StrEnum, problem: str, raw: str | None = None
    ):
        super().__init__(f"{where}: {field}: {problem}")
        self.where, self.field, self.defect, self.problem = where, field, defect, problem
        self.raw = raw


def quarantine_record(path: Path, bad: BadRecord, row: Any) -> None:
    """Append a bad row to a quarantine file as one JSON line: `where`, `reason`, `row`.

    The file is appended to, never cleared, so that several sources of one run share it.

    Raises:
        OutputError: the file cannot be written.
    """
    entry = {"where": bad.where, "reason": str(bad), "row": bad.raw if row is None else row}
    options = orjson.OPT_APPEND_NEWLINE | orjson.OPT_NON_STR_KEYS | orjson.OPT_SERIALIZE_NUMPY
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab") as stream:
            # repr: a Parquet row may hold values (bytes, decimals) that JSON does not know
            stream.write(orjson.dumps(entry, option=options, default=repr))
    except OSError as error:
        raise OutputError(f"{path}: quarantine could not be written: {error.strerror}") from error
