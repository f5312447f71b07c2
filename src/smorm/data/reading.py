"""From a source to checked records: read, pick the format, parse, drop what is no evidence."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, BinaryIO, Literal, cast

import orjson

from smorm.data import rows
from smorm.data.census import BadRecord, Census, Defect, DropReason
from smorm.data.fields import Context, Labels
from smorm.data.formats import FORMATS, Format, Parsed, Row, format_hint, format_of_row
from smorm.data.formats.generic import dialogue_name, has_prompt
from smorm.data.guessing import likely_source
from smorm.data.jsonlines import Scanned
from smorm.data.mapping import TARGETS, Columns, has_column, value_at
from smorm.data.messages import read_json_texts
from smorm.data.readers import Contents, contents_of, is_csv, scan_rows
from smorm.data.records import Candidates, Fields, Identity, Kind, Preference, Rated, Record
from smorm.data.rows import Content, Unread
from smorm.errors import ConfigError, DataError, OutputError
from smorm.limits import limit, refusal
from smorm.names import names_problem
from smorm.printing import VALUE, brief, cut
from smorm.text.chat import RAW

OnBad = Literal["stop", "skip"]
TakeBad = Callable[[BadRecord, Row | None], None]
SIDES = ("chosen", "rejected")
_TRANSCRIPT = re.compile(r"\s*Human: .*\n\nAssistant:", re.DOTALL)
_MISSING = (Defect.MISSING_FIELD, Defect.EMPTY_PROMPT)
_QUESTIONS = ("question", "instruction", "query", "input", "context")
_ENTRY = orjson.OPT_APPEND_NEWLINE | orjson.OPT_NON_STR_KEYS | orjson.OPT_SERIALIZE_NUMPY
_MANY_FIELDS, _MOST_COUNTED = "fields of further names", 2000
_TEXTS = ("responses", "prompt", "prompt_messages")


@dataclass(frozen=True, slots=True)
class Source:
    """Where records come from and how they are read; the keys of a source in `docs/data.md`.

    Of Unified-Feedback the "40K" is `stride` 20, the "400K" 2. Without `attributes` every name in
    `scores` counts. `columns` says which column is which part of a record, `ignore` which fields
    need not be read. With `streaming` a dataset id is read from the hub while it is downloaded.
    `keep_fields` keeps what a row says of each response, as `Item.fields`. With
    `every_response` a row's responses come in its order, whatever was said of them, and one that is
    not usable leaves the others (`Candidates.unusable`)."""

    path: str | Path
    format: str = "auto"
    split: str = "train"
    subset: str | None = None
    attributes: Mapping[str, str] | Sequence[str] | None = None
    limit: int | None = None
    stride: int = 1
    columns: Mapping[str, str | Sequence[str]] = field(default_factory=dict)
    ignore: Sequence[str] = ()
    label: Labels | None = None
    na: Sequence[str] = ()
    booleans: bool = False
    numbers_in_text: bool = False
    streaming: bool = False
    keep_fields: bool = False
    every_response: bool = False

    def __post_init__(self) -> None:
        # A lookup raises the error that names the nearest format; of a known one it would import
        # the module, for which there is time when the source is read.
        if self.format != "auto" and self.format not in FORMATS:
            FORMATS[self.format]
        if self.stride < 1 or (self.limit is not None and self.limit < 1):
            raise ConfigError(f"{self.path}: stride and limit must be at least 1")
        Columns.parse(self.columns)
        if not all(map(str.strip, self.ignore)):
            raise ConfigError(f"{self.path}: ignore: expected names of fields, got an empty one")
        if problem := names_problem(self._listed or ()):
            raise ConfigError(f"attributes: {problem}")

    def scanned(self) -> Iterator[Scanned]:
        """Its rows, a row that cannot be parsed as a `BadRecord`."""
        return scan_rows(self.path, self.split, self.subset, streaming=self.streaming)

    def contents(self) -> Contents:
        """The files behind it."""
        return contents_of(self.path, self.split, self.subset, streaming=self.streaming)

    @property
    def _listed(self) -> Mapping[str, str] | Sequence[str] | None:
        # As a column of the record: one name, or several.
        if self.attributes is None and "scores" in self.columns:
            column = self.columns["scores"]
            return [column] if isinstance(column, str) else column
        return self.attributes

    @property
    def attribute_columns(self) -> dict[str, str] | None:
        """Attribute name to column; names that are listed are their own columns."""
        listed = self._listed
        if listed is None:
            return None
        if isinstance(listed, Mapping):
            return dict(listed)
        return dict(zip(listed, listed, strict=True))


@dataclass(frozen=True, slots=True)
class _Reader:
    """How the rows of one source become records, its format's own settings included."""

    source: Source
    form: Format | None
    columns: Columns
    context: Context

    @classmethod
    def of(cls, source: Source, census: Census) -> _Reader:
        form = None if source.format == "auto" else FORMATS[source.format]
        columns: dict[str, str | Sequence[str]] = {}
        attributes: Mapping[str, str] | None = source.attribute_columns
        labels, booleans = source.label, source.booleans
        if form is not None:
            columns |= form.columns
            attributes = attributes or form.attributes
            labels = labels or form.labels
            booleans = booleans or form.booleans
        columns |= source.columns
        # Named ratings are found by their names, like any attribute.
        columns.pop("scores", None)
        parsed = Columns.parse(columns)
        context = Context(
            "", census, attributes, parsed.targets, labels, frozenset(source.na), booleans,
            source.numbers_in_text or is_csv(Path(source.path)), source.every_response,
        )  # fmt: skip
        return cls(source, form, parsed, context)

    def read(self, row: Mapping[str, Any], where: str, kind: Kind | None) -> Parsed:
        """The records of a row; `BadRecord` where it is not usable, or where its meaning could rest
        on a field that is not read."""
        context = self.context
        context.where = where
        tracked = self.columns.apply(rows.Row(row), context)
        read_json_texts(tracked, context)
        form = self.form or format_of_row(tracked, kind, context)
        try:
            parsed = form.parse(tracked, context)
        except BadRecord as bad:
            # What is missing may be there by another name.
            known = context.configurable and self.form is None and bad.field in TARGETS
            if known and bad.defect in _MISSING:
                problem = f"{bad.problem}{likely_source(row, kind)}"
                raise context.bad(bad.field, bad.defect, problem) from None
            raise
        unread: list[Unread] = []
        if not tracked.is_read:
            unread = [entry for entry in tracked.unread() if not self._ignores(entry.path)]
        # A named format says where its prompt is.
        if not _has_any_prompt(tracked) and form is FORMATS["preference"]:
            _refuse_unread(row, unread, context)
        if self.form is None:
            _refuse_transcripts(parsed, context)
        if "margin" in context.mapped:
            parsed = [record for record in parsed if not _is_tie(record, context)]
        for entry in unread:
            reason = DropReason.CONTENT_NOT_READ
            if entry.content is Content.OTHER:
                reason = DropReason.NOT_READ
            # Where each row has names of its own, counts of all would take more than the rows.
            name = _MANY_FIELDS
            if len(context.census.counts) < _MOST_COUNTED:
                name = cut(entry.path, VALUE)
            context.count(reason, name)
        return parsed

    def given_id(self, row: Row) -> Identity | None:
        """The id of a row whose other fields may be bad."""
        columns = self.columns.paths.get("id", ("id",))
        value = value_at(row, columns[0])
        return value if isinstance(value, str | int | float) else None

    def _ignores(self, path: str) -> bool:
        plain = path.replace("[]", "")
        return any(plain == name or plain.startswith(f"{name}.") for name in self.source.ignore)


