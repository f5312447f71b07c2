"""What a row says of each of its responses beside their texts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from smorm.data.records import Fields

SIDES = ("chosen", "rejected")
_TEXTS = ("responses", "prompt", "prompt_messages")


def fields_beside(row: Mapping[str, Any], count: int) -> Fields:
    """What a row says of each of its `count` responses; {} each where nothing can be told apart.

    Of `responses` it is the objects' own fields, and lists beside them that are as long; of a pair
    the fields named after a side (`gold_chosen`, `chosen_model`), plain or under `meta`; of a
    single response the whole row.
    """
    responses = row.get("responses")
    if isinstance(responses, list) and len(responses) == count:
        return tuple(_of_response(row, responses, index) for index in range(count))
    if count == 2 and all(side in row for side in SIDES):
        return tuple(_of_side(row, side) for side in SIDES)
    return (row,) if count == 1 else ({},) * count


def _of_response(row: Mapping[str, Any], responses: list[Any], index: int) -> Mapping[str, Any]:
    fields = {}
    for name, column in row.items():
        if isinstance(column, list) and len(column) == len(responses) and name not in _TEXTS:
            fields[name] = column[index]
    if isinstance(responses[index], Mapping):
        fields |= responses[index]
    return fields


def _of_side(row: Mapping[str, Any], side: str) -> Mapping[str, Any]:
    meta = row.get("meta")
    fields: dict[str, Any] = {}
    for holder in (meta, row):
        if not isinstance(holder, Mapping):
            continue
        for name, value in holder.items():
            if name.endswith(f"_{side}"):
                fields[name.removesuffix(f"_{side}")] = value
            elif name.startswith(f"{side}_"):
                fields[name.removeprefix(f"{side}_")] = value
    return fields
