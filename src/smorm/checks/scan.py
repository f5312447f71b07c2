"""One pass over the sources: each record becomes a row of columns and two sketches."""

from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import repeat
from pathlib import Path

import numpy as np

from smorm.arrays import Bools, Ints
from smorm.checks import findings
from smorm.checks.findings import FINE, LOOK, MUST_FIX, Finding, FindingKind
from smorm.checks.overlap import Benchmarks
from smorm.checks.shingles import SketchFile, Words, grams, shingles, sketch, words_of
from smorm.checks.table import Table, TableBuilder, responses_of
from smorm.checks.tokens import TokenCheck, whole_conversations
from smorm.data.census import Census, Defect, DropReason
from smorm.data.encode import Outcome
from smorm.data.readers import contents_of
from smorm.data.reading import Source, read_records
from smorm.data.records import Kind, Record, text_of
from smorm.errors import DataError

BATCH_RECORDS = 2048
BATCH_CHARACTERS = 1 << 20
_EMPTY = (Defect.EMPTY_PROMPT, Defect.EMPTY_RESPONSE)
_REFUSED = (DropReason.BAD_RECORD, DropReason.TIE)
# Reasons with a sentence of their own; the rest is reported as it is counted.
_SEVERITIES: dict[StrEnum, findings.Severity] = {
    DropReason.NO_RATING: LOOK,
    DropReason.EMPTY_RESPONSE: LOOK,
    DropReason.EQUAL_RATINGS: FINE,
}


@dataclass(frozen=True, slots=True)
class CheckedSource:
    """A source, the kind its records must be of (None: any), and whether it is held out."""

    source: Source
    kind: Kind | None = None
    held_out: bool = False


@dataclass(frozen=True, slots=True)
class Scan:
    """Result of one pass over the sources."""

    sources: tuple[CheckedSource, ...]
    table: Table
    census: Census  # what the readers dropped, skipped or repaired
    tally: Census  # what the tokens showed
    unusable: tuple[str, ...]  # errors of sources without a single usable record
    # prompts, texts: sketches of each record's prompt, and of its responses together
    prompts: SketchFile
    texts: SketchFile


def scan(
    sources: Sequence[CheckedSource],
    folder: Path,
    tokens: TokenCheck | None = None,
    benchmarks: Benchmarks | None = None,
) -> Scan:
    """Read every source once. The sketches are stored in the folder, about 640 bytes a record.
    `benchmarks` gets the runs of words that it shares with the training records."""
    census, tally, unusable = Census(), Census(most_examples=findings.MAX_LOCATIONS), []
    prompts, texts = SketchFile(folder, "prompts"), SketchFile(folder, "texts")
    writer = _Writer(prompts, texts, benchmarks)
    with closing(prompts), closing(texts):
        for index, checked in enumerate(sources):
            counted, rows = census.total, writer.rows
            # Before its records: those of the last source may be for another side.
            writer.start(checked)
            try:
                # The readers skip bad records, counted; here only usable ones arrive.
                for record, outcome in _records(checked, census, tokens):
                    lengths: list[int] = []
                    if tokens is not None and outcome is not None:
                        lengths = tokens.examine(record, outcome, tally)
                    writer.add(record, index, lengths)
            except DataError as error:
                # A source in which every record is bad is a finding: its faults are in the census.
                if writer.rows > rows or census.total == counted:
                    raise
                unusable.append(str(error))
        writer.flush()
    table = writer.builder.table([checked.held_out for checked in sources])
    return Scan(tuple(sources), table, census, tally, tuple(unusable), prompts, texts)


def _records(
    checked: CheckedSource, census: Census, tokens: TokenCheck | None
) -> Iterator[tuple[Record, Outcome | None]]:
    records = read_records(checked.source, checked.kind, census, "skip")
    if tokens is None:
        return zip(records, repeat(None), strict=False)
    # The size decides how many processes are worth starting.
    source = checked.source
    size = contents_of(source.path, source.split, source.subset).size
    return tokens.tokeniser.tokenised(records, whole_conversations, size)