def _has_any_prompt(row: Mapping[str, Any]) -> bool:
    return has_prompt(row) or dialogue_name(row) is not None


def _refuse_transcripts(parsed: Parsed, context: Context) -> None:
    """Transcripts of HH-RLHF's shape would be trained on as raw text, markers included."""
    for record in parsed:
        if not isinstance(record, Preference) or record.chosen[0].role != RAW:
            continue
        if _TRANSCRIPT.match(record.chosen[0].content):
            problem = (
                "looks like a transcript of format 'hh_rlhf': name it as the source's format, or "
                "format: preference to take it as raw text"
            )
            raise context.bad("chosen", Defect.UNKNOWN_SHAPE, problem)


def _is_tie(record: Record | BadRecord, context: Context) -> bool:
    """Whether the scores of both sides are equal; counted."""
    tie = isinstance(record, Preference) and record.margin == 0
    if tie:
        context.count(DropReason.EQUAL_RATINGS)
    return tie


def _likeliest(names: Sequence[str]) -> str:
    """The field that is most often the question."""
    return next((name for name in _QUESTIONS if name in names), names[0])


def _refuse_unread(row: Row, unread: Sequence[Unread], context: Context) -> None:
    """A pair without a prompt beside other texts: one of them may be the question."""
    texts = (Content.TEXT, Content.MESSAGES)
    names = [entry.path for entry in unread if entry.content in texts]
    if names:
        problem = "not read, and the pair has no prompt"
        if context.configurable:
            problem += (
                f". Say which is the prompt (columns: {{prompt: {_likeliest(names)}}}), or ignore: "
                f"[{', '.join(names)}]{format_hint(row, 'preference')}"
            )
        raise context.bad(", ".join(names), Defect.UNREAD_TEXT, problem)


