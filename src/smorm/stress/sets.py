"""Sets of prompts with their pools, read or sampled, and their gold."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from smorm.data.census import Census, DropReason
from smorm.data.reading import Source
from smorm.data.records import Item, prompt_key
from smorm.errors import DataError
from smorm.evaluation.metrics import Floats
from smorm.files import fingerprint
from smorm.stress.best_of_n import spread_within
from smorm.stress.config import PromptsSection, StressConfig
from smorm.stress.gold import Remembering, open_reward, scored_pools
from smorm.stress.pools import Pool, read_pools
from smorm.stress.proxies import ViewOf
from smorm.stress.rewards import Reading, Reward
from smorm.stress.sample import sample_file
from smorm.stress.symptoms import text_measures

FEWEST_ANSWERS = 3
"""Of a pool: n = 1 and two larger n are what a curve needs."""

Tell = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class PromptSet:
    """A named set of pools with their gold, what their answers look like, what the gold is, and
    what was counted."""

    name: str
    pools: list[Pool]
    gold: list[Floats]
    texts: list[Mapping[str, Floats]]
    gold_marks: Mapping[str, Any]
    notes: tuple[str, ...]


def data_of(pools: Sequence[Pool]) -> str:
    """Fingerprint of the texts."""
    return fingerprint(
        [
            [pool.prompt, *(prompt_key(response) for response in pool.item.responses)]
            for pool in pools
        ]
    )


def read_sets(
    config: StressConfig, reading: Reading, view_of: ViewOf, tell: Tell
) -> list[PromptSet]:
    """All sets of prompts with their gold.

    Raises:
        DataError: a set without a usable pool, or an answer without gold.
    """
    gold = open_reward(config.gold, reading, view_of)
    smallest = max(config.n or [FEWEST_ANSWERS])
    return [_read_set(section, gold, config, smallest, tell) for section in config.prompts]


def _read_set(
    section: PromptsSection, gold: Reward, config: StressConfig, smallest: int, tell: Tell
) -> PromptSet:
    census = Census()
    source = _source(section, config, census, tell)
    pools = []
    for whole in read_pools(source, census, config.on_bad_record):
        pool = _shorter(whole, section.max_words, census)
        if len(pool) >= smallest:
            pools.append(pool)
        else:
            census.add(DropReason.SMALL_POOL, pool.item.where, detail=str(smallest))
    tell(f"gold of {section.name} by {config.gold.place}")
    scores = scored_pools(gold, pools, census, "gold", skip=skips(config, config.gold.kind))
    kept = [(pool, one) for pool, one in zip(pools, scores, strict=True) if one is not None]
    if not kept:
        counted = "; ".join(census.lines())
        raise DataError(f"{section.path}: prompts {section.name}: no pool is left: {counted}")
    found = [pool for pool, _ in kept]
    scores_kept = [one for _, one in kept]
    spread_within(f"prompts {section.name}: gold", scores_kept)  # told before anything is pushed
    notes = [_counts([len(pool) for pool in found]), *census.lines()]
    if isinstance(gold, Remembering):
        notes.append(f"gold: asked for {gold.asked:,} answers so far, {gold.reused:,} were known.")
    texts: list[Mapping[str, Floats]] = [text_measures(pool.texts) for pool in found]
    return PromptSet(section.name, found, scores_kept, texts, gold.marks, tuple(notes))


def _shorter(pool: Pool, max_words: int | None, census: Census) -> Pool:
    """The pool without its answers of more words."""
    kept = [
        at
        for at, text in enumerate(pool.texts)
        if max_words is None or len(text.split()) <= max_words
    ]
    if len(kept) == len(pool):
        return pool
    left = len(pool) - len(kept)
    census.add(DropReason.LONG_ANSWER, pool.item.where, left, str(max_words))
    responses = tuple(pool.item.responses[at] for at in kept)
    item = Item(pool.item.prompt, responses, pool.item.where)
    return Pool(item, tuple(pool.given[at] for at in kept))


def _source(section: PromptsSection, config: StressConfig, census: Census, tell: Tell) -> Source:
    """Where the pools are; those that are to be sampled are written beside the output first."""
    source = Source(
        section.path, section.format, section.split, section.subset, limit=section.limit
    )
    if section.sample is None:
        return source
    output = config.output.with_name(f"{config.output.stem}-{section.name}.pools.jsonl")
    sample = section.sample
    tell(f"sampling {sample.answers} answers to each prompt of {section.name} from {sample.policy}")
    count = sample_file(source, section.sample, output, census, device=config.device)
    census.add(DropReason.SAMPLED, count=count, detail=output.name)
    return Source(output)


def skips(config: StressConfig, kind: str = "model") -> bool:
    """Whether a pool that a kind of reward cannot score is left out, counted, or stops the test.

    `overlong: drop` is about models: nothing is too long for another reward.
    """
    dropped = config.overlong == "drop" and kind in ("model", "ensemble")
    return config.on_bad_record == "skip" or dropped


def _counts(answers: Sequence[int]) -> str:
    low, high = min(answers), max(answers)
    shown = str(low) if low == high else f"{low} to {high}"
    if len(answers) == 1:
        return f"1 prompt with {shown} answers; intervals resample prompts, so that there is none."
    return f"{len(answers)} prompts with {shown} answers each; intervals resample prompts."
