"""What the scoring benchmarks score: prompts with N responses, pairs, and RM-Bench's shape.

A round cannot hold a whole set, so it holds a sample whose *token ratio* (positions of the padded
batches to positions of the forest) is that of the whole set to 3 %: every s-th record of the set
sorted by length, from the first start that meets this. Only token counts are looked at.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from bench.texts import DATA, Source, answer, arena_answers, hh_pairs, pairs_file, styles, texts_of
from smorm.arrays import Tokens
from smorm.data.records import Candidates, Messages, Preference
from smorm.text.chat import Renderer
from smorm.trees.forest import MIN_SHARE, common_prefix, sort_key

__all__ = [
    "DATA",
    "Source",
    "answer",
    "arena_answers",
    "hh_pairs",
    "pairs_file",
    "styles",
    "texts_of",
]

BATCH = 8
"""Sequences in a padded batch: RewardBench's command line default."""
TOLERANCE = 0.03
_LENGTH = float(np.log(300.0))
_SPREAD = 0.22
T = TypeVar("T")
Unit = list[Tokens]
Order = Callable[[int, int], list[tuple[int, int]]]
"""(records, responses a record) -> the baseline's order as (record, response) places."""


@dataclass(frozen=True, slots=True)
class Workload:
    """A round's work.

    Attributes:
        records: the round's, in their set's order.
        units: their conversations as token ids, one list a record.
        order: in which order the padded loop takes them.
        facts: where the texts come from, and token statistics of the round and the whole set.
    """

    name: str
    records: list[Candidates]
    units: list[Unit]
    order: list[tuple[int, int]]
    facts: dict[str, Any]

    @property
    def responses(self) -> int:
        """How many conversations are scored."""
        return sum(map(len, self.units))


def by_record(records: int, responses: int) -> list[tuple[int, int]]:
    """One record's responses after the other's: how best-of-N sets are stored."""
    return list(itertools.product(range(records), range(responses)))


def by_side(records: int, responses: int) -> list[tuple[int, int]]:
    """All rejected, then all chosen: the order of RewardBench's script."""
    return [(record, side) for side in (1, 0) for record in range(records)]


def by_pass(records: int, responses: int) -> list[tuple[int, int]]:
    """RM-Bench's script: a pass for each style, in it all rejected, then all chosen.

    A record's responses are chosen concise, plain, markdown, then rejected in the same styles.
    """
    return [
        (record, style + side) for style in range(3) for side in (3, 0) for record in range(records)
    ]


def first_of(source: Source[T], limit: int | None) -> Source[T]:
    """The source's first records, and its origin says so."""
    if limit is None:
        return source
    return Source(source.records[:limit], f"{source.origin}, first {limit} records")


def best_of(source: Source[Preference], count: int, seed: int = 0) -> list[Candidates]:
    """Every prompt with ``count`` real responses drawn without repetition from the whole set's."""
    rng = np.random.default_rng(seed)
    pool = [side for pair in source.records for side in (pair.chosen, pair.rejected)]
    return [
        Candidates(pair.prompt, tuple(pool[i] for i in rng.choice(len(pool), count, replace=False)))
        for pair in source.records
    ]


def pairs(source: Source[Preference]) -> list[Candidates]:
    """Pairs as they are: chosen, rejected."""
    return [Candidates(pair.prompt, (pair.chosen, pair.rejected)) for pair in source.records]


def rm_bench(source: Source[Candidates], tokens: Callable[[str], int]) -> list[Candidates]:
    """RM-Bench's shape on short prompts: two models' answers in three styles each.

    RM-Bench's chat part has prompts of about 32 tokens and responses of about 280; sharing saves
    14 % of its tokens (1.16 times) and its script pads by 1.28. Lengths are drawn so that the
    same holds here; the first two answers that are long enough are taken.
    """
    rng, records = np.random.default_rng(0), []
    for record in source.records:
        if tokens(record.prompt[0].content) > 60:
            continue
        budget = rng.lognormal(_LENGTH, _SPREAD)
        found = [
            styles(side[0].content, int(budget * rng.uniform(0.9, 1.1)), tokens)
            for side in record.responses
        ]
        sides = [three for three in found if three is not None][:2]
        if len(sides) == 2:
            responses = tuple(answer(text) for three in sides for text in three)
            records.append(Candidates(record.prompt, responses))
    return records


