"""A source streams from its reader through the tokeniser into a folder of arrays."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import orjson

from smorm.data.census import Census, DropReason
from smorm.data.contents import Contents
from smorm.data.encode import Tokens, prompt_hash, settle
from smorm.data.reading import OnBad, Source, read_preferences, read_rated
from smorm.data.records import Preference, Rated
from smorm.data.token_store import QUARANTINE, StoreKind, StoreWriter
from smorm.data.tokenising import Conversation, Tokeniser
from smorm.errors import OutputError

log = logging.getLogger(__name__)

TOLD_EVERY = 100_000
R = TypeVar("R", Preference, Rated)


@dataclass(frozen=True, slots=True)
class Wanted:
    """A source as tokens: what decides the result, and where its bad records go.

    Attributes:
        kind: what its records must be.
        on_bad_record: `stop`, or `skip` into `quarantine`.
        quarantine: the run's file of bad records, appended to from a cached source as well.
    """

    source: Source
    kind: StoreKind
    on_bad_record: OnBad
    quarantine: Path


def write_tokens(folder: Path, wanted: Wanted, contents: Contents, tokeniser: Tokeniser) -> None:
    """Read, tokenise and write the source; in memory are a few chunks of its records.

    Raises:
        DataError, ConfigError: as `read_preferences` and `read_rated`; over-long or not renderable.
        OutputError: the quarantine file could not be written.
    """
    census, encoding = Census(), Census()
    options: Any = {
        "census": census,
        "on_bad_record": wanted.on_bad_record,
        "quarantine": folder / QUARANTINE,
    }
    write = _write_pairs if wanted.kind == "preference" else _write_rated
    started = time.monotonic()
    try:
        with StoreWriter(folder, wanted.kind, contents.names) as writer:
            count = write(writer, wanted, options, encoding, (tokeniser, contents.size))
            census.merge(encoding)
            writer.finish(census, count)
    finally:  # bad records are there to be repaired, above all when the run stops
        pass_on_quarantine(folder, wanted.quarantine, {})
    seconds, workers = time.monotonic() - started, tokeniser.workers_for(contents.size)
    log.info(
        "tokens: %s: %d records in %.1f s, %d %s", wanted.source.path, count, seconds, workers,
        "process" if workers == 1 else "processes",
    )  # fmt: skip


def _write_pairs(
    writer: StoreWriter, wanted: Wanted, options: Any, census: Census, how: tuple[Tokeniser, int]
) -> int:
    """Pairs whose two sides differ as tokens; the others are counted."""
    records = read_preferences(wanted.source, **options)
    number = 0
    found = _settled(records, _sides, wanted, census, how)
    for number, pair, sides in found:  # noqa: B007  (the last one's is returned)
        if not sides:
            continue
        chosen, rejected = sides
        if chosen.tobytes() == rejected.tobytes():
            census.add(DropReason.SAME_TOKENS, pair.where)
            continue
        margin = 0.0 if pair.margin is None else pair.margin
        writer.add_pair(chosen, rejected, margin, prompt_hash(pair.prompt), pair.where)
    return number


def _write_rated(
    writer: StoreWriter, wanted: Wanted, options: Any, census: Census, how: tuple[Tokeniser, int]
) -> int:
    """Rated responses; of those that do not fit the ratings alone."""
    records = read_rated(wanted.source, **options)
    number = 0
    found = _settled(records, _response, wanted, census, how)
    for number, one, tokens in found:  # noqa: B007  (the last one's is returned)
        prompt = prompt_hash(one.prompt)
        writer.add_rated(tokens[0] if tokens else None, one.scores, prompt, one.where)
    return number


def _settled(
    records: Iterable[R],
    conversation: Callable[[R], Conversation],
    wanted: Wanted,
    census: Census,
    how: tuple[Tokeniser, int],
) -> Iterator[tuple[int, R, list[Tokens]]]:
    """Each record with its number (from 1) and its tokens; what happened to it is counted."""
    tokeniser, size = how
    found = tokeniser.tokenised(records, conversation, size)
    for number, (record, outcome) in enumerate(found, start=1):
        if number % TOLD_EVERY == 0:
            log.info("tokens: %s: %d records so far", wanted.source.path, number)
        yield number, record, settle(outcome, record.where, census, wanted.on_bad_record)


def _sides(pair: Preference) -> Conversation:
    return pair.prompt, [pair.chosen, pair.rejected]


def _response(rated: Rated) -> Conversation:
    return rated.prompt, [rated.response]


def pass_on_quarantine(folder: Path, target: Path, names: Mapping[str, str]) -> None:
    """Append a store's bad records to the run's file, under the source's names of today.

    Raises:
        OutputError: the file cannot be written.
    """
    kept = folder / QUARANTINE
    if not kept.is_file():
        return
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with kept.open("rb") as source, target.open("ab") as out:
            for line in source:
                out.write(_renamed(line, names) if names else line)
    except OSError as error:
        raise OutputError(f"{target}: quarantine could not be written: {error.strerror}") from error


def _renamed(line: bytes, names: Mapping[str, str]) -> bytes:
    entry = orjson.loads(line)
    name, _, row = entry["where"].rpartition(":")
    where = f"{names.get(name, name)}:{row}"
    reason = where + entry["reason"].removeprefix(entry["where"])
    return orjson.dumps({**entry, "where": where, "reason": reason}) + b"\n"
