"""Rated responses as pairs: controls that separate the effect of the data from the method's."""

import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from smorm import files
from smorm.data.census import Census, DropReason
from smorm.data.reading import Source, read_rated
from smorm.data.records import Messages, Preference, Rated, prompt_key
from smorm.data.scaling import AttributeScale
from smorm.errors import ConfigError, DataError

# Means that differ by less are equal: 0.1 - 0.3 and 0.2 do not quite cancel.
_ROUNDING = 1e-9


@dataclass(frozen=True, slots=True)
class Pairing:
    """Every two responses to one prompt are compared by the mean of their ratings over the
    attributes that both have (a missing rating is never 0); the higher is chosen, and means that
    differ by no more than `gap` are a tie. A text rated several times is one response, with the
    mean of each attribute's ratings. Give `scales` where the units of attributes differ, and
    `attributes` to leave out those of which more is not better (verbosity)."""

    attributes: Sequence[str] | None = None
    scales: Sequence[AttributeScale] = ()
    gap: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.gap < math.inf:
            raise ConfigError(f"gap {self.gap}: expected 0 or more")
        if self.attributes is not None and not self.attributes:
            raise ConfigError("attributes: none given; leave it out to count all")

    def ratings(self, record: Rated) -> dict[str, float]:
        """What counts of a record's ratings, on one unit."""
        scales = {scale.name: scale for scale in self.scales}
        ratings: dict[str, float] = {}
        for name, value in record.scores.items():
            if value is not None and (self.attributes is None or name in self.attributes):
                scale = scales.get(name, AttributeScale(name))
                ratings[name] = (value - scale.offset) / scale.scale
        return ratings


def pair_ratings(
    records: Iterable[Rated], rule: Pairing | None = None, *, census: Census
) -> Iterator[Preference]:
    """All pairs that the rule makes, prompt by prompt in order of first appearance, and a count of
    those that it does not make. The records are held in memory."""
    rule = rule or Pairing()
    prompts: dict[str, dict[Messages, list[Rated]]] = {}
    present: dict[str, None] = {}
    for record in records:
        present.update((name, None) for name, value in record.scores.items() if value is not None)
        responses = prompts.setdefault(prompt_key(record.prompt), {})
        responses.setdefault(record.response, []).append(record)
    named = [*(rule.attributes or ()), *(scale.name for scale in rule.scales)]
    unknown = [name for name in dict.fromkeys(named) if name not in present]
    # left out in silence, it would turn pairs around
    if unknown and present:
        names, rated = ", ".join(unknown), ", ".join(present)
        raise ConfigError(f"pairing: no record rates {names}; rated are {rated}")
    # only now, when all are read: the census counts each case once, prompt by prompt
    for responses in prompts.values():
        merged = [_merged(group, rule, census) for group in responses.values()]
        if len(merged) == 1:
            census.add(DropReason.ONE_RESPONSE, merged[0][0].where)
        for (first, ratings), (second, other_ratings) in itertools.combinations(merged, 2):
            gaps = [ratings[name] - other_ratings[name] for name in ratings.keys() & other_ratings]
            if not gaps:
                census.add(DropReason.NO_COMMON_ATTRIBUTE, first.where)
                continue
            # fsum is exact: the sign does not depend on the order of the attributes
            advantage = math.fsum(gaps) / len(gaps)
            if abs(advantage) <= rule.gap + _ROUNDING:
                census.add(DropReason.MEAN_TIE, first.where)
            elif advantage > 0:
                yield _pair(first, second)
            else:
                yield _pair(second, first)


def _merged(group: list[Rated], rule: Pairing, census: Census) -> tuple[Rated, dict[str, float]]:
    for record in group[1:]:
        census.add(DropReason.RATED_AGAIN, record.where)
    values: dict[str, list[float]] = {}
    for record in group:
        for name, value in rule.ratings(record).items():
            values.setdefault(name, []).append(value)
    return group[0], {name: sum(ratings) / len(ratings) for name, ratings in values.items()}


def _pair(chosen: Rated, rejected: Rated) -> Preference:
    identity = None
    if chosen.id is not None and rejected.id is not None:
        identity = f"{chosen.id}>{rejected.id}"
    texts = (chosen.prompt, chosen.response, rejected.response)
    return Preference(*texts, id=identity, source="ratings", where=chosen.where)


@dataclass(frozen=True, slots=True)
class PairedData:
    """Files of one data set: its pairs, the rated responses that are in one, and their counts."""

    pairs: Path
    rated: Path
    num_pairs: int
    num_rated: int
    census: Census


def write_paired(source: Source, folder: Path | str, rule: Pairing | None = None) -> PairedData:
    """Write `pairs.jsonl`, the union control's additional preference data, and `rated.jsonl`: the
    responses that are in a pair, with all their ratings. Both together are the control of one data
    set, in which no method sees a text that the others do not."""
    census = Census()
    records = list(read_rated(source, census))
    pairs = list(pair_ratings(records, rule, census=census))
    if not pairs:
        counts = "; ".join(census.lines())
        raise DataError(f"{source.path}: no pair can be made of its ratings ({counts})")
    # by prompt and text, as the rule merges responses: a text may stand under several prompts
    used: set[tuple[str, Messages]] = set()
    for pair in pairs:
        key = prompt_key(pair.prompt)
        used |= {(key, pair.chosen), (key, pair.rejected)}
    rated = [record for record in records if (prompt_key(record.prompt), record.response) in used]
    if len(rated) < len(records):
        census.add(DropReason.IN_NO_PAIR, count=len(records) - len(rated))
    pairs_path, rated_path = Path(folder) / "pairs.jsonl", Path(folder) / "rated.jsonl"
    files.write_bytes(pairs_path, b"".join(map(_line, pairs)))
    files.write_bytes(rated_path, b"".join(map(_line, rated)))
    return PairedData(pairs_path, rated_path, len(pairs), len(rated), census)


def _line(record: Preference | Rated) -> bytes:
    row: dict[str, Any] = {"prompt": _content(record.prompt, "user")}
    if isinstance(record, Preference):
        row |= {"chosen": _content(record.chosen), "rejected": _content(record.rejected)}
    else:
        row |= {"response": _content(record.response), "scores": dict(record.scores)}
    row |= {"id": record.id, "source": record.source}
    return orjson.dumps({name: value for name, value in row.items() if value is not None}) + b"\n"


def _content(messages: Messages, role: str = "assistant") -> Any:
    """One message of the usual role as text, anything else as a list of messages."""
    if len(messages) == 1 and messages[0].role == role:
        return messages[0].content
    return messages  # orjson writes each message as an object of its fields
