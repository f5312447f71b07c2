"""One source as tokens: flat arrays in a folder, memory-mapped, written while records stream by.

A sequence is `ids[offsets[i]:offsets[i + 1]]`. A preference source has two a record (chosen, then
rejected), a rated source one, which is empty where the record was dropped: its ratings still count
for the scales. Ratings are kept as cells (column, value), so that names may appear late.

Shapes: N records, S sequences, T tokens, K attributes.
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from smorm import files
from smorm.arrays import Floats
from smorm.data.census import Census
from smorm.data.encode import Tokens
from smorm.errors import DataError

StoreKind = Literal["preference", "rated"]

META, QUARANTINE = "store.json", "quarantine.jsonl"
_FLUSH = 4096
_COLUMNS = {
    "offsets": "q",
    "margins": "d",
    "prompts": "Q",
    "files": "i",
    "rows": "q",
    "rating_counts": "i",
    "rating_columns": "i",
    "rating_values": "d",
}
_DECISIVE = ("ids", "offsets", "margins", "prompts")


@dataclass(frozen=True, slots=True)
class TokenStore:
    """A source's tokens, read where they lie on the disk.

    Attributes:
        names: files or data sets that the records' places begin with.
        renamed: what those were called when the store was written, to what they are now.
        attributes: names of the ratings, in order of appearance [K].
        census: what was dropped, shortened or skipped on the way.
        records: how many the source gave, those included that were dropped as tokens.
        content: SHA-256 of tokens, margins and prompts.
        arrays: ids [T], offsets [S + 1], margins [N], prompts [N] (hashes), files and rows [N] (a
            record's place), rating_counts [N], rating_columns and rating_values (cells).
    """

    kind: StoreKind
    names: tuple[str, ...]
    renamed: Mapping[str, str]
    attributes: tuple[str, ...]
    census: Census
    records: int
    content: str
    arrays: dict[str, NDArray[Any]]

    def __len__(self) -> int:
        return len(self.arrays["prompts"])

    def sequence(self, index: int) -> Tokens:
        """Tokens of one sequence, a read-only view of the file."""
        first, last = self.arrays["offsets"][index : index + 2].tolist()
        return self.arrays["ids"][first:last]

    def lengths(self) -> NDArray[np.int64]:
        """Tokens of every sequence, [S]."""
        return np.diff(self.arrays["offsets"])

    def where(self, index: int) -> str:
        """The place of a record, `file:line`."""
        name, row = self.names[self.arrays["files"][index]], int(self.arrays["rows"][index])
        return f"{name}:{row}" if row >= 0 else name

    def ratings(self, names: Sequence[str]) -> Floats:
        """Ratings [N, len(names)]; NaN where a record does not rate the attribute."""
        counts = self.arrays["rating_counts"]
        dense = np.full((len(self), len(self.attributes)), np.nan)
        rows = np.repeat(np.arange(len(self)), counts)
        dense[rows, self.arrays["rating_columns"]] = self.arrays["rating_values"]
        found = np.full((len(self), len(names)), np.nan)
        for column, name in enumerate(names):
            if name in self.attributes:
                found[:, column] = dense[:, self.attributes.index(name)]
        return found


class StoreWriter:
    """Appends records to a folder's arrays. Use it in a `with`; `finish` writes what opens it."""

    def __init__(self, folder: Path, kind: StoreKind, names: Sequence[str]) -> None:
        self.folder, self.kind = folder, kind
        self.attributes: dict[str, int] = {}
        self._names = {name: index for index, name in enumerate(names)}
        self._buffers: dict[str, array[Any]] = {
            name: array(code) for name, code in _COLUMNS.items()
        }
        self._buffers["offsets"].append(0)
        self._tokens = 0
        self._closing = ExitStack()
        self._streams = {
            name: self._closing.enter_context((folder / f"{name}.bin").open("wb", 1 << 20))
            for name in ("ids", *_COLUMNS)
        }

    def __enter__(self) -> StoreWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self._closing.close()

    def add_pair(
        self, chosen: Tokens, rejected: Tokens, margin: float, prompt: int, where: str
    ) -> None:
        """Append a preference; `prompt` is its hash."""
        self._sequence(chosen)
        self._sequence(rejected)
        self._buffers["margins"].append(margin)
        self._record(prompt, where)

    def add_rated(
        self, tokens: Tokens | None, scores: Mapping[str, float | None], prompt: int, where: str
    ) -> None:
        """Append a rated response; None where it was dropped and only its ratings are kept."""
        self._sequence(tokens)
        known = 0
        for name, value in scores.items():
            column = self.attributes.setdefault(name, len(self.attributes))
            if value is not None:
                self._buffers["rating_columns"].append(column)
                self._buffers["rating_values"].append(value)
                known += 1
        self._buffers["rating_counts"].append(known)
        self._record(prompt, where)

    def finish(self, census: Census, records: int) -> None:
        """Write everything out, and last what `open_store` begins with."""
        self._flush()
        self._closing.close()
        digest = hashlib.sha256()
        for name in _DECISIVE:
            digest.update(f"{name} {files.sha256(self.folder / f'{name}.bin')}\n".encode())
        meta = {
            "kind": self.kind,
            "names": list(self._names),
            "attributes": list(self.attributes),
            "content": digest.hexdigest(),
            "records": records,
            "census": census.plain(),
        }
        files.write_json(self.folder / META, meta)

    def _sequence(self, tokens: Tokens | None) -> None:
        if tokens is not None:
            self._streams["ids"].write(tokens.tobytes())
            self._tokens += len(tokens)
        self._buffers["offsets"].append(self._tokens)

    def _record(self, prompt: int, where: str) -> None:
        name, _, row = where.rpartition(":")
        if not (row.isascii() and row.isdigit()):
            name, row = where, "-1"
        self._buffers["files"].append(self._names.setdefault(name, len(self._names)))
        self._buffers["rows"].append(int(row))
        self._buffers["prompts"].append(prompt)
        if len(self._buffers["prompts"]) >= _FLUSH:
            self._flush()

    def _flush(self) -> None:
        for name, buffer in self._buffers.items():
            self._streams[name].write(buffer.tobytes())
            del buffer[:]


def open_store(folder: Path, names: Sequence[str] = ()) -> TokenStore:
    """Map a written folder.

    Args:
        names: what the source's files are called now; those of the writing where there are fewer.

    Raises:
        DataError: a file is missing, or the arrays do not fit together.
    """
    meta = files.read_json(folder / META)
    then = [str(name) for name in meta["names"]]
    now = [*names, *then[len(names) :]]
    try:
        arrays = {"ids": _mapped(folder / "ids.bin", np.dtype(np.int32))}
        for name, code in _COLUMNS.items():
            arrays[name] = _mapped(folder / f"{name}.bin", np.dtype(code))
    except (OSError, ValueError) as error:
        raise DataError(f"{folder}: cannot be mapped: {error}") from error
    renamed = dict(zip(then, now, strict=True))
    census = Census.from_plain(meta["census"], renamed)
    store = TokenStore(
        kind=meta["kind"],
        names=tuple(now),
        renamed=renamed,
        attributes=tuple(meta["attributes"]),
        census=census,
        records=int(meta["records"]),
        content=str(meta["content"]),
        arrays=arrays,
    )
    sequences = len(store) * (2 if store.kind == "preference" else 1)
    offsets = arrays["offsets"]
    if len(offsets) != sequences + 1 or int(offsets[-1]) != len(arrays["ids"]):
        raise DataError(f"{folder}: its arrays do not fit together")
    return store


def _mapped(path: Path, dtype: np.dtype[Any]) -> NDArray[Any]:
    if path.stat().st_size == 0:  # the system maps no empty file
        return np.empty(0, dtype=dtype)
    return np.asarray(np.memmap(path, dtype=dtype, mode="r"))
