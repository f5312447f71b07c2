"""One pass over the sources: each record becomes a row of columns and two sketches."""

import re
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import repeat
from pathlib import Path

import numpy as np

from smorm.arrays import Bools, Ints
from smorm.checks import findings, markup
from smorm.checks.findings import FINE, LOOK, MUST_FIX, Finding, FindingKind, Thresholds, above
from smorm.checks.overlap import Benchmarks
from smorm.checks.shingles import SketchFile, Words, grams, shingles, sketch, words_of
from smorm.checks.table import KINDS, Table, TableBuilder, responses_of
from smorm.checks.tokens import TokenCheck, whole_conversations
from smorm.data.census import UNREAD_KINDS, BadRecord, Census, Defect, DropReason
from smorm.data.encode import Outcome
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


@dataclass(slots=True)
class Refusals:
    """Bad records that have the same defect in the same field."""

    first: BadRecord  # in the words with which it stops a run
    locations: list[str] = field(default_factory=list)
    count: int = 0


@dataclass(frozen=True, slots=True)
class Scan:
    """Result of one pass over the sources."""

    sources: tuple[CheckedSource, ...]
    table: Table
    censuses: tuple[Census, ...]  # what the reader of each source dropped, skipped or repaired
    refusals: tuple[Refusals, ...]
    tally: Census  # what texts and tokens showed
    unusable: tuple[str, ...]  # errors of sources without a single usable record
    # prompts, texts: sketches of each record's prompt, and of its responses together
    prompts: SketchFile
    texts: SketchFile

    @property
    def census(self) -> Census:
        """What the readers of all sources counted."""
        total = Census(most_examples=findings.MAX_LOCATIONS)
        for census in self.censuses:
            total.merge(census)
        return total


def scan(
    sources: Sequence[CheckedSource],
    folder: Path,
    tokens: TokenCheck | None = None,
    benchmarks: Benchmarks | None = None,
) -> Scan:
    """Read every source once. The sketches are stored in the folder, about 640 bytes a record.
    `benchmarks` gets the runs of words that it shares with the training records."""
    censuses, tally, unusable = [], Census(most_examples=findings.MAX_LOCATIONS), []
    refusals = _Refused()
    prompts, texts = SketchFile(folder, "prompts"), SketchFile(folder, "texts")
    writer = _Writer(prompts, texts, benchmarks)
    with closing(prompts), closing(texts):
        for index, checked in enumerate(sources):
            rows, census = writer.rows, Census(most_examples=findings.MAX_LOCATIONS)
            censuses.append(census)
            # Before its records: those of the last source may be for another side.
            writer.start(checked)
            try:
                # The readers skip bad records, counted; here only usable ones arrive.
                for record, outcome in _records(checked, census, refusals, tokens):
                    lengths: list[int] = []
                    markup.examine(record, tally)
                    if tokens is not None and outcome is not None:
                        lengths = tokens.examine(record, outcome, tally)
                    writer.add(record, index, lengths)
            except DataError as error:
                # A source in which every record is bad is a finding: its faults are in the census.
                if writer.rows > rows or not census.total:
                    raise
                unusable.append(str(error))
        writer.flush()
    table = writer.builder.table([checked.held_out for checked in sources])
    return Scan(
        tuple(sources),
        table,
        tuple(censuses),
        tuple(refusals.kinds.values()),
        tally,
        tuple(unusable),
        prompts,
        texts,
    )


@dataclass(slots=True)
class _Refused:
    """Bad records by defect and field, as they are read."""

    kinds: dict[tuple[str, str], Refusals] = field(default_factory=dict)

    def add(self, bad: BadRecord) -> None:
        # The third response is as wrong as the second.
        key = (bad.defect.value, re.sub(r"\[\d+\]", "[]", bad.field))
        refusals = self.kinds.setdefault(key, Refusals(bad))
        refusals.count += 1
        if len(refusals.locations) < findings.MAX_LOCATIONS:
            refusals.locations.append(bad.where)


