"""Pools of answers to one prompt, each an `Item` with what its file says of each answer beside its
text (`fields`). docs/stress.md has the accepted rows; pairs are pools of two."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import orjson

from smorm.data.census import BadRecord, Census, DropReason
from smorm.data.formats import Row
from smorm.data.reading import OnBad, Source, read_each
from smorm.data.records import Item, Record, joined_item, prompt_key
from smorm.errors import DataError
from smorm.files import fingerprint


def hashed(*values: Any) -> int:
    """A number below 2^56 that is a fixed function of plain values."""
    digest = hashlib.blake2b(orjson.dumps(values), digest_size=7).digest()
    return int.from_bytes(digest, "little")


def prompt_label(item: Item) -> str:
    """A label of the prompt, by which intervals resample."""
    return fingerprint(prompt_key(item.prompt))


def read_pools(source: Source, census: Census, on_bad_record: OnBad = "stop") -> list[Item]:
    """The pools of a file, in the order in which their prompts first appear; `source.limit` is the
    most prompts."""
    pools: dict[str, Item] = {}
    for where, _, records in usable_rows(source, census, on_bad_record):
        if not records:
            census.add(DropReason.NO_ANSWER, where)
            continue
        item = joined_item(records, where)
        # Lines of one prompt are one pool wherever they stand in the file.
        key = prompt_key(item.prompt)
        if key in pools:
            census.add(DropReason.JOINED_POOL, where)
            pool = pools[key]
            responses, fields = (*pool.responses, *item.responses), (*pool.fields, *item.fields)
            pools[key] = replace(pool, responses=responses, fields=fields)
        elif source.limit is None or len(pools) < source.limit:
            pools[key] = item
        else:
            census.add(DropReason.BEYOND_LIMIT, where)
    if not pools:
        raise DataError(f"{source.path}: no pool of answers in it")
    return list(pools.values())


def usable_rows(
    source: Source, census: Census, on_bad_record: OnBad
) -> Iterator[tuple[str, Row, Sequence[Record]]]:
    """Rows of a file as they are, each with its records and their fields."""
    for where, row, records in read_each(replace(source, keep_fields=True), census):
        if not isinstance(records, BadRecord):
            yield where, row, records
        elif on_bad_record == "stop":
            raise records
        else:
            census.add(DropReason.BAD_RECORD, where, detail=records.defect)
