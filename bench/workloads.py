"""What the scoring benchmarks score: prompts with N responses, pairs, and RM-Bench's shape.

A round cannot hold a whole set, so it holds a sample whose *token ratio* (positions of the padded
batches to positions of the forest) is that of the whole set to 3 %: every s-th record of the set
sorted by length, from the first start that meets this. Only token counts decide.

Shapes: R records, N responses a record."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np

from bench.smorm_run import VOCABULARY
from bench.texts import Source, answer, arena_answers, hh_pairs, styles, texts_of
from smorm.arrays import Ints, Tokens
from smorm.data.records import Candidates, Messages, Preference
from smorm.text.chat import Renderer
from smorm.text.tokenizers import train_bpe
from smorm.trees.forest import forest_rows

# Sequences in a padded batch: RewardBench's command line default.
BATCH = 8
TOLERANCE = 0.03
MAX_TOKENS = 4096
_LENGTH, _DEVIATION = float(np.log(300.0)), 0.22  # of log(tokens) of an answer in RM-Bench's shape
T = TypeVar("T")
Unit = list[Tokens]
# (R, N) -> the baseline's order [R N]; response n of record r is the number r N + n.
Order = Callable[[int, int], Ints]


@dataclass(frozen=True, slots=True)
class Workload:
    """A round's work.

    Attributes:
        records: the round's, in their set's order.
        units: their conversations as token ids, one list a record.
        order: in which order the padded loop takes them.
        facts: where the texts come from, and token statistics of the round and the whole set."""

    name: str
    records: list[Candidates]
    units: list[Unit]
    order: Ints
    facts: dict[str, Any]

    @property
    def sequences(self) -> list[Tokens]:
        """All conversations, record by record."""
        return list(itertools.chain.from_iterable(self.units))


class TokenCounts(NamedTuple):
    """Tokens of each conversation [R, N], and positions of each record's forest [R]."""

    lengths: Ints
    forest: Ints

    @classmethod
    def of(cls, units: Sequence[Unit]) -> TokenCounts:
        """Of records with equally many responses."""
        lengths = [list(map(len, unit)) for unit in units]
        return cls(np.array(lengths), np.array(list(map(forest_rows, units))))

    def of_records(self, index: Ints) -> TokenCounts:
        """The counts of some records."""
        return TokenCounts(self.lengths[index], self.forest[index])

    def ratio(self, order: Order) -> float:
        """Padded positions to forest positions."""
        lengths = self.lengths.ravel()[order(*self.lengths.shape)]
        return padded_positions(lengths) / int(self.forest.sum())

    def mean_length(self) -> float:
        """Tokens of a conversation."""
        return round(float(self.lengths.mean()), 1)


def by_record(records: int, responses: int) -> Ints:
    """One record's responses after the other's: how best-of-N sets are stored."""
    return np.arange(records * responses)


def by_side(records: int, responses: int) -> Ints:
    """All rejected, then all chosen: the order of RewardBench's script."""
    return np.arange(records * responses).reshape(records, responses)[:, [1, 0]].T.ravel()


def by_pass(records: int, responses: int) -> Ints:
    """RM-Bench's script: a pass for each style, in it all rejected, then all chosen.

    A record's responses are chosen concise, plain, markdown, then rejected in the same styles."""
    grid = np.arange(records * responses).reshape(records, responses)
    return grid[:, [3, 0, 4, 1, 5, 2]].T.ravel()


# Records in a round.
SIZES = {
    "score_bon16_vs_padded": 3,
    "score_bon64_vs_padded": 1,
    "score_pairs_vs_padded": 16,
    "score_rmbench_script": 8,
}


def make_workloads(
    model: str, data: Path | None, limit: int | None = None
) -> tuple[Any, list[Workload]]:
    """The tokenizer (trained on the workloads' texts) and the rounds' work.

    ``limit`` takes only the first records of each set: a quick look, not a figure to report."""
    hh, arena = first_of(hh_pairs(data), limit), first_of(arena_answers(data), limit)
    texts = itertools.chain(texts_of(hh.records), texts_of(arena.records))
    tokenizer = train_bpe(texts, VOCABULARY[model])
    renderer = Renderer(tokenizer, max_tokens=MAX_TOKENS)
    tokens = token_counter(tokenizer)
    sets: dict[str, tuple[list[Candidates], Order, str]] = {
        "score_bon16_vs_padded": (best_of(hh, 16), by_record, hh.origin),
        "score_bon64_vs_padded": (best_of(hh, 64), by_record, hh.origin),
        "score_pairs_vs_padded": (pairs(hh), by_side, hh.origin),
        "score_rmbench_script": (rm_bench(arena, tokens), by_pass, arena.origin),
    }
    workloads = []
    for name, (records, order, origin) in sets.items():
        workloads.append(sample(name, records, SIZES[name], order, renderer, origin))
    return tokenizer, workloads


def token_counter(tokenizer: Any) -> Callable[[str], int]:
    """How many tokens a text has, without special ones."""
    # By its Rust part: the call of transformers around it takes ten times as long, and RM-Bench's
    # shape is made of some 100,000 sentences.
    backend = tokenizer.backend_tokenizer

    def count(text: str) -> int:
        return len(backend.encode(text, add_special_tokens=False).ids)

    return count


