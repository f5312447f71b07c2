"""Sets of prompts with their pools, read or sampled, and their gold."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import compress
from typing import Any

from smorm.arrays import Floats
from smorm.data.census import Census, DropReason
from smorm.data.reading import Source
from smorm.data.records import Item, prompt_key
from smorm.errors import DataError
from smorm.files import fingerprint
from smorm.rewards.cache import CachedReward
from smorm.rewards.protocol import Reward, ScoringOptions, score_all
from smorm.stress.best_of_n import spread_within
from smorm.stress.config import PromptsSection, StressConfig
from smorm.stress.pools import prompt_label, read_pools
from smorm.stress.proxies import open_gold, provenance_of
from smorm.stress.sample import sample_file
from smorm.stress.symptoms import text_measures

# Of a pool: n = 1 and two larger n are what a curve needs.
FEWEST_ANSWERS = 3

Tell = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class PromptSet:
    """A named set of pools."""

    name: str
    pools: list[Item]
    gold: list[Floats]  # of each pool's answers [N]
    texts: list[Mapping[str, Floats]]  # what they look like, by measure, [N] each
    provenance: Mapping[str, Any]  # what the gold is
    notes: tuple[str, ...]  # what was counted


def data_of(pools: Sequence[Item]) -> str:
    """Fingerprint of the texts."""
    return fingerprint([[prompt_label(pool), *map(prompt_key, pool.responses)] for pool in pools])


def read_sets(config: StressConfig, options: ScoringOptions, tell: Tell) -> list[PromptSet]:
    """All sets of prompts with their gold."""
    gold = open_gold(config.gold, options)
    # Every n needs a pool that is as large: smaller pools would change the prompts along the curve.
    smallest = max(config.n or [FEWEST_ANSWERS])
    return [_read_set(section, gold, config, smallest, tell) for section in config.prompts]


def _read_set(
    section: PromptsSection, gold: Reward, config: StressConfig, smallest: int, tell: Tell
) -> PromptSet:
    census = Census()
    source = _source(section, config, census, tell)
    pools = []
    for pool in read_pools(source, census, config.on_bad_record):
        pool = _without_long(pool, section.max_words, census)
        if len(pool) >= smallest:
            pools.append(pool)
        else:
            census.add(DropReason.SMALL_POOL, pool.where, detail=str(smallest))
    tell(f"gold of {section.name} by {config.gold.place}")
    skip, reason = skips(config, gold), DropReason.NO_REWARD
    scored = score_all(gold, pools, census, skip=skip, reason=reason, what="gold")
    pools = list(compress(pools, scored))
    values = [gold.view().read(result.rows) for result in filter(None, scored)]
    if not pools:
        counted = "; ".join(census.lines())
        raise DataError(f"{section.path}: prompts {section.name}: no pool is left: {counted}")
    # A gold that chooses nothing is refused before anything is optimised.
    spread_within(f"prompts {section.name}: gold", values)
    notes = [_counts(list(map(len, pools))), *census.lines()]
    if isinstance(gold, CachedReward):
        notes.append(
            f"gold: asked for {gold.requested:,} answers so far, {gold.reused:,} were known."
        )
    texts: list[Mapping[str, Floats]] = [text_measures(pool.texts) for pool in pools]
    provenance = {"name": gold.name, **provenance_of(gold, gold.view())}
    return PromptSet(section.name, pools, values, texts, provenance, tuple(notes))


def _without_long(pool: Item, max_words: int | None, census: Census) -> Item:
    """The pool without its answers of more words."""
    if max_words is None:
        return pool
    short = [i for i, text in enumerate(pool.texts) if len(text.split()) <= max_words]
    dropped = len(pool) - len(short)
    if not dropped:
        return pool
    census.add(DropReason.LONG_ANSWER, pool.where, dropped, str(max_words))
    return pool.only(short)


def _source(section: PromptsSection, config: StressConfig, census: Census, tell: Tell) -> Source:
    """Where the pools are; those that are to be sampled are written beside the output first."""
    source = Source(
        section.path, section.format, section.split, section.subset, limit=section.limit
    )
    sample = section.sample
    if sample is None:
        return source
    output = config.output.with_name(f"{config.output.stem}-{section.name}.pools.jsonl")
    tell(f"sampling {sample.answers} answers to each prompt of {section.name} from {sample.policy}")
    count = sample_file(source, sample, output, census, device=config.device)
    # Written first: what was measured can be measured again without the policy.
    census.add(DropReason.SAMPLED, count=count, detail=output.name)
    return Source(output)


def skips(config: StressConfig, reward: Reward | None = None) -> bool:
    """Whether a pool that a reward (by default some model) cannot score is left out, counted;
    `overlong: drop` is about models: nothing is too long for another reward."""
    dropped = config.overlong == "drop" and (reward is None or reward.drops_overlong)
    return config.on_bad_record == "skip" or dropped


def _counts(answers: Sequence[int]) -> str:
    low, high = min(answers), max(answers)
    sizes = f"{low} to {high}"
    if low == high:
        sizes = str(low)
    if len(answers) == 1:
        return f"1 prompt with {sizes} answers; intervals resample prompts, so that there is none."
    return f"{len(answers)} prompts with {sizes} answers each; intervals resample prompts."