@dataclass(slots=True)
class _Writer:
    prompt_sketches: SketchFile
    text_sketches: SketchFile
    benchmarks: Benchmarks | None
    builder: TableBuilder = field(default_factory=TableBuilder)
    rows: int = 0
    _train: bool = True
    _prompts: list[str] = field(default_factory=list)
    _responses: list[str] = field(default_factory=list)
    _owners: list[int] = field(default_factory=list)
    _characters: int = 0

    def start(self, checked: CheckedSource) -> None:
        """Begin another source: a batch holds records of training or of held-out data only."""
        self.flush()
        self._train = not checked.held_out

    def add(self, record: Record, source: int, tokens: Sequence[int]) -> None:
        self.builder.add(record, source, tokens)
        texts = [text_of(response) for response in responses_of(record)]
        self._owners.extend([len(self._prompts)] * len(texts))
        self._prompts.append(text_of(record.prompt))
        self._responses.extend(texts)
        self._characters += sum(map(len, texts)) + len(self._prompts[-1])
        self.rows += 1
        # Both limits bound memory: by many short records, and by few long ones.
        if len(self._prompts) >= BATCH_RECORDS or self._characters >= BATCH_CHARACTERS:
            self.flush()

    def flush(self) -> None:
        """Hash and write what was gathered."""
        count = len(self._prompts)
        if not count:
            return
        prompts, responses = words_of(self._prompts), words_of(self._responses)
        prompt_owners = np.arange(count)
        response_owners = np.array(self._owners, dtype=np.int64)
        # Prompts and responses separately: near records must be alike in both.
        filled = (
            _write_sketch(self.prompt_sketches, prompts, prompt_owners, count),
            _write_sketch(self.text_sketches, responses, response_owners, count),
        )
        self.builder.add_words(prompts.lengths, responses.lengths, filled)
        if self.benchmarks is not None and self._train:
            first = self.rows - count
            for words, owners in ((prompts, prompt_owners), (responses, response_owners)):
                hashes, texts = grams(words)
                self.benchmarks.meet(hashes, first + owners[texts])
        self._prompts, self._responses, self._owners = [], [], []
        self._characters = 0


def _write_sketch(file: SketchFile, words: Words, owners: Ints, count: int) -> Bools:
    """Write the sketches of a batch; returns which records have a word at all."""
    hashes, texts = shingles(words)
    documents = owners[texts]
    file.append(*sketch(hashes, documents, count))
    return np.bincount(documents, minlength=count) > 0


def dropped_findings(scan: Scan) -> Iterator[Finding]:
    """Sources without a record, then bad, empty and equal records, and all other counts."""
    for error in scan.unusable:
        yield Finding(FindingKind.NO_USABLE_RECORD, MUST_FIX, numbers={"reason": error})
    # Of all records that were there, so also of those that the readers refused.
    total = len(scan.table) + sum(scan.census[kind] for kind in _REFUSED)
    for reason, count in scan.census.totals().items():
        kind, severity, case = FindingKind.COUNTED, FINE, ""
        if reason.kind is DropReason.TIE:
            kind, severity = FindingKind.EQUAL_SIDES, MUST_FIX
        elif reason.kind is DropReason.BAD_RECORD:
            kind, severity = FindingKind.BAD_RECORDS, MUST_FIX
            # Apart from other bad records: empty texts are common and have one obvious remedy.
            if reason.detail in _EMPTY:
                kind = FindingKind.EMPTY_SIDES
        elif reason.kind in _SEVERITIES:
            severity, case = _SEVERITIES[reason.kind], reason.kind.name.lower()
        numbers = {"reason": str(reason), "defect": reason.detail}
        locations = tuple(scan.census.examples.get(reason, ()))
        yield Finding(kind, severity, count, total, numbers, case, locations)
