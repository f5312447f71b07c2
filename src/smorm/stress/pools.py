"""Pools of answers to one prompt, with what their file says of each answer beside its text.

Accepted are `{prompt, responses: [...]}` (texts, message lists, or objects with a `response` and
any other fields, such as `gold`), `{prompt, response, ...}` lines of which those with one prompt
make one pool, and pairs, which are pools of two.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from smorm.data.census import Census, DropReason
from smorm.data.fields import Context
from smorm.data.formats import FORMATS
from smorm.data.quarantine import BadRecord
from smorm.data.readers import scan_rows
from smorm.data.reading import OnBad, Source, parse_row
from smorm.data.records import Item, Messages, Record, prompt_key
from smorm.errors import DataError
from smorm.files import fingerprint

Given = Mapping[str, Any]
SIDES = ("chosen", "rejected")


@dataclass(frozen=True, slots=True)
class Pool:
    """N answers to one prompt; `given` is what the file says of each beside its text [N]."""

    item: Item
    given: tuple[Given, ...]

    @property
    def prompt(self) -> str:
        """A label of the prompt, which intervals resample."""
        return fingerprint(prompt_key(self.item.prompt))

    @property
    def texts(self) -> list[str]:
        """The answers as text [N]."""
        return [text_of(response) for response in self.item.responses]

    def __len__(self) -> int:
        return len(self.item.responses)

    def of(self, responses: Sequence[Messages]) -> Pool:
        """Other answers to the same prompt, of which no file says anything."""
        item = Item(self.item.prompt, tuple(responses), self.item.where)
        return Pool(item, ({},) * len(responses))


def text_of(messages: Messages) -> str:
    """The text of a response or a prompt."""
    return "\n".join(message.content for message in messages)


def read_pools(source: Source, census: Census, on_bad_record: OnBad = "stop") -> list[Pool]:
    """The pools of a file, in the order in which their prompts first appear; `source.limit` is the
    most prompts.

    Raises:
        DataError: a row that is not usable (with `skip` it is counted), or no pool at all.
    """
    found: dict[str, Pool] = {}
    for where, row, records in parsed_rows(source, census, on_bad_record):
        if isinstance(records, BadRecord):
            continue
        if not records:
            census.add(DropReason.NO_ANSWER, where)
            continue
        items = [record.item for record in records]
        responses = tuple(response for item in items for response in item.responses)
        pool = Pool(Item(items[0].prompt, responses, where), given_of(row, len(responses)))
        key = prompt_key(pool.item.prompt)
        if key in found:
            census.add(DropReason.JOINED_POOL, where)
            found[key] = _joined(found[key], pool)
        elif source.limit is None or len(found) < source.limit:
            found[key] = pool
        else:
            census.add(DropReason.BEYOND_LIMIT, where)
    if not found:
        raise DataError(f"{source.path}: no pool of answers in it")
    return list(found.values())


def _joined(one: Pool, other: Pool) -> Pool:
    responses = (*one.item.responses, *other.item.responses)
    item = Item(one.item.prompt, responses, one.item.where)
    return Pool(item, (*one.given, *other.given))


def parsed_rows(
    source: Source, census: Census, on_bad_record: OnBad
) -> Iterator[tuple[str, Given, Sequence[Record] | BadRecord]]:
    """Rows of a file as they are, each with its records, or under `skip` why it has none.

    Raises:
        DataError: a row that is not usable, under `stop`.
    """
    for where, row in scan_rows(source.path, source.split, source.subset):
        if isinstance(row, BadRecord):
            records: Sequence[Record] | BadRecord = row
        else:
            records = _records(row, where, source.format, census)
        if isinstance(records, BadRecord):
            if on_bad_record == "stop":
                raise records
            census.add(DropReason.BAD_RECORD, where, detail=records.defect)
        yield where, {} if isinstance(row, BadRecord) else row, records


def _records(row: Given, where: str, form: str, census: Census) -> Sequence[Record] | BadRecord:
    try:
        if form == "auto":
            return parse_row(row, where, census)
        parsed = FORMATS[form].parse(row, Context(where, census))
    except BadRecord as bad:
        return bad
    records = [record for record in parsed if not isinstance(record, BadRecord)]
    bad_ones = [record for record in parsed if isinstance(record, BadRecord)]
    return bad_ones[0] if bad_ones else records


def given_of(row: Given, count: int) -> tuple[Given, ...]:
    """What a row says of each of its `count` answers.

    Of `responses` it is the objects' own fields, and lists beside them that are as long; of a pair
    the fields named after a side (`gold_chosen`, `chosen_model`), plain or under `meta`; of a
    single answer the whole row.
    """
    values = row.get("responses")
    if isinstance(values, list) and len(values) == count:
        beside = {
            name: column
            for name, column in row.items()
            if isinstance(column, list)
            and len(column) == count
            and name not in ("responses", "prompt", "prompt_messages")
        }
        own = [value if isinstance(value, Mapping) else {} for value in values]
        return tuple(
            {**{name: column[at] for name, column in beside.items()}, **one}
            for at, one in enumerate(own)
        )
    if all(side in row for side in SIDES) and count == 2:
        return tuple(_of_side(row, side) for side in SIDES)
    return (row,) if count == 1 else ({},) * count


def _of_side(row: Given, side: str) -> Given:
    meta = row.get("meta")
    found: dict[str, Any] = {}
    for holder in (meta if isinstance(meta, Mapping) else {}, row):
        for name, value in holder.items():
            if name.endswith(f"_{side}"):
                found[name.removesuffix(f"_{side}")] = value
            elif name.startswith(f"{side}_"):
                found[name.removeprefix(f"{side}_")] = value
    return found
