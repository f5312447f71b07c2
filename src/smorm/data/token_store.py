"""Sources as tokens: flat arrays in a folder, memory-mapped, written while records stream by.

Shapes: N records, S sequences, T tokens; P pairs and R rated responses over all stores."""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from smorm import files
from smorm.arrays import Floats, Ints, Tokens, compact
from smorm.data.census import Census
from smorm.errors import DataError

T = TypeVar("T")
StoreKind = Literal["preference", "rated"]

META, QUARANTINE = "store.json", "quarantine.jsonl"
_FLUSH_ROWS = 1024
# One flat file each; the codes are those of `array` and of NumPy. A sequence is
# `ids[offsets[i]:offsets[i + 1]]`. A preference source has two a record (chosen, then rejected), a
# rated source one, which is empty where the record was dropped: its ratings still count for the
# scales. Ratings are cells (column, value), so that names may appear late.
_COLUMNS = {
    **dict.fromkeys(("ids", "files", "rating_counts", "rating_columns"), "i"),
    **dict.fromkeys(("offsets", "rows"), "q"),
    **dict.fromkeys(("margins", "rating_values"), "d"),
    "prompts": "Q",
}
# What decides the content's hash: all that training sees but the ratings, which it scales itself.
_HASHED = ("ids", "offsets", "margins", "prompts")


@dataclass(frozen=True, slots=True)
class TokenStore:
    """A source's tokens, read where they lie on the disk.

    `names` are the files or data sets that `where` begins with; `renamed` maps what they were
    called when the store was written. `records` counts those as well that were dropped as tokens.
    `content` is the SHA-256 of tokens, margins and prompts. `arrays`: ids [T], offsets [S + 1],
    prompts (hashes), files and rows (the halves of `where`), margins and rating_counts [N], and
    the cells rating_columns and rating_values."""

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

    def lengths(self) -> Ints:
        """Tokens of every sequence, [S]."""
        return np.diff(self.arrays["offsets"])

    def where(self, index: int) -> str:
        """Where a record stands, `file:line`."""
        name, row = self.names[self.arrays["files"][index]], int(self.arrays["rows"][index])
        return f"{name}:{row}" if row >= 0 else name

    def ratings(self, names: Sequence[str]) -> Floats:
        """Ratings [N, len(names)]; NaN where a record does not rate the attribute."""
        # one column more than there are attributes: it stays NaN and stands for unknown names
        dense = np.full((len(self), len(self.attributes) + 1), np.nan)
        rows = np.repeat(np.arange(len(self)), self.arrays["rating_counts"])
        dense[rows, self.arrays["rating_columns"]] = self.arrays["rating_values"]
        columns = {name: column for column, name in enumerate(self.attributes)}
        return dense[:, [columns.get(name, -1) for name in names]]


class StoreWriter(ExitStack):
    """Appends records to a folder's arrays. Use it in a `with`; `finish` writes what opens it."""

    def __init__(self, folder: Path, kind: StoreKind, names: Sequence[str]) -> None:
        super().__init__()
        self.folder, self.kind = folder, kind
        self.attributes: dict[str, int] = {}
        self._names = {name: index for index, name in enumerate(names)}
        self._num_tokens = 0
        self._buffers: dict[str, array[Any]] = {}
        self._streams: dict[str, Any] = {}
        for name, code in _COLUMNS.items():
            self._buffers[name] = array(code)
            stream = (folder / f"{name}.bin").open("wb", 1 << 20)
            self._streams[name] = self.enter_context(stream)
        self._buffers["offsets"].append(0)

    def add_pair(
        self, chosen: Tokens, rejected: Tokens, margin: float, prompt: int, where: str
    ) -> None:
        """Append a preference; `prompt` is its hash."""
        self._add_sequence(chosen)
        self._add_sequence(rejected)
        self._buffers["margins"].append(margin)
        self._end_record(prompt, where)

    def add_rated(
        self, tokens: list[Tokens], scores: Mapping[str, float | None], prompt: int, where: str
    ) -> None:
        """Append a rated response; no tokens where it was dropped and only its ratings count."""
        self._add_sequence(*tokens)
        num_ratings = 0
        for name, value in scores.items():
            # a name that is never rated is an attribute of the source all the same
            column = self.attributes.setdefault(name, len(self.attributes))
            if value is not None:
                self._buffers["rating_columns"].append(column)
                self._buffers["rating_values"].append(value)
                num_ratings += 1
        self._buffers["rating_counts"].append(num_ratings)
        self._end_record(prompt, where)

    def finish(self, census: Census, records: int) -> None:
        """Write everything out, and last what `open_store` begins with."""
        self._flush()
        self.close()
        # of the written bytes, so that the hash is the same however the buffers were flushed
        digest = hashlib.sha256()
        for name in _HASHED:
            digest.update(f"{name} {files.sha256(self.folder / f'{name}.bin')}\n".encode())
        meta = {"kind": self.kind, "names": list(self._names), "attributes": list(self.attributes)}
        counts = {"records": records, "census": census.plain()}
        files.write_json(self.folder / META, {**meta, **counts, "content": digest.hexdigest()})

    def _add_sequence(self, *tokens: Tokens) -> None:
        for ids in tokens:
            self._buffers["ids"].frombytes(ids.tobytes())
            self._num_tokens += len(ids)
        self._buffers["offsets"].append(self._num_tokens)

    def _end_record(self, prompt: int, where: str) -> None:
        # A place is a name of a few and a number: as text, a million of them would outweigh tokens.
        name, _, row = where.rpartition(":")
        if not (row.isascii() and row.isdigit()):
            name, row = where, "-1"
        self._buffers["files"].append(self._names.setdefault(name, len(self._names)))
        self._buffers["rows"].append(int(row))
        self._buffers["prompts"].append(prompt)
        if len(self._buffers["prompts"]) >= _FLUSH_ROWS:
            self._flush()

    def _flush(self) -> None:
        for name, buffer in self._buffers.items():
            buffer.tofile(self._streams[name])
            del buffer[:]


