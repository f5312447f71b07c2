"""From a source to checked records: read, pick the format, parse, drop what is no evidence."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

from smorm.data.census import Census, DropReason
from smorm.data.fields import Context, names_to_columns
from smorm.data.formats import FORMATS, Parsed, format_of_row
from smorm.data.formats.generic import RESERVED
from smorm.data.quarantine import BadRecord, quarantine_record
from smorm.data.readers import scan_rows
from smorm.data.records import Candidates, Kind, Preference, Rated, Record
from smorm.errors import ConfigError, DataError

OnBad = Literal["stop", "skip"]
Row = Mapping[str, Any]
TakeBad = Callable[[BadRecord, Row | None], None]


@dataclass(frozen=True, slots=True)
class Source:
    """Where records come from and how they are read.

    `attributes` maps attribute name to column, or lists columns that name attributes; None takes
    every name in `scores`. `stride` keeps the first of every n rows (Unified-Feedback's "40K" is
    20, its "400K" is 2), counted after the rows that the format drops; `limit` is the most records.

    Raises:
        ConfigError: an unknown format, or a stride or limit below 1.
    """

    path: str | Path
    format: str = "auto"
    split: str = "train"
    subset: str | None = None
    attributes: Mapping[str, str] | Sequence[str] | None = None
    limit: int | None = None
    stride: int = 1

    def __post_init__(self) -> None:
        if self.format != "auto" and self.format not in FORMATS:
            FORMATS[self.format]  # raises the error that names the nearest format
        if self.stride < 1 or (self.limit is not None and self.limit < 1):
            raise ConfigError(f"{self.path}: stride and limit must be at least 1")
        for name in names_to_columns(self.attributes) or ():
            if not name.strip() or name in RESERVED:
                raise ConfigError(f"attributes: {name!r} cannot be the name of an attribute")


def read_preferences(
    source: Source,
    *,
    census: Census,
    on_bad_record: OnBad = "stop",
    quarantine: Path | None = None,
) -> Iterator[Preference]:
    """Pairs of a source, in its order. Ties are dropped and counted, never an error.

    Raises:
        ConfigError: the source's format is of another kind.
        DataError: a bad record (with `skip` it is counted and quarantined), or none usable.
    """
    found = read_records(source, "preference", census, on_bad_record, quarantine)
    return cast("Iterator[Preference]", found)


def read_rated(
    source: Source,
    *,
    census: Census,
    on_bad_record: OnBad = "stop",
    quarantine: Path | None = None,
) -> Iterator[Rated]:
    """Rated responses of a source. Those with no rating at all are dropped and counted.

    Raises:
        ConfigError: the source's format is of another kind.
        DataError: a bad record, none usable, or a configured attribute that no row has.
    """
    found = read_records(source, "rated", census, on_bad_record, quarantine)
    return cast("Iterator[Rated]", found)


def read_candidates(
    source: Source,
    *,
    census: Census,
    on_bad_record: OnBad = "stop",
    quarantine: Path | None = None,
) -> Iterator[Candidates]:
    """Prompts with responses to score.

    Raises:
        ConfigError: the source's format is of another kind.
        DataError: a bad record (with `skip` it is counted and quarantined), or none usable.
    """
    found = read_records(source, "candidates", census, on_bad_record, quarantine)
    return cast("Iterator[Candidates]", found)


def read_records(
    source: Source,
    kind: Kind | None,
    census: Census,
    on_bad_record: OnBad = "stop",
    quarantine: Path | None = None,
) -> Iterator[Record]:
    """Records of one kind, or with `kind=None` of whatever kind each row shows itself to be.

    Raises:
        ConfigError: the source's format gives records of another kind.
        DataError: see `read_preferences` and `read_rated`.
    """
    if on_bad_record not in ("stop", "skip"):
        raise ConfigError(f"on_bad_record: {on_bad_record!r}, expected 'stop' or 'skip'")
    if source.format != "auto":
        has = FORMATS[source.format].kind
        if kind is not None and has != kind:
            of_kind = ", ".join(name for name in FORMATS if FORMATS[name].kind == kind)
            raise ConfigError(
                f"{source.path}: format {source.format!r} gives {has} records where {kind} "
                f"records are expected; formats of that kind: {of_kind}"
            )

    def take_bad(bad: BadRecord, row: Mapping[str, Any] | None) -> None:
        if on_bad_record == "stop":
            raise bad
        census.add(DropReason.BAD_RECORD, bad.where, detail=bad.defect)
        if quarantine is not None:
            quarantine_record(quarantine, bad, row)

    return _read(source, kind, census, take_bad)


def _read(source: Source, kind: Kind | None, census: Census, take_bad: TakeBad) -> Iterator[Record]:
    columns = names_to_columns(source.attributes)
    unseen, rows, taken = set((columns or {}).values()), 0, 0
    for where, row in _strided(source, census, take_bad):
        rows += 1
        unseen -= _keys(row) if unseen else set()
        for record in _parsed(source, kind, row, Context(where, census, columns), take_bad):
            if (why := _dropped(record)) is not None:
                census.add(why, where)
                continue
            taken += 1
            yield record
            if taken == source.limit:
                census.add(DropReason.LIMIT, where)
                return
    if source.format in ("auto", "rated") and unseen and rows:
        names = ", ".join(sorted(unseen))
        raise DataError(f"{source.path}: attributes: no row has {names}; check the spelling")
    if not taken:
        counted = "; ".join(f"{name} {n:,}" for name, n in census.totals().items())
        raise DataError(f"{source.path}: no usable record in it ({counted or 'it is empty'})")


def _strided(source: Source, census: Census, take_bad: TakeBad) -> Iterator[tuple[str, Row]]:
    """Rows after the format's own dropping and the stride, in that order (as GRM and SMORM do)."""
    drop_row = FORMATS[source.format].drop_row if source.format != "auto" else None
    kept = 0
    for where, row in scan_rows(source.path, source.split, source.subset):
        if isinstance(row, BadRecord):
            take_bad(row, None)
        elif drop_row is not None and (why := drop_row(row)) is not None:
            census.add(why, where)
        else:
            if kept % source.stride == 0:
                yield where, row
            else:
                census.add(DropReason.STRIDE, where)
            kept += 1