def read_preferences(
    source: Source, census: Census, on_bad_record: OnBad = "stop", quarantine: Path | None = None
) -> Iterator[Preference]:
    """Pairs of a source, as `read_records` reads them."""
    records = read_records(source, "preference", census, on_bad_record, quarantine)
    return cast("Iterator[Preference]", records)


def read_rated(
    source: Source, census: Census, on_bad_record: OnBad = "stop", quarantine: Path | None = None
) -> Iterator[Rated]:
    """Rated responses of a source, as `read_records` reads them."""
    return cast("Iterator[Rated]", read_records(source, "rated", census, on_bad_record, quarantine))


def read_records(
    source: Source,
    kind: Kind | None,
    census: Census,
    on_bad_record: OnBad = "stop",
    quarantine: Path | None = None,
    *,
    refused: Callable[[BadRecord], None] | None = None,
) -> Iterator[Record]:
    """Records of one kind in the source's order, or with `kind=None` of whatever kind each row is.
    Ties and records without any rating are dropped and counted, never an error. `refused` gets each
    bad record that is skipped.

    `ConfigError`: the source's format gives records of another kind. `DataError`: a bad record
    (with `skip` it is counted and quarantined), none usable, or an attribute that no row has."""
    if on_bad_record not in ("stop", "skip"):
        raise ConfigError(f"on_bad_record: {on_bad_record!r}, expected 'stop' or 'skip'")
    if source.format != "auto" and kind not in (None, FORMATS[source.format].kind):
        forms = FORMATS.importable().items()
        hint = "formats of that kind: " + ", ".join(n for n, form in forms if form.kind == kind)
        gives = f"format {source.format!r} gives {FORMATS[source.format].kind} records"
        raise ConfigError(f"{source.path}: {gives} where {kind} records are expected; {hint}")

    def take_bad(bad: BadRecord, row: Row | None) -> None:
        if on_bad_record == "stop":
            raise bad
        census.add(DropReason.BAD_RECORD, bad.where, detail=bad.defect)
        if refused is not None:
            refused(bad)
        if quarantine is not None:
            # a row that could not be parsed is there as its text
            entry = {"where": bad.where, "reason": str(bad), "row": bad.raw if row is None else row}
            with quarantine_file(quarantine) as stream:
                stream.write(_quarantined(entry))

    # Checked here rather than in the generator below, so that it is raised at the call.
    return _read(source, kind, census, take_bad)


