"""From a source to checked records: read, pick the format, parse, drop what is no evidence."""

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO, Literal, cast

import orjson

from smorm.data.census import BadRecord, Census, DropReason
from smorm.data.fields import Context
from smorm.data.formats import FORMATS, Row, format_of_row
from smorm.data.formats.generic import RESERVED
from smorm.data.readers import scan_rows
from smorm.data.records import Fields, Kind, Preference, Rated, Record
from smorm.errors import ConfigError, DataError, OutputError

OnBad = Literal["stop", "skip"]
TakeBad = Callable[[BadRecord, Row | None], None]
SIDES = ("chosen", "rejected")
_ENTRY = orjson.OPT_APPEND_NEWLINE | orjson.OPT_NON_STR_KEYS | orjson.OPT_SERIALIZE_NUMPY
_TEXTS = ("responses", "prompt", "prompt_messages")


@dataclass(frozen=True, slots=True)
class Source:
    """Where records come from and how they are read; the keys of a source in `docs/data.md`.

    Of Unified-Feedback the "40K" is `stride` 20, the "400K" 2. Without `attributes` every name in
    `scores` counts. `keep_fields` keeps what a row says of each response, as `Item.fields`."""

    path: str | Path
    format: str = "auto"
    split: str = "train"
    subset: str | None = None
    attributes: Mapping[str, str] | Sequence[str] | None = None
    limit: int | None = None
    stride: int = 1
    keep_fields: bool = False

    def __post_init__(self) -> None:
        # A lookup raises the error that names the nearest format; of a known one it would import
        # the module, for which there is time when the source is read.
        if self.format != "auto" and self.format not in FORMATS:
            FORMATS[self.format]
        if self.stride < 1 or (self.limit is not None and self.limit < 1):
            raise ConfigError(f"{self.path}: stride and limit must be at least 1")
        for name in self.columns or ():
            if not name.strip() or name in RESERVED:
                raise ConfigError(f"attributes: {name!r} cannot be the name of an attribute")

    @property
    def columns(self) -> dict[str, str] | None:
        """Attribute name to column; names that are listed are their own columns."""
        if self.attributes is None:
            return None
        if isinstance(self.attributes, Mapping):
            return dict(self.attributes)
        return dict(zip(self.attributes, self.attributes, strict=True))


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
) -> Iterator[Record]:
    """Records of one kind in the source's order, or with `kind=None` of whatever kind each row is.
    Ties and records without any rating are dropped and counted, never an error.

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
        if quarantine is not None:
            # a row that could not be parsed is there as its text
            entry = {"where": bad.where, "reason": str(bad), "row": bad.raw if row is None else row}
            with quarantine_file(quarantine) as stream:
                # repr: a Parquet row may hold values (bytes, decimals) that JSON does not know
                stream.write(orjson.dumps(entry, option=_ENTRY, default=repr))

    # Checked here rather than in the generator below, so that it is raised at the call.
    return _read(source, kind, census, take_bad)


def _read(source: Source, kind: Kind | None, census: Census, take_bad: TakeBad) -> Iterator[Record]:
    columns = source.columns
    unseen = set((columns or {}).values())
    num_rows = num_records = 0
    for where, row in _strided(source, census, take_bad):
        num_rows += 1
        if unseen:
            unseen.difference_update(row)
            nested = row.get("scores")
            if isinstance(nested, dict):
                unseen.difference_update(nested)
        for record in _parsed(source, kind, row, Context(where, census, columns), take_bad):
            # a tie prefers nothing, no rating rates nothing
            if isinstance(record, Preference) and record.chosen == record.rejected:
                census.add(DropReason.TIE, where)
                continue
            if isinstance(record, Rated) and set(record.scores.values()) <= {None}:
                census.add(DropReason.NO_RATING, where)
                continue
            # counted here, after all dropping: a limit of 100 is 100 usable records
            num_records += 1
            yield record
            if num_records == source.limit:
                census.add(DropReason.LIMIT, where)
                return
    # The named formats refuse a row without the column; here each row may lack some of them.
    if source.format in ("auto", "rated") and unseen and num_rows:
        names = ", ".join(sorted(unseen))
        raise DataError(f"{source.path}: attributes: no row has {names}; check the spelling")
    if not num_records:
        counts = "; ".join(f"{reason} {count:,}" for reason, count in census.totals().items())
        raise DataError(f"{source.path}: no usable record in it ({counts or 'it is empty'})")


def _strided(source: Source, census: Census, take_bad: TakeBad) -> Iterator[tuple[str, Row]]:
    """Rows after the format's own dropping and the stride, in that order (as GRM and SMORM do)."""
    drop_row = None
    if source.format != "auto":
        drop_row = FORMATS[source.format].drop_row
    count = 0
    for where, row in scan_rows(source.path, source.split, source.subset):
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


def _parsed(
    source: Source, kind: Kind | None, row: Row, context: Context, take_bad: TakeBad
) -> list[Record]:
    try:
        if source.format == "auto":
            parsed = format_of_row(row, kind, context).parse(row, context)
        else:
            parsed = FORMATS[source.format].parse(row, context)
    except BadRecord as bad:
        take_bad(bad, row)
        return []
    records: list[Record] = []
    for record in parsed:
        if isinstance(record, BadRecord):
            take_bad(record, row)
        else:
            records.append(record)
    if not source.keep_fields:
        return records
    # a row may make several records, whose responses stand in the row's order
    fields = _fields_beside(row, sum(len(record.item) for record in records))
    complete: list[Record] = []
    for record in records:
        size = len(record.item)
        complete.append(replace(record, fields=fields[:size]))
        fields = fields[size:]
    return complete


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
    source: Source, census: Census
) -> Iterator[tuple[str, Row, list[Record] | BadRecord]]:
    """Every row of a source as it is and with its records, nothing dropped. A row that is not
    usable comes as the `BadRecord` that says why, {} where it is no row at all."""
    for where, row in scan_rows(source.path, source.split, source.subset):
        if isinstance(row, BadRecord):
            yield where, {}, row
            continue
        records: list[Record] | BadRecord
        try:
            records = _parsed(source, None, row, Context(where, census, source.columns), _refuse)
        except BadRecord as bad:
            records = bad
        yield where, row, records


def parse_row(row: Row, where: str, census: Census) -> list[Record]:
    """Records of one row held in memory, by the fields it has."""
    return _parsed(Source(where), None, row, Context(where, census), _refuse)


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