def _parsed(
    source: Source, kind: Kind | None, row: Row, context: Context, take_bad: TakeBad
) -> list[Record]:
    try:
        auto = source.format == "auto"
        form = format_of_row(row, kind, context) if auto else FORMATS[source.format]
        found: Parsed = form.parse(row, context)
    except BadRecord as bad:
        take_bad(bad, row)
        return []
    records: list[Record] = []
    for record in found:
        if isinstance(record, BadRecord):
            take_bad(record, row)
        else:
            records.append(record)
    return records


def _dropped(record: Record) -> DropReason | None:
    """Why a valid record is no evidence: a tie prefers nothing, no rating rates nothing."""
    if isinstance(record, Preference) and record.chosen == record.rejected:
        return DropReason.TIE
    if isinstance(record, Rated) and all(value is None for value in record.scores.values()):
        return DropReason.NO_RATING
    return None


def _keys(row: Row) -> set[str]:
    nested = row.get("scores")
    return {*row, *(nested if isinstance(nested, dict) else ())}


def read_each(source: Source, census: Census) -> Iterator[tuple[str, list[Record] | BadRecord]]:
    """Every row of a source with its records, nothing dropped: for scoring line by line.

    A row that is not usable comes as the `BadRecord` that says why.

    Raises:
        DataError: no such file, or the whole file cannot be read.
    """
    columns = names_to_columns(source.attributes)
    for where, row in scan_rows(source.path, source.split, source.subset):
        if isinstance(row, BadRecord):
            yield where, row
        else:
            yield where, _all_or_bad(source, row, Context(where, census, columns))


def _all_or_bad(source: Source, row: Row, context: Context) -> list[Record] | BadRecord:
    bad: list[BadRecord] = []
    records = _parsed(source, None, row, context, lambda found, _: bad.append(found))
    return bad[0] if bad else records


def parse_row(row: Row, where: str, census: Census) -> list[Record]:
    """Records of one row held in memory, by the fields it has.

    Raises:
        DataError: `where: field: what is wrong, what was expected`.
    """
    context = Context(where, census)
    found = format_of_row(row, None, context).parse(row, context)
    for record in found:
        if isinstance(record, BadRecord):
            raise record
    return [record for record in found if not isinstance(record, BadRecord)]
