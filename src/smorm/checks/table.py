"""What is stored of each record, response and rating: columns of fixed width, no text.
Shapes: N records, R responses, C rating cells."""

from __future__ import annotations

import hashlib
import struct
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from smorm.arrays import Bools, Floats, Ints
from smorm.checks.findings import MAX_LOCATIONS, Finding, FindingKind, Severity
from smorm.checks.shingles import Hashes
from smorm.data.records import Candidates, Kind, Messages, Preference, Rated, Record, prompt_hash

KINDS: tuple[Kind, ...] = ("preference", "rated", "candidates")
UNKNOWN = -1

# Type codes of `array`: b a byte, i 4 bytes, q and Q 8 bytes, d a double.
_RECORDS = {
    **dict.fromkeys(("kind", "flipped", "has_prompt", "prompt_filled", "texts_filled"), "b"),
    **dict.fromkeys(("source", "file", "responses", "prompt_words", "prompt_tokens"), "i"),
    **dict.fromkeys(("prompt", "texts", "record"), "Q"),
    "line": "q",
}
_RESPONSES = {"text": "Q", "words": "i", "tokens": "i"}
_RATINGS = {"row": "q", "column": "i", "value": "d", "raters": "i"}


def responses_of(record: Record) -> tuple[Messages, ...]:
    """Chosen then rejected; the one response; all candidates."""
    match record:
        case Preference():
            return record.chosen, record.rejected
        case Rated():
            return (record.response,)
        case Candidates():
            return record.responses


def kind_of(record: Record) -> Kind:
    """The kind that a record's class stands for."""
    return KINDS[(Preference, Rated, Candidates).index(type(record))]


@dataclass(slots=True)
class TableBuilder:
    """Grows record by record; `table` then gives each column as an array.

    Columns of records: `kind` (index into KINDS), `source` and `file` (indices), `line`, `prompt`
    (hash), `texts` (hash of prompt and responses whatever their order), `record` (hash of these
    with order and ratings), `flipped` (whether the chosen side's hash is the larger one),
    `responses` (number of them), lengths of the prompt, and whether prompt and responses hold a
    word. Of responses: `text` (hash with the prompt), `words`, and `tokens` of the whole
    conversation. Unknown lengths in tokens are -1."""

    records: dict[str, array[Any]] = field(default_factory=lambda: _empty(_RECORDS))
    responses: dict[str, array[Any]] = field(default_factory=lambda: _empty(_RESPONSES))
    ratings: dict[str, array[Any]] = field(default_factory=lambda: _empty(_RATINGS))
    files: dict[str, int] = field(default_factory=dict)
    attributes: dict[str, int] = field(default_factory=dict)

    def add(self, record: Record, source: int, tokens: Sequence[int]) -> None:
        """Add one record, with the tokens of its prompt and of each whole conversation, if known;
        lengths in words follow batch by batch with `add_words`."""
        prompt = prompt_hash(record.prompt)
        # A response's hash includes its prompt: the same answer to two prompts is no copy.
        sides = [_combined(prompt, prompt_hash(response)) for response in responses_of(record)]
        file, _, line = record.where.rpartition(":")
        # One unknown length for the prompt and one for each conversation.
        if not tokens:
            tokens = [UNKNOWN] * (1 + len(sides))
        values = {
            "kind": KINDS.index(kind_of(record)),
            "source": source,
            "file": self.files.setdefault(file, len(self.files)),
            "line": int(line) if line.isdecimal() else 0,
            "prompt": prompt,
            "texts": _combined(*sorted(sides)),
            "record": _combined(*sides, *self._add_ratings(record)),
            "flipped": int(sides[0] > sides[-1]),
            "has_prompt": int(bool(record.prompt)),
            "responses": len(sides),
            "prompt_tokens": tokens[0],
        }
        for name, value in values.items():
            self.records[name].append(value)
        self.responses["text"].extend(sides)
        self.responses["tokens"].extend(tokens[1:])

    def _add_ratings(self, record: Record) -> list[int]:
        """Store the ratings as cells; returns their hashes for the record's hash."""
        if not isinstance(record, Rated):
            return []
        row = len(self.records["kind"])
        hashes = {}
        for name, value in record.scores.items():
            column = self.attributes.setdefault(name, len(self.attributes))
            if value is not None:
                self.ratings["row"].append(row)
                self.ratings["column"].append(column)
                self.ratings["value"].append(value)
                self.ratings["raters"].append(record.raters.get(name, 1))
                # The value's bits: 4 and 4.5 differ, while the order of attributes does not count.
                packed = name.encode("utf-8", "surrogatepass") + struct.pack("<d", value)
                hashes[name] = _hash(packed)
        return [hashes[name] for name in sorted(hashes)]

    def add_words(self, prompts: Ints, responses: Ints, filled: tuple[Bools, Bools]) -> None:
        """Lengths in words of the prompts and responses added since the last call, and whether each
        record's prompt and responses hold a word."""
        self.records["prompt_words"].frombytes(prompts.astype(np.intc).tobytes())
        self.responses["words"].frombytes(responses.astype(np.intc).tobytes())
        for name, flags in zip(("prompt_filled", "texts_filled"), filled, strict=True):
            self.records[name].frombytes(flags.astype(np.int8).tobytes())

    def table(self, held_out: Sequence[bool]) -> Table:
        """The columns as arrays that share their memory; nothing can be added while they live.
        `held_out` says of each source whether its records are not for training."""
        records, responses, ratings = map(_arrays, (self.records, self.responses, self.ratings))
        train = ~np.array(held_out, dtype=bool)[records["source"]]
        return Table(records, responses, ratings, list(self.files), list(self.attributes), train)