def _records(
    checked: CheckedSource, census: Census, refusals: _Refused, tokens: TokenCheck | None
) -> Iterator[tuple[Record, Outcome | None]]:
    source, kind = checked.source, checked.kind
    records = read_records(source, kind, census, "skip", refused=refusals.add)
    if tokens is None:
        return zip(records, repeat(None), strict=False)
    # The size decides how many processes are worth starting.
    size = source.contents().size
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
            kinds = np.asarray(self.builder.records["kind"][first:])
            unlabelled = kinds == KINDS.index("candidates")
            for words, owners in ((prompts, prompt_owners), (responses, response_owners)):
                hashes, texts = grams(words)
                indices = owners[texts]
                self.benchmarks.meet(hashes, first + indices, unlabelled[indices])
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
    census = scan.census
    total = len(scan.table) + sum(census[kind] for kind in _REFUSED)
    for refusals in scan.refusals:
        defect, numbers = refusals.first.defect, {"reason": str(refusals.first)}
        # Apart from other bad records: empty texts are common and have one obvious remedy.
        kind = FindingKind.EMPTY_SIDES if defect in _EMPTY else FindingKind.BAD_RECORDS
        numbers["defect"] = defect.value
        locations = tuple(refusals.locations)
        yield Finding(kind, MUST_FIX, refusals.count, total, numbers, locations=locations)
    for reason, count in census.totals().items():
        if reason.kind is DropReason.BAD_RECORD or reason.kind in UNREAD_KINDS:
            continue
        kind, severity, case = FindingKind.COUNTED, FINE, ""
        if reason.kind is DropReason.TIE:
            kind, severity = FindingKind.EQUAL_SIDES, MUST_FIX
        elif reason.kind in _SEVERITIES:
            severity, case = _SEVERITIES[reason.kind], reason.kind.name.lower()
        locations = tuple(census.examples.get(reason, ()))
        yield Finding(kind, severity, count, total, {"reason": str(reason)}, case, locations)


def unread_findings(scan: Scan) -> Iterator[Finding]:
    """Fields of each source that nothing read, those with content apart from the others."""
    kinds = ((FindingKind.UNREAD_CONTENT, LOOK), (FindingKind.UNREAD_FIELDS, FINE))
    for checked, census in zip(scan.sources, scan.censuses, strict=True):
        for unread, (kind, severity) in zip(UNREAD_KINDS, kinds, strict=True):
            counts: dict[str, int] = {}
            locations: tuple[str, ...] = ()
            for reason, count in census.totals().items():
                if reason.kind is unread:
                    counts[reason.detail] = count
                    locations = locations or tuple(census.examples.get(reason, ()))
            if counts:
                numbers = {
                    "source": checked.source.path,
                    "fields": ", ".join(f"{name} ({count:,})" for name, count in counts.items()),
                    "names": ", ".join(counts),
                    "example": _example(list(counts)),
                }
                count = max(counts.values())
                yield Finding(kind, severity, count, None, numbers, locations=locations)


# Of which part of a record such a name mostly is, and how a source says so.
_PARTS = {
    "tools": ("tools", "functions"),
    "system": ("system", "system_prompt", "sys_prompt", "system_message"),
    "history": ("history",),
}
_GOOD, _BAD = re.compile(r"chosen|preferred"), re.compile(r"rejected|dispreferred")


def _example(names: Sequence[str]) -> str:
    """The keys of a source by which the first of some unread columns would be read."""
    if {"ranks", "ratings"} & set(names):
        return "format: ranked reads ranks and ratings beside responses"
    for target, columns in _PARTS.items():
        for name in names:
            if name.lower() in columns:
                return f"columns: {{{target}: {name}}}"
    for good in names:
        for bad in names:
            # `score_chosen` and `score_rejected`, `chosen-rating` and `rejected-rating`
            if _GOOD.search(good) and _GOOD.sub("", good) == _BAD.sub("", bad) != bad:
                return f"columns: {{margin: {good} - {bad}}}, where they are numbers"
    return "columns: {system: COLUMN} or {margin: A - B}"


def markup_findings(scan: Scan, limits: Thresholds) -> Iterator[Finding]:
    """Texts that were meant in another shape than they are read in."""
    total, tally = len(scan.table), scan.tally
    repeated = tally[FindingKind.PROMPT_REPEATED]
    severities = {
        FindingKind.HH_MARKERS: LOOK,
        FindingKind.CHAT_MARKUP: LOOK,
        FindingKind.MESSAGES_AS_TEXT: LOOK,
        FindingKind.PROMPTS_DIFFER: LOOK,
        # Now and then an answer repeats its question.
        FindingKind.PROMPT_REPEATED: above(repeated, total, limits.repeated, LOOK, FINE),
    }
    for reason, count in tally.totals().items():
        for kind, severity in severities.items():
            if reason.kind is kind:
                numbers, locations = {"family": reason.detail}, tuple(tally.examples[reason])
                yield Finding(kind, severity, count, total, numbers, locations=locations)