def open_store(folder: Path, names: Sequence[str] = ()) -> TokenStore:
    """Map a written folder; `names` are what the first of the source's files are called now."""
    meta = files.read_json(folder / META)
    # Files are matched by their order: the fingerprint has made sure that their bytes are the same.
    written_names = meta["names"]
    current_names = [*names, *written_names[len(names) :]]
    renamed = dict(zip(written_names, current_names, strict=True))
    arrays: dict[str, NDArray[Any]] = {}
    try:
        for name, code in _COLUMNS.items():
            path = folder / f"{name}.bin"
            arrays[name] = np.empty(0, code)
            if path.stat().st_size:  # the system maps no empty file
                arrays[name] = np.asarray(np.memmap(path, code, mode="r"))
    except (OSError, ValueError) as error:
        raise DataError(f"{folder}: cannot be mapped: {error}") from error
    store = TokenStore(
        kind=meta["kind"],
        names=tuple(current_names),
        renamed=renamed,
        attributes=tuple(meta["attributes"]),
        census=Census.from_plain(meta["census"], renamed),
        records=meta["records"],
        content=meta["content"],
        arrays=arrays,
    )
    per_record = {"preference": 2, "rated": 1}[store.kind]
    offsets = arrays["offsets"]
    if len(offsets) != len(store) * per_record + 1 or int(offsets[-1]) != len(arrays["ids"]):
        raise DataError(f"{folder}: its arrays do not fit together")
    return store


@dataclass(frozen=True, slots=True)
class TokenPair:
    """A preference as tokens; `prompt` is the same number for pairs over one prompt."""

    chosen: Tokens
    rejected: Tokens
    margin: float
    prompt: int
    where: str


@dataclass(frozen=True, slots=True)
class TokenRated:
    """A rated response as tokens; its ratings are the set's `targets`."""

    tokens: Tokens
    prompt: int
    where: str


@dataclass(frozen=True, slots=True, eq=False)
class Joined(Sequence[T], Generic[T]):
    """Records `rows` (numbered over all stores), each made when it is read, by `make(store, row in
    the store, index in this sequence)`."""

    stores: tuple[TokenStore, ...]
    rows: Ints | range
    make: Callable[[TokenStore, int, int], T]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[position] for position in range(*index.indices(len(self)))]
        # a handful of stores: a walk is quicker than a search
        row = int(self.rows[index])
        for store in self.stores:
            if row < len(store):
                return self.make(store, row, index % len(self))
            row -= len(store)
        raise IndexError(index)


def pairs_of(stores: Sequence[TokenStore], prompts: Ints) -> Joined[TokenPair]:
    """All pairs of preference stores; `prompts` [P] are their prompt ids."""

    def make(store: TokenStore, row: int, index: int) -> TokenPair:
        chosen, rejected = store.sequence(2 * row), store.sequence(2 * row + 1)
        margin = float(store.arrays["margins"][row])
        return TokenPair(chosen, rejected, margin, int(prompts[index]), store.where(row))

    return Joined(tuple(stores), range(len(prompts)), make)


def rated_of(stores: Sequence[TokenStore], rows: Ints, prompts: Ints) -> Joined[TokenRated]:
    """The rated responses `rows` [R] of rated stores; `prompts` [R] are their prompt ids."""

    def make(store: TokenStore, row: int, index: int) -> TokenRated:
        return TokenRated(store.sequence(row), int(prompts[index]), store.where(row))

    return Joined(tuple(stores), rows, make)


def where_of(stores: Sequence[TokenStore], rows: Ints) -> list[str]:
    """`file:line` of records, numbered over all stores."""
    return list(Joined(tuple(stores), rows, lambda store, row, _: store.where(row)))


def prompt_ids(
    pairs: Sequence[TokenStore], rated: Sequence[TokenStore], rated_rows: Ints
) -> tuple[Ints, Ints]:
    """Ids of the distinct prompts, from 0 in order of first appearance: of every pair [P], and of
    the rated responses `rated_rows` [R]. A prompt has one id for both."""
    none = np.empty(0, dtype=np.uint64)
    num_pairs = sum(map(len, pairs))
    hashes = [store.arrays["prompts"] for store in pairs]
    of_rated = np.concatenate([none, *(store.arrays["prompts"] for store in rated)])[rated_rows]
    ids = _by_first_appearance(np.concatenate([none, *hashes, of_rated]))
    return ids[:num_pairs], ids[num_pairs:]


def _by_first_appearance(hashes: NDArray[np.uint64]) -> Ints:
    """The number of each entry's value among the distinct ones, from 0 in order of appearance: the
    same for any hash. Arrays as long as all pairs are few, and gone as soon as they can be."""
    # Stable: of equal values the first stands first.
    order = compact(np.argsort(hashes, kind="stable"))
    in_order = hashes[order]
    begins = np.ones(len(hashes), dtype=bool)
    np.not_equal(in_order[1:], in_order[:-1], out=begins[1:])
    del in_order, hashes
    first_seen = order[begins]
    rank = np.empty(len(first_seen), dtype=order.dtype)
    rank[np.argsort(first_seen)] = np.arange(len(first_seen), dtype=order.dtype)
    sizes = np.diff(np.append(np.flatnonzero(begins), len(order)))
    ids = np.empty_like(order)
    ids[order] = np.repeat(rank, sizes)
    return ids
