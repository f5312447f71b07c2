"""Whatever text of a row is changed, the record is another one, or the field is named."""

import copy
import random
from collections.abc import Iterator
from typing import Any

import pytest

from smorm.data.census import UNREAD_KINDS, BadRecord, Census, DropReason
from smorm.data.reading import Source, parse_row
from tests.data.foreign_rows import SOURCES

ROWS_OF_A_SHAPE = 90
# Rows without a record say so: what they hold is lost with a count.
LEFT_OUT = (
    DropReason.JUDGED_TIE, DropReason.EQUAL_RATINGS, DropReason.NO_ANSWER, DropReason.JUDGED_ALIKE,
    DropReason.IN_NO_PAIR,
)  # fmt: skip
NAMES = ("note", "context", "system", "history", "tools", "reasoning_content", "name", "comment",
         "prompt", "messages", "response", "content", "value", "margin_text")  # fmt: skip
COUNTED = {"completions.annotations", "responses", "answers", "generations", "output"}
Path = tuple[str | int, ...]


def nodes(value: Any, path: Path = ()) -> Iterator[tuple[Path, Any]]:
    """Every value inside of a row with its path, objects and lists too."""
    yield path, value
    if isinstance(value, dict):
        children: Any = value.items()
    elif isinstance(value, list):
        children = enumerate(value)
    else:
        children = ()
    for key, child in children:
        yield from nodes(child, (*path, key))


def put(row: dict[str, Any], path: Path, value: Any) -> None:
    inside: Any = row
    for key in path[:-1]:
        inside = inside[key]
    inside[path[-1]] = value


def mutate(row: dict[str, Any], rng: random.Random) -> dict[str, Any]:
    """The row with one to three changes of its structure."""
    row = copy.deepcopy(row)
    for _ in range(rng.randrange(1, 4)):
        places = list(nodes(row))
        path, value = rng.choice(places)
        if isinstance(value, dict):
            # Another field, in an object at any depth.
            value[rng.choice(NAMES)] = rng.choice(
                ["more text", "3", ["a", "b"], {"inner": "text"}, None, 4,
                 [{"role": "user", "content": "who?"}], [{"type": "text", "text": "part"}]]
            )  # fmt: skip
        elif isinstance(value, list) and value:
            # A part again, left out, or elsewhere.
            index = rng.randrange(len(value))
            change = rng.randrange(3)
            if change == 0:
                value.insert(index, copy.deepcopy(value[index]))
            elif change == 1:
                del value[index]
            else:
                value.reverse()
        elif isinstance(value, str) and path:
            spelt = [
                [{"type": "text", "text": value}], [value], {"text": value}, "", None,
                [{"role": "user", "content": value}], {"role": "assistant", "content": value},
            ]  # fmt: skip
            put(row, path, rng.choice(spelt))
        elif path:
            put(row, path, rng.choice([None, True, 0, 2.5, "7", [1, 2], "text of a number"]))
        if rng.random() < 0.2:
            # A field under another name.
            name = rng.choice(list(row) or ["none"])
            row[rng.choice(NAMES)] = row.pop(name, "gone")
    return row


def read(row: dict[str, Any], settings: dict[str, Any]) -> tuple[Any, Census]:
    """What is kept of a row (None where it is refused), and what was counted."""
    census = Census()
    try:
        records = parse_row(copy.deepcopy(row), "d:1", census, Source("d", **settings))
    except BadRecord:
        return None, census
    return records, census


def named(census: Census) -> set[str]:
    kinds = [reason for reason in census.totals() if reason.kind in UNREAD_KINDS]
    return {reason.detail.replace("[]", "").partition("[")[0] for reason in kinds}


def silent_losses(row: dict[str, Any], settings: dict[str, Any]) -> Iterator[Path]:
    """Texts of a row that can be changed without another record and without a word."""
    kept, census = read(row, settings)
    if kept is None or (not kept and any(census[kind] for kind in LEFT_OUT)):
        return
    unread = named(census) | set(settings.get("ignore", ()))
    if census[DropReason.RATING_UNREADABLE] or census[DropReason.IN_NO_PAIR]:
        # Counted as what they are, whatever they say.
        unread |= COUNTED
    for path, value in nodes(row):
        if not isinstance(value, str) or not value.strip():
            continue
        plain = ".".join(key for key in path if isinstance(key, str))
        if any(plain == name or plain.startswith(f"{name}.") for name in unread):
            continue
        changed = copy.deepcopy(row)
        put(changed, path, f"{value} and more")
        other, counted = read(changed, settings)
        if other == kept and counted.totals() == census.totals():
            yield path


@pytest.mark.parametrize("name", list(SOURCES))
def test_no_text_of_any_shape_is_lost_in_silence(name):
    row, settings = SOURCES[name]
    rng = random.Random(name)
    losses = []
    for mutated in (row, *(mutate(row, rng) for _ in range(ROWS_OF_A_SHAPE))):
        losses += [(path, mutated) for path in silent_losses(mutated, settings)]
    assert not losses, "\n".join(f"{path} of {mutated}" for path, mutated in losses[:5])


def test_there_are_enough_rows_and_most_of_them_are_read():
    assert len(SOURCES) * ROWS_OF_A_SHAPE >= 5000
    rng = random.Random(0)
    outcomes = []
    for row, settings in SOURCES.values():
        assert read(row, settings)[0] is not None
        outcomes += [read(mutate(row, rng), settings)[0] for _ in range(20)]
    assert sum(map(bool, outcomes)) > len(outcomes) / 4
