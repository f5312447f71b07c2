"""What is kept of each record, response and rating: columns of fixed width, no text.

Shapes: N records, R responses, C rating cells.
"""

from __future__ import annotations

import hashlib
import struct
from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from smorm.checks.findings import PLACES
from smorm.checks.shingles import Hashes, Ints
from smorm.data.records import Candidates, Kind, Messages, Preference, Rated, Record, prompt_hash

Flags = NDArray[np.bool_]
KINDS: tuple[Kind, ...] = ("preference", "rated", "candidates")
UNKNOWN = -1

_RECORDS = {
    "kind": "b",
    "source": "i",
    "file": "i",
    "line": "q",
    "prompt": "Q",
    "texts": "Q",
    "record": "Q",
    "flipped": "b",
    "has_prompt": "b",
    "responses": "i",
    "prompt_words": "i",
    "prompt_tokens": "i",
    "prompt_filled": "b",
    "texts_filled": "b",
}
_RESPONSES = {"text": "Q", "words": "i", "tokens": "i"}
_RATINGS = {"row": "q", "column": "i", "value": "d"}


def responses_of(record: Record) -> tuple[Messages, ...]:
    """Chosen then rejected; the one response; all candidates."""
    match record:
        case Preference():
            return record.chosen, record.rejected
        case Rated():
            return (record.response,)
        case Candidates():
            return record.responses


def combined(*hashes: int) -> int:
    """One hash of 64 bits for several in their order."""
    packed = struct.pack(f"<{len(hashes)}Q", *hashes)
    return int.from_bytes(hashlib.blake2b(packed, digest_size=8).digest(), "little")


@dataclass(slots=True)
class Columns:
    """Grows record by record; `arrays` then gives each column as an array.

    Columns of records: `kind` (index into KINDS), `source` and `file` (indices), `line`, `prompt`
    (hash), `texts` (hash of prompt and responses whatever their order), `record` (hash of these
    with order and ratings), `flipped` (whether the chosen side's hash is the larger one),
    `responses` (how many), lengths of the prompt, and whether prompt and responses hold a word.
    Of responses: `text` (hash with the prompt), `words`, and `tokens` of the whole conversation.
    Lengths in tokens are -1 where they are not known.
    """

    records: dict[str, array[Any]] = field(default_factory=lambda: _empty(_RECORDS))
    responses: dict[str, array[Any]] = field(default_factory=lambda: _empty(_RESPONSES))
    ratings: dict[str, array[Any]] = field(default_factory=lambda: _empty(_RATINGS))
    files: dict[str, int] = field(default_factory=dict)
    attributes: dict[str, int] = field(default_factory=dict)

    def add(self, record: Record, source: int, tokens: Sequence[int]) -> None:
        """One record; the lengths in words and what is filled follow with `add_words`.

        Args:
            tokens: of the prompt and of each whole conversation; none where they are not known.
        """
        prompt = prompt_hash(record.prompt)
        sides = [combined(prompt, prompt_hash(one)) for one in responses_of(record)]
        file, _, line = record.where.rpartition(":")
        row = len(self.records["kind"])
        values = {
            "kind": KINDS.index(kind_of(record)),
            "source": source,
            "file": self.files.setdefault(file, len(self.files)),
            "line": int(line) if line.isdecimal() else 0,
            "prompt": prompt,
            "texts": combined(*sorted(sides)),
            "record": combined(*sides, *self._rate(record, row)),
            "flipped": int(sides[0] > sides[-1]),
            "has_prompt": int(bool(record.prompt)),
            "responses": len(sides),
            "prompt_tokens": tokens[0] if tokens else UNKNOWN,
        }
        for name, value in values.items():
            self.records[name].append(value)
        self.responses["text"].extend(sides)
        self.responses["tokens"].extend(tokens[1:] if tokens else [UNKNOWN] * len(sides))

    def _rate(self, record: Record, row: int) -> list[int]:
        """Keep the ratings as cells; returns them as integers for the record's hash."""
        if not isinstance(record, Rated):
            return []
        told: list[tuple[str, float]] = []
        for name, value in record.scores.items():
            column = self.attributes.setdefault(name, len(self.attributes))
            if value is not None:
                self.ratings["row"].append(row)
                self.ratings["column"].append(column)
                self.ratings["value"].append(value)
                told.append((name, value))
        return [rating_hash(name, value) for name, value in sorted(told)]

    def add_words(self, prompts: Ints, responses: Ints, filled: tuple[Flags, Flags]) -> None:
        """Lengths in words of the prompts and responses added since the last call, and whether each
        record's prompt and responses hold a word."""
        self.records["prompt_words"].frombytes(prompts.astype(np.intc).tobytes())
        self.responses["words"].frombytes(responses.astype(np.intc).tobytes())
        for name, flags in zip(("prompt_filled", "texts_filled"), filled, strict=True):
            self.records[name].frombytes(flags.astype(np.int8).tobytes())

    def arrays(self, held_out: Sequence[bool]) -> Table:
        """The columns as arrays that share their memory; nothing can be added while they live.

        Args:
            held_out: of each source, whether its records are not for training.
        """
        records, responses, ratings = (
            {name: np.frombuffer(values, dtype=values.typecode) for name, values in group.items()}
            for group in (self.records, self.responses, self.ratings)
        )
        train = ~np.array(held_out, dtype=bool)[records["source"]]
        return Table(records, responses, ratings, list(self.files), list(self.attributes), train)


@dataclass(frozen=True, slots=True)
class Table:
    """The columns of `Columns`, with names of files and attributes.

    Attributes:
        train: whether a record is for training [N].
    """

    records: dict[str, NDArray[Any]]
    responses: dict[str, NDArray[Any]]
    ratings: dict[str, NDArray[Any]]
    files: list[str]
    attributes: list[str]
    train: Flags

    def __len__(self) -> int:
        return len(self.train)

    def rows(self, kind: Kind, *, train: bool = True) -> Ints:
        """Records of one kind, of the training or of the held-out sources."""
        return np.flatnonzero((self.records["kind"] == KINDS.index(kind)) & (self.train == train))

    def first_response(self) -> Ints:
        """Where each record's responses begin [N]."""
        counts = self.records["responses"]
        first: Ints = np.cumsum(counts, dtype=np.int64) - counts
        return first

    def places(self, rows: Ints) -> tuple[str, ...]:
        """The first few of some records, as `file:line`, in the order of reading."""
        return tuple(
            f"{self.files[self.records['file'][row]]}:{self.records['line'][row]}"
            for row in np.unique(rows)[:PLACES].tolist()
        )


def first_rows(keys: Hashes, rows: Ints) -> Ints:
    """The first of `rows` with each key, ordered by key: one row for each distinct content."""
    return rows[np.unique(keys[rows], return_index=True)[1]]


def kind_of(record: Record) -> Kind:
    """The kind that a record's class stands for."""
    match record:
        case Preference():
            return "preference"
        case Rated():
            return "rated"
        case Candidates():
            return "candidates"


def rating_hash(name: str, value: float) -> int:
    """One hash of an attribute's name and a rating."""
    packed = name.encode("utf-8", "surrogatepass") + struct.pack("<d", value)
    return int.from_bytes(hashlib.blake2b(packed, digest_size=8).digest(), "little")


def _empty(columns: dict[str, str]) -> dict[str, array[Any]]:
    return {name: array(code) for name, code in columns.items()}
