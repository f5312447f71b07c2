"""One pass over the sources: a record becomes a row of columns and two sketches, then is gone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from smorm.checks.columns import Columns, Flags, Table, responses_of
from smorm.checks.findings import Tally
from smorm.checks.overlap import Benchmarks, text_of
from smorm.checks.shingles import Ints, Words, grams, shingles, words_of
from smorm.checks.sketches import SketchFile, sketch
from smorm.checks.tokens import TokenCheck, whole_conversations
from smorm.data.census import Census
from smorm.data.encode import Outcome
from smorm.data.readers import contents_of
from smorm.data.reading import Source, read_records
from smorm.data.records import Kind, Record
from smorm.errors import DataError

BATCH_RECORDS = 2048
BATCH_CHARACTERS = 1 << 20


@dataclass(frozen=True, slots=True)
class Reading:
    """A source, the kind its records must be of (None: whatever they are), and what it is for."""

    source: Source
    kind: Kind | None = None
    held_out: bool = False


@dataclass(frozen=True, slots=True)
class Scan:
    """What one pass over the sources found.

    Attributes:
        census: what the readers dropped, skipped or repaired.
        tally: what the tokens showed.
        unusable: sources that gave no record at all, each with the reason.
        prompts, texts: sketches of each record's prompt, and of its responses together.
    """

    readings: tuple[Reading, ...]
    table: Table
    census: Census
    tally: Tally
    unusable: tuple[str, ...]
    prompts: SketchFile
    texts: SketchFile


def scan(
    readings: Sequence[Reading],
    folder: Path,
    tokens: TokenCheck | None = None,
    benchmarks: Benchmarks | None = None,
) -> Scan:
    """Read every source once.

    Args:
        folder: where the sketches are kept, about 640 bytes a record.
        tokens: examines what becomes of each record as tokens; None leaves tokens out.
        benchmarks: gets the runs of words that it shares with the training records.

    Raises:
        DataError: a file or folder as a whole cannot be read.
        ConfigError: a format of another kind than asked for.
    """
    census, tally, unusable = Census(), Tally(), []
    files = SketchFile(folder, "prompts"), SketchFile(folder, "texts")
    writer = _Writer(files, benchmarks)
    with closing(files[0]), closing(files[1]):
        for index, reading in enumerate(readings):
            counted, rows = census.total, writer.rows
            writer.start(reading)
            try:
                for record, outcome in _records(reading, census, tokens):
                    lengths = tokens.examine(record, outcome, tally) if tokens and outcome else []
                    writer.add(record, index, lengths)
            except DataError as error:
                # Of a source in which every record is bad we tell what is bad in it.
                if writer.rows > rows or census.total == counted:
                    raise
                unusable.append(str(error))
        writer.flush()
    table = writer.columns.arrays([reading.held_out for reading in readings])
    return Scan(tuple(readings), table, census, tally, tuple(unusable), *files)


def _records(
    reading: Reading, census: Census, tokens: TokenCheck | None
) -> Iterator[tuple[Record, Outcome | None]]:
    records = read_records(reading.source, reading.kind, census, "skip")
    if tokens is None:
        for record in records:
            yield record, None
    else:
        source = reading.source
        size = contents_of(source.path, source.split, source.subset).size
        yield from tokens.tokeniser.tokenised(records, whole_conversations, size)


@dataclass(slots=True)
class _Writer:
    """Gathers records into batches, whose words are hashed together."""

    files: tuple[SketchFile, SketchFile]
    benchmarks: Benchmarks | None
    columns: Columns = field(default_factory=Columns)
    rows: int = 0
    _train: bool = True
    _prompts: list[str] = field(default_factory=list)
    _responses: list[str] = field(default_factory=list)
    _owners: list[int] = field(default_factory=list)
    _characters: int = 0

    def start(self, reading: Reading) -> None:
        """The records of another source come now."""
        self.flush()
        self._train = not reading.held_out

    def add(self, record: Record, source: int, tokens: Sequence[int]) -> None:
        self.columns.add(record, source, tokens)
        texts = [text_of(one) for one in responses_of(record)]
        self._owners.extend([len(self._prompts)] * len(texts))
        self._prompts.append(text_of(record.prompt))
        self._responses.extend(texts)
        self._characters += sum(map(len, texts)) + len(self._prompts[-1])
        self.rows += 1
        if len(self._prompts) >= BATCH_RECORDS or self._characters >= BATCH_CHARACTERS:
            self.flush()

    def flush(self) -> None:
        """Hash and write what was gathered."""
        count = len(self._prompts)
        if not count:
            return
        prompts, responses = words_of(self._prompts), words_of(self._responses)
        owners = np.array(self._owners, dtype=np.int64)
        filled = (
            self._sketch(self.files[0], prompts, np.arange(count), count),
            self._sketch(self.files[1], responses, owners, count),
        )
        self.columns.add_words(prompts.lengths, responses.lengths, filled)
        if self.benchmarks is not None and self._train:
            first = self.rows - count
            for words, of in ((prompts, np.arange(count)), (responses, owners)):
                hashes, texts = grams(words)
                self.benchmarks.meet(hashes, first + of[texts])
        self._prompts, self._responses, self._owners = [], [], []
        self._characters = 0

    def _sketch(self, file: SketchFile, words: Words, owners: Ints, count: int) -> Flags:
        """Write the sketches of a batch; returns which records have a word at all."""
        hashes, texts = shingles(words)
        file.append(*sketch(hashes, owners[texts], count))
        return np.bincount(owners[texts], minlength=count) > 0
