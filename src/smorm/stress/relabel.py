"""Pairs labelled anew by a gold reward: the first step of every over-optimisation protocol (Gao et
al. 2023). Without noise the answer with the larger gold is chosen; with a temperature T the label
is drawn by Bradley–Terry: P(a chosen) = 1 / (1 + exp(−(gold_a − gold_b) / T))."""

import itertools
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import orjson
from scipy.special import expit

from smorm import files
from smorm.arrays import Floats
from smorm.data.census import Census, DropReason
from smorm.data.formats import Row
from smorm.data.reading import SIDES, OnBad, Source
from smorm.data.records import Preference, prompt_key
from smorm.errors import ConfigError, DataError
from smorm.rewards.protocol import Reward, score_all
from smorm.stress.pools import hashed, usable_rows

# Pairs held in memory at a time.
CHUNK = 1024

Ties = Literal["drop", "keep"]
_Pair = tuple[Row, Preference]


@dataclass(slots=True)
class RelabelReport:
    """What relabelling did."""

    pairs: int = 0  # pairs written
    swapped: int = 0  # of them with the sides exchanged
    ties: int = 0  # pairs to which the gold gives equal scores
    overturned: int = 0  # labels that noise set against the gold
    census: Census = field(default_factory=Census)  # what was left out or shortened


def relabel_file(
    source: Source,
    gold: Reward,
    output: Path,
    *,
    temperature: float | None = None,
    seed: int = 0,
    ties: Ties = "drop",
    on_bad_record: OnBad = "stop",
) -> RelabelReport:
    """Write the pairs of a file with the labels of a gold, in their order. A row keeps all its
    fields; those named after a side go with it, and `gold_chosen`, `gold_rejected` and `swapped`
    are added.

    Args:
        temperature: of Bradley–Terry noise, in units of the gold; None for no noise.
        ties: whether pairs of equal gold are left out; with noise they are a toss of a coin.

    Raises:
        ConfigError: a temperature that is not above 0, or an output that is a folder.
        DataError: a row that is not a pair with `chosen` and `rejected`, or has no gold (under
            `stop`), or no pair at all."""
    if temperature is not None and not (math.isfinite(temperature) and temperature > 0):
        raise ConfigError(f"temperature {temperature:g}: expected a number above 0")
    report = RelabelReport()
    skip = on_bad_record == "skip"
    drop_ties = ties == "drop" and temperature is None
    with files.atomic_file(output) as stream:
        pairs = _pairs(source, report.census, on_bad_record)
        for row, pair, scores in _with_gold(pairs, gold, report.census, skip):
            # Only exact ties: how near is near is the temperature's question.
            tied = bool(scores[0] == scores[1])
            report.ties += tied
            if tied and drop_ties:
                continue
            swap = _swaps(pair, scores, temperature, seed)
            report.pairs += 1
            report.swapped += swap
            report.overturned += not tied and swap != bool(scores[0] < scores[1])
            if swap and row.get("margin") is not None:
                report.census.add(DropReason.SWAPPED_MARGIN, pair.where)
            stream.write(orjson.dumps(_relabelled(row, scores, swap)) + b"\n")
        if not report.pairs:
            counted = report.census.lines()
            if report.ties:
                counted.append(f"ties left out: {report.ties:,}")
            reasons = "; ".join(counted) or "it is empty"
            raise DataError(f"{source.path}: no pair to write ({reasons})")
    return report


def _pairs(source: Source, census: Census, on_bad_record: OnBad) -> Iterator[_Pair]:
    for where, row, records in usable_rows(source, census, on_bad_record):
        for record in records:
            if not isinstance(record, Preference) or not row.keys() >= set(SIDES):
                raise DataError(
                    f"{where}: row: not a pair with the fields chosen and rejected: only such rows "
                    "can be relabelled"
                )
            yield row, record


def _with_gold(
    pairs: Iterator[_Pair], gold: Reward, census: Census, skip: bool
) -> Iterator[tuple[Row, Preference, Floats]]:
    read, reason = gold.view().read, DropReason.NO_REWARD
    while chunk := list(itertools.islice(pairs, CHUNK)):
        items = [pair.item for _, pair in chunk]
        results = score_all(gold, items, census, skip=skip, reason=reason, what="gold")
        for (row, pair), result in zip(chunk, results, strict=True):
            if result is not None:
                yield row, pair, read(result.rows)


def _swaps(pair: Preference, scores: Floats, temperature: float | None, seed: int) -> bool:
    """Whether the label of a pair changes: a function of the seed and the pair's texts."""
    if temperature is None:
        return bool(scores[0] < scores[1])
    chosen, rejected = prompt_key(pair.chosen), prompt_key(pair.rejected)
    # The draw is about the text that sorts first, so that it does not depend on the old label.
    first, second = sorted((chosen, rejected))
    gap = float(scores[0] - scores[1])
    if chosen != first:
        gap = -gap
    uniform = hashed(seed, prompt_key(pair.prompt), first, second) / 2**56
    first_wins = uniform < expit(gap / temperature)
    return bool(first_wins != (chosen == first))


def _relabelled(row: Row, scores: Floats, swap: bool) -> dict[str, Any]:
    fields = dict(row)
    if swap:
        scores = scores[::-1]
        fields = _exchanged(row)
        # The strength of the old label says nothing of the new one.
        fields.pop("margin", None)
        if isinstance(row.get("meta"), dict):
            fields["meta"] = _exchanged(row["meta"])
    chosen, rejected = scores.tolist()
    return {**fields, "gold_chosen": chosen, "gold_rejected": rejected, "swapped": swap}


def _exchanged(fields: Row) -> dict[str, Any]:
    exchanged = dict(fields)
    for name in fields:
        for side, opposite in (SIDES, SIDES[::-1]):
            # Named after one side only: `chosen_over_chosen` says nothing that could be exchanged.
            named = re.fullmatch(rf"{side}|{side}_.+|.+_{side}", name) and name.count(side) == 1
            partner = name.replace(side, opposite)
            if named and partner in fields:
                exchanged[name] = fields[partner]
                break
    return exchanged