def _quarantined(entry: dict[str, Any]) -> bytes:
    """An entry of the quarantine as a line."""
    try:
        # repr: a Parquet row may hold values (bytes, decimals) that JSON does not know
        return orjson.dumps(entry, option=_ENTRY, default=repr)
    except TypeError:  # deeper than orjson writes, or text with half a character
        return orjson.dumps({**entry, "row": brief(entry["row"])}, option=_ENTRY)


def _read(source: Source, kind: Kind | None, census: Census, take_bad: TakeBad) -> Iterator[Record]:
    reader = _Reader.of(source, census)
    columns = source.attribute_columns
    unseen = set((columns or {}).values()) | reader.columns.names
    num_rows = num_records = 0
    rated_names: set[str] = set()
    most_names = limit("attributes")
    for where, row in _strided(source, census, take_bad):
        num_rows += 1
        if unseen:
            unseen = {name for name in unseen if not _has_column(row, name)}
        for record in _parsed(reader, kind, row, where, take_bad):
            # a tie prefers nothing, no rating rates nothing
            if isinstance(record, Preference) and record.chosen == record.rejected:
                census.add(DropReason.TIE, where)
                continue
            if isinstance(record, Rated) and set(record.scores.values()) <= {None}:
                census.add(DropReason.NO_RATING, where)
                continue
            if isinstance(record, Rated):
                rated_names.update(record.scores)
                if len(rated_names) > most_names:
                    problem = refusal("attributes", len(rated_names))
                    raise DataError(f"{where}: scores: {problem}")
            # counted here, after all dropping: a limit of 100 is 100 usable records
            num_records += 1
            yield record
            if num_records == source.limit:
                census.add(DropReason.LIMIT, where)
                return
    # The named formats refuse a row without the column; here each row may lack some of them.
    if source.format in ("auto", "rated") and unseen and num_rows:
        names = ", ".join(sorted(unseen))
        key = "attributes" if unseen <= set((columns or {}).values()) else "columns"
        raise DataError(f"{source.path}: {key}: no row has {names}; check the spelling")
    if not num_records:
        counts = "; ".join(f"{reason} {count:,}" for reason, count in census.totals().items())
        raise DataError(f"{source.path}: no usable record in it ({counts or 'it is empty'})")


def _strided(source: Source, census: Census, take_bad: TakeBad) -> Iterator[tuple[str, Row]]:
    """Rows after the format's own dropping and the stride, in that order (as GRM and SMORM do)."""
    drop_row = None
    if source.format != "auto":
        drop_row = FORMATS[source.format].drop_row
    count = 0
    for where, row in source.scanned():
        if isinstance(row, BadRecord):
            take_bad(row, None)
            continue
        # the own shapes drop nothing here: ties are found after parsing, behind the stride
        if drop_row is not None and (reason := drop_row(row)) is not None:
            census.add(reason, where)
            continue
        if count % source.stride:
            census.add(DropReason.STRIDE, where)
        else:
            yield where, row
        count += 1


def _has_column(row: Row, name: str) -> bool:
    nested = row.get("scores")
    return has_column(row, name) or (isinstance(nested, dict) and name in nested)