def sample(
    name: str,
    records: Sequence[Candidates],
    size: int,
    order: Order,
    renderer: Renderer,
    origin: str,
) -> Workload:
    """A round's records and what is known of their tokens; see the module's text for the rule."""
    cache: dict[Messages, list[int]] = {}
    units = [_unit(record, renderer, cache) for record in records]
    ratio = _ratio(units, order)
    chosen = _stride(units, size, order, ratio)
    facts = {
        "texts": origin,
        "records": [len(chosen), len(records)],
        "token_ratio": round(_ratio([units[i] for i in chosen], order), 3),
        "token_ratio_of_whole_set": round(ratio, 3),
        "tokens_per_response": _mean_length([units[i] for i in chosen]),
        "tokens_per_response_of_whole_set": _mean_length(units),
        "sharing": round(_sharing(units), 3),
    }
    own = [units[i] for i in chosen]
    return Workload(name, [records[i] for i in chosen], own, order(len(own), len(own[0])), facts)


def padded_positions(lengths: Sequence[int], batch: int = BATCH) -> int:
    """Positions that batches of ``batch`` sequences compute, each padded to its longest."""
    parts = [lengths[start : start + batch] for start in range(0, len(lengths), batch)]
    return sum(len(part) * max(part) for part in parts)


def forest_positions(unit: Unit) -> int:
    """Positions that a forest of these sequences computes: every shared token once."""
    ordered = sorted(unit, key=sort_key)
    total = len(ordered[0])
    for before, tokens in itertools.pairwise(ordered):
        shared = common_prefix(before, tokens)
        kept = shared if shared >= MIN_SHARE or shared == len(tokens) else 0
        total += len(tokens) - kept
    return total


def _unit(record: Candidates, renderer: Renderer, cache: dict[Messages, list[int]]) -> Unit:
    """A record's conversations, put together from messages tokenised once.

    A role token stands before every message and no token spans it, so the parts' tokens are the
    whole's (a test compares them with the renderer's). Best-of-64 over a whole set is 100,000
    conversations of 5,000 different messages.
    """

    def part(messages: Messages) -> list[int]:
        if messages not in cache:
            cache[messages] = renderer.render(messages)
        return cache[messages]

    prompt = part(record.prompt)[:-1]  # without the EOS
    return [np.array(prompt + part(response)[1:], dtype=np.int32) for response in record.responses]


def _stride(units: list[Unit], size: int, order: Order, ratio: float) -> list[int]:
    """Places of the sample, in the set's order."""
    ranked = sorted(range(len(units)), key=lambda i: (sum(map(len, units[i])), i))
    if size >= len(units):
        return sorted(ranked)
    step = len(ranked) / size
    middle = step / 2
    starts = sorted(np.arange(0.0, step, max(1.0, step / 200)), key=lambda s: abs(s - middle))
    candidates = [[ranked[int(start + step * k)] for k in range(size)] for start in starts]
    gaps = []
    for candidate in candidates:
        gap = abs(_ratio([units[i] for i in sorted(candidate)], order) / ratio - 1)
        gaps.append(gap)
        if gap <= TOLERANCE:
            break
    return sorted(candidates[int(np.argmin(gaps))])


def _ratio(units: list[Unit], order: Order) -> float:
    places = order(len(units), len(units[0]))
    padded = padded_positions([len(units[record][response]) for record, response in places])
    return padded / sum(map(forest_positions, units))


def _sharing(units: list[Unit]) -> float:
    return sum(len(tokens) for unit in units for tokens in unit) / sum(map(forest_positions, units))


def _mean_length(units: list[Unit]) -> float:
    return round(float(np.mean([len(tokens) for unit in units for tokens in unit])), 1)