@dataclass(frozen=True, slots=True)
class Table:
    """The columns of `TableBuilder`, with names of files and attributes."""

    records: dict[str, NDArray[Any]]
    responses: dict[str, NDArray[Any]]
    ratings: dict[str, NDArray[Any]]
    files: list[str]
    attributes: list[str]
    train: Bools  # whether a record is for training [N]

    def __len__(self) -> int:
        return len(self.train)

    def rows(self, kind: Kind, *, train: bool = True) -> Ints:
        """Records of one kind, of the training or of the held-out sources."""
        # Held-out records are in the same columns: one pass reads both.
        return np.flatnonzero((self.records["kind"] == KINDS.index(kind)) & (self.train == train))

    def first_response(self) -> Ints:
        """Where each record's responses begin [N]."""
        counts = self.records["responses"]
        first: Ints = np.cumsum(counts, dtype=np.int64) - counts
        return first

    def locations(self, rows: Ints) -> tuple[str, ...]:
        """The first few of some records, as `file:line`, in the order of reading."""
        locations = []
        # Rows are in the order of reading, so the first ones are the smallest.
        for row in np.unique(rows)[:MAX_LOCATIONS].tolist():
            file = self.files[self.records["file"][row]]
            locations.append(f"{file}:{self.records['line'][row]}")
        return tuple(locations)

    def findings(
        self, kind: FindingKind, severity: Severity, rows: Ints, total: int, **details: Any
    ) -> Iterator[Finding]:
        """A finding of some records, where there is any; `details` are further fields of it."""
        if len(rows):
            locations = self.locations(rows)
            yield Finding(kind, severity, len(rows), total, locations=locations, **details)

    def ratings_of(self, column: int) -> tuple[Floats, Ints]:
        """An attribute's training ratings and the records that they are of."""
        selected = self._trained(column)
        return self.ratings["value"][selected], self.ratings["row"][selected]

    def raters_of(self, column: int) -> Ints:
        """How many people each of an attribute's training ratings is the mean of."""
        return self.ratings["raters"][self._trained(column)]

    def _trained(self, column: int) -> Bools:
        selected: Bools = self.train[self.ratings["row"]] & (self.ratings["column"] == column)
        return selected

    def response_lengths(self, rows: Ints, index: int, unit: str) -> Ints:
        """Length of response number `index` of each record, in `words` or `tokens`; -1: unknown."""
        # Conversations are tokenised whole: a response is what is beyond the prompt's tokens.
        lengths = self.responses[unit][self.first_response()[rows] + index].astype(np.int64)
        if unit == "words":
            return lengths
        prompt = self.records["prompt_tokens"][rows]
        return np.where((lengths < 0) | (prompt < 0), UNKNOWN, np.maximum(0, lengths - prompt))

    def num_records(self) -> dict[str, dict[str, int]]:
        """Records by kind, for training and held out."""
        counts: dict[str, dict[str, int]] = {"train": {}, "held_out": {}}
        for kind in KINDS:
            for name, train in (("train", True), ("held_out", False)):
                count = len(self.rows(kind, train=train))
                if count:
                    counts[name][kind] = count
        return counts


def first_rows(keys: Hashes, rows: Ints) -> Ints:
    """The first of `rows` with each key, ordered by key: one row for each distinct content."""
    return rows[np.unique(keys[rows], return_index=True)[1]]


def _hash(content: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "little")


def _combined(*hashes: int) -> int:
    """One hash of 64 bits for several in their order."""
    return _hash(struct.pack(f"<{len(hashes)}Q", *hashes))


def _empty(columns: dict[str, str]) -> dict[str, array[Any]]:
    return {name: array(code) for name, code in columns.items()}


def _arrays(columns: dict[str, array[Any]]) -> dict[str, NDArray[Any]]:
    return {name: np.frombuffer(cells, dtype=cells.typecode) for name, cells in columns.items()}