def _parsed(
    reader: _Reader, kind: Kind | None, row: Row, where: str, take_bad: TakeBad
) -> list[Record]:
    try:
        parsed = reader.read(row, where, kind)
    except BadRecord as bad:
        take_bad(bad, row)
        return []
    except RecursionError:  # where the limit of levels was raised
        problem = "lists and objects are nested deeper than Python can follow"
        take_bad(BadRecord(where, "row", Defect.TOO_DEEP, problem), row)
        return []
    records: list[Record] = []
    for record in parsed:
        if isinstance(record, BadRecord):
            take_bad(record, row)
        else:
            records.append(record)
    if not reader.source.keep_fields:
        return records
    # a row may make several records, whose responses stand in the row's order
    fields = _fields_beside(row, sum(map(_num_responses, records)))
    complete: list[Record] = []
    for record in records:
        size = len(record.item)
        of_record = fields[:size]
        if isinstance(record, Candidates):
            # The row's fields stand in the row's order, also where the good responses come first.
            of_record = tuple(fields[position] for position in record.places)
            size += len(record.unusable)
        complete.append(replace(record, fields=of_record))
        fields = fields[size:]
    return complete


def _num_responses(record: Record) -> int:
    unusable = record.unusable if isinstance(record, Candidates) else ()
    return len(record.item) + len(unusable)


def _fields_beside(row: Row, count: int) -> Fields:
    """What a row says of each of its `count` responses; {} each where nothing can be told apart.

    Of `responses` it is the objects' own fields, and lists beside them that are as long; of a pair
    the fields named after a side (`gold_chosen`, `chosen_model`), plain or under `meta`; of a
    single response the whole row."""
    responses = row.get("responses")
    if isinstance(responses, list) and len(responses) == count:
        return tuple(_of_response(row, responses, index) for index in range(count))
    if count == 2 and all(side in row for side in SIDES):
        return tuple(_of_side(row, side) for side in SIDES)
    if count == 1:
        return (row,)
    return ({},) * count


def _of_response(row: Row, responses: list[Any], index: int) -> Mapping[str, Any]:
    fields = {}
    for name, column in row.items():
        if isinstance(column, list) and len(column) == len(responses) and name not in _TEXTS:
            fields[name] = column[index]
    if isinstance(responses[index], Mapping):
        fields |= responses[index]
    return fields


def _of_side(row: Row, side: str) -> Mapping[str, Any]:
    meta = row.get("meta")
    if not isinstance(meta, Mapping):
        meta = {}
    fields: dict[str, Any] = {}
    for name, value in itertools.chain(meta.items(), row.items()):
        if name.endswith(f"_{side}"):
            fields[name.removesuffix(f"_{side}")] = value
        elif name.startswith(f"{side}_"):
            fields[name.removeprefix(f"{side}_")] = value
    return fields


def read_each(
    source: Source, census: Census, scanned: Iterable[Scanned] | None = None
) -> Iterator[tuple[str, Row, list[Record] | BadRecord]]:
    """Every row of a source as it is and with its records, nothing dropped; of `scanned` rows of
    it, those alone. A row that is not usable comes as the `BadRecord` that says why, {} where it is
    no row at all."""
    reader = _Reader.of(source, census)
    if scanned is None:
        scanned = source.scanned()
    for where, row in scanned:
        if isinstance(row, BadRecord):
            yield where, {}, row
            continue
        records: list[Record] | BadRecord
        try:
            records = _parsed(reader, None, row, where, _refuse)
            if source.every_response and not records:
                raise BadRecord(where, "row", Defect.NO_ANSWER, "its format leaves it out (a tie?)")
        except BadRecord as bad:
            bad.id = reader.given_id(row)
            records = bad
        yield where, row, records


def parse_row(row: Row, where: str, census: Census, source: Source | None = None) -> list[Record]:
    """Records of one row held in memory, by the fields it has or as rows of the source are read."""
    reader = _Reader.of(source or Source(where), census)
    reader.context.configurable = source is not None
    return _parsed(reader, None, row, where, _refuse)


def _refuse(bad: BadRecord, row: Row | None) -> None:
    raise bad


@contextmanager
def quarantine_file(path: Path) -> Iterator[BinaryIO]:
    """A file of bad rows, which the sources of a run share, to append JSON lines to."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab") as stream:
            yield stream
    except OSError as error:
        raise OutputError(f"{path}: quarantine could not be written: {error.strerror}") from error
