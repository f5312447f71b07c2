"""Records with their scores, and what was counted while they were read and scored."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Any

import numpy as np

from smorm.arrays import Floats
from smorm.data.census import Census
from smorm.data.reading import OnBad
from smorm.data.records import Messages, Record, prompt_key
from smorm.errors import DataError
from smorm.evaluation.accuracy import ScoredItems
from smorm.files import fingerprint
from smorm.rewards.protocol import Reward, score_all
from smorm.scoring.scorer import Scored


@dataclass(slots=True)
class ScoredSet:
    """Records that got scores, with them; `data` is the texts' fingerprint."""

    records: list[Any]
    scored: list[Scored]
    census: Census
    data: str
    notes: list[str] = field(default_factory=list)

    @property
    def prompts(self) -> list[str]:
        """A label of each record's prompt, which intervals resample."""
        return [fingerprint(prompt_key(record.prompt)) for record in self.records]

    @property
    def keys(self) -> list[str]:
        """What identifies a record: its line in its source, the same for every model."""
        return [record.where or f"record {index}" for index, record in enumerate(self.records)]


def score_records(
    reward: Reward, records: Sequence[Record], census: Census, on_bad_record: OnBad
) -> ScoredSet:
    """Scores of records; one that does not fit stops it, or is left out and counted."""
    # A model trained with `overlong: drop` left such records out itself.
    skip = on_bad_record == "skip" or reward.drops_overlong
    results = score_all(reward, list(map(attrgetter("item"), records)), census, skip=skip)
    usable: list[Record] = []
    scored: list[Scored] = []
    for record, result in zip(records, results, strict=True):
        if result is not None:
            usable.append(record)
            scored.append(result)
    if not usable:
        raise DataError("no record could be scored")
    # Of the records that were scored: two models that leave out different ones differ in it.
    data = fingerprint(list(map(hash_of, usable)))
    return ScoredSet(usable, scored, census, data, census.lines())


def hash_of(record: Record) -> str:
    """Fingerprint of a record's texts."""
    item = record.item
    return fingerprint([prompt_key(item.prompt), list(map(prompt_key, item.responses))])


def words(messages: Messages) -> int:
    """Length of a response: its words."""
    return sum(len(message.content.split()) for message in messages)


def lengths_of(records: Sequence[Record]) -> list[Floats]:
    """Lengths of each record's responses, in words [n_i]."""
    return [np.array(list(map(words, record.item.responses)), dtype=float) for record in records]


def scored_items(data: ScoredSet, values: Sequence[Floats]) -> ScoredItems:
    """A benchmark's records and a view's values of their responses, ready for its rule."""
    chosen, subsets, ids = [], [], []
    for record in data.records:
        if not record.chosen:
            problem = "says not which responses are good: nothing to measure"
            raise DataError(f"{record.where}: {problem}")
        chosen.append(record.chosen)
        subsets.append(record.source or "")
        ids.append(record.id or "")
    lengths = lengths_of(data.records)
    return ScoredItems(values, lengths, chosen, subsets, ids, data.prompts, data.keys)