def first_of(source: Source[T], limit: int | None) -> Source[T]:
    """The source's first records, and its origin says so."""
    if limit is None:
        return source
    return Source(source.records[:limit], f"{source.origin}, first {limit} records")


def best_of(source: Source[Preference], count: int, seed: int = 0) -> list[Candidates]:
    """Every prompt with ``count`` real responses drawn without repetition from the whole set's."""
    rng = np.random.default_rng(seed)
    pool: list[Messages] = []
    for pair in source.records:
        pool += [pair.chosen, pair.rejected]
    records = []
    for pair in source.records:
        # a quick look at two records has fewer responses than best-of-64 takes
        drawn = rng.choice(len(pool), count, replace=count > len(pool))
        records.append(Candidates(pair.prompt, tuple(pool[index] for index in drawn)))
    return records


def pairs(source: Source[Preference]) -> list[Candidates]:
    """Pairs as they are: chosen, rejected."""
    return [Candidates(pair.prompt, (pair.chosen, pair.rejected)) for pair in source.records]


def rm_bench(source: Source[Candidates], tokens: Callable[[str], int]) -> list[Candidates]:
    """RM-Bench's shape on short prompts: two models' answers in three styles each.

    RM-Bench's chat part has prompts of about 32 tokens and responses of about 280; sharing saves
    14 % of its tokens (1.16 times) and its script pads by 1.28. Lengths are drawn so that the
    same holds here; the first two answers that are long enough are taken."""
    rng, records = np.random.default_rng(0), []
    for record in source.records:
        if tokens(record.prompt[0].content) > 60:
            continue
        budget = rng.lognormal(_LENGTH, _DEVIATION)
        styled = []
        # Every answer draws its length, used or not: the draws of later records depend on it.
        for response in record.responses:
            length = int(budget * rng.uniform(0.9, 1.1))
            texts = styles(response[0].content, length, tokens)
            if texts is not None:
                styled.append(texts)
        if len(styled) >= 2:
            responses = tuple(map(answer, styled[0] + styled[1]))
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
    """A round's records and their token statistics; the module's docstring has the rule.

    Raises:
        ValueError: no records."""
    if not records:
        raise ValueError(f"{name}: no record has this shape; a larger --limit may have some")
    cache: dict[Messages, list[int]] = {}
    units = [_unit(record, renderer, cache) for record in records]
    counts = TokenCounts.of(units)
    index = _sample(counts, size, order)
    sampled = counts.of_records(index)
    facts = {
        "texts": origin,
        "records": [len(index), len(records)],
        "token_ratio": round(sampled.ratio(order), 3),
        "token_ratio_of_whole_set": round(counts.ratio(order), 3),
        "tokens_per_response": sampled.mean_length(),
        "tokens_per_response_of_whole_set": counts.mean_length(),
        "sharing": round(int(counts.lengths.sum()) / int(counts.forest.sum()), 3),
    }
    return Workload(
        name,
        [records[i] for i in index],
        [units[i] for i in index],
        order(*sampled.lengths.shape),
        facts,
    )


def padded_positions(lengths: Iterable[int], batch: int = BATCH) -> int:
    """Positions that batches of ``batch`` sequences compute, each padded to its longest."""
    counts = np.fromiter(lengths, np.int64)
    starts = np.arange(0, len(counts), batch)
    sizes = np.diff(np.append(starts, len(counts)))
    return int(np.maximum.reduceat(counts, starts) @ sizes)


def _unit(record: Candidates, renderer: Renderer, cache: dict[Messages, list[int]]) -> Unit:
    """A record's conversations, put together from messages tokenised once.

    A role token precedes every message and no token spans it, so the tokens of the messages are
    those of the conversation (a test compares them with the renderer's). Best-of-64 over a whole
    set is 100,000 conversations of 5,000 different messages."""
    for messages in (record.prompt, *record.responses):
        if messages not in cache:
            cache[messages] = renderer.render(messages)
    prompt = cache[record.prompt][:-1]  # without the EOS
    # a response's first token is the BOS
    rows = [prompt + cache[response][1:] for response in record.responses]
    return [np.array(row, dtype=np.int32) for row in rows]


def _sample(counts: TokenCounts, size: int, order: Order) -> Ints:
    """Indices of the sampled records, in the set's order."""
    # Lengths vary so much that a random sample's ratio would be far from the set's.
    total = len(counts.forest)
    if size >= total:
        return np.arange(total)
    ratio = counts.ratio(order)
    ranked = np.argsort(counts.lengths.sum(axis=1), kind="stable")
    step = total / size
    starts = np.arange(0.0, step, max(1.0, step / 200))
    best, smallest = ranked[:size], np.inf
    # From the middle outwards: the middle of each stretch is the most typical of it.
    for start in starts[np.argsort(np.abs(starts - step / 2), kind="stable")]:
        index = np.sort(ranked[(start + step * np.arange(size)).astype(np.int64)])
        gap = abs(counts.of_records(index).ratio(order) / ratio - 1)
        if gap < smallest:
            best, smallest = index, gap
        if gap <= TOLERANCE:
            break
    return best
