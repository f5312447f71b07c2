"""A stress test from its configuration to results: one for each reward, view and set of prompts."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import compress
from typing import Any

from smorm.arrays import Floats
from smorm.data.census import Census, DropReason
from smorm.data.reading import Source
from smorm.data.records import Item, prompt_key
from smorm.errors import DataError
from smorm.evaluation.alarm_measures import AlarmScores, measure_alarms
from smorm.evaluation.result import Result, differences
from smorm.files import fingerprint
from smorm.model.device import pick_device
from smorm.model.store import versions
from smorm.rewards.protocol import CachedReward, Reward, RewardView, ScoringOptions, score_all
from smorm.rewards.section import REWARDS
from smorm.stress.best_of_n import doubling_sizes, spread_within
from smorm.stress.config import PromptsSection, StressConfig
from smorm.stress.curves import ScoredPools, measure
from smorm.stress.pools import prompt_label, read_pools
from smorm.stress.proxies import ProxyReward, names_of, open_gold, open_proxy, provenance_of
from smorm.stress.sample import sample_file
from smorm.stress.symptoms import PROBES, disagreement, probes_of, text_measures

KIND = "stress"
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


def run_stress(config: StressConfig, *, tell: Tell = lambda line: None) -> list[Result]:
    """Optimise against every reward on every set of prompts, by best-of-n or with `rl` a policy;
    then the paired differences to the first reward. `tell` gets a line about what begins."""
    names = names_of(config.models)
    # What is missing is told now, not after the first reward has scored for hours.
    for section in config.models:
        for view in section.views or [section.view]:
            REWARDS[section.kind].find(section.model_copy(update={"view": view}))
    pick_device(config.device)
    if config.rl is not None:
        from smorm.stress.rl.run import run_rl

        results = run_rl(config, tell=tell)
        return results + paired_by_seed(results)
    options = config.scoring_options
    sets = read_sets(config, options, tell)
    smallest = min(len(pool) for prompts in sets for pool in prompts.pools)
    sizes = tuple(config.n or doubling_sizes(smallest))
    results = []
    for section, name in zip(config.models, names, strict=True):
        seed = "" if section.seed is None else f", seed {section.seed}"
        tell(f"scoring with {name}{seed}")
        proxy = open_proxy(section, name, options)
        scored = [score_set(proxy, prompts, config) for prompts in sets]
        for of_set in scored:
            results += measure_set(proxy, of_set, scored, sizes, config)
    return results + paired_by_seed(results)


def read_sets(config: StressConfig, options: ScoringOptions, tell: Tell) -> list[PromptSet]:
    """All sets of prompts with their gold."""
    gold = open_gold(config.gold, options)
    return [_read_set(section, gold, config, tell) for section in config.prompts]


def _read_set(section: PromptsSection, gold: Reward, config: StressConfig, tell: Tell) -> PromptSet:
    census = Census()
    source = _source(section, config, census, tell)
    # Every n needs a pool that is as large: smaller pools would change the prompts along the curve.
    # A curve needs n = 1 and two larger n.
    smallest = max(config.n or [3])
    pools = []
    for pool in read_pools(source, census, config.on_bad_record):
        pool = _without_long(pool, section.max_words, census)
        if len(pool) >= smallest:
            pools.append(pool)
        else:
            census.add(DropReason.SMALL_POOL, pool.where, detail=str(smallest))
    tell(f"gold of {section.name} by {config.gold.place}")
    skip, reason = config.on_bad_record == "skip", DropReason.NO_REWARD
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
    sample = section.sample
    if sample is None:
        return section.source
    output = config.output.with_name(f"{config.output.stem}-{section.name}.pools.jsonl")
    tell(f"sampling {sample.answers} answers to each prompt of {section.name} from {sample.policy}")
    count = sample_file(section.source, sample, output, census, device=config.device)
    # Written first: what was measured can be measured again without the policy.
    census.add(DropReason.SAMPLED, count=count, detail=output.name)
    return Source(output)


def _counts(answers: Sequence[int]) -> str:
    low, high = min(answers), max(answers)
    sizes = str(low) if low == high else f"{low} to {high}"
    if len(answers) == 1:
        return f"1 prompt with {sizes} answers; intervals resample prompts, so that there is none."
    return f"{len(answers)} prompts with {sizes} answers each; intervals resample prompts."


@dataclass(frozen=True, slots=True)
class ScoredSet:
    """A reward's rows of a set's answers, as far as it scored them."""

    prompts: PromptSet
    pools: list[Item]
    rows: list[Floats]  # the reward's columns [N, C] of each pool
    gold: list[Floats]
    texts: list[Mapping[str, Floats]]
    # Rows of the probes of each pool (`probes_of`); none for a reward that reads no text.
    probed: list[Floats | None]
    notes: tuple[str, ...]  # what was counted
    disagreement: list[Floats] | None

    def alarm_scores(self, view: RewardView, proxy: ProxyReward) -> AlarmScores:
        """What alarms on a view are measured from."""
        mean_attribute = proxy.attributes_beside(view)
        attributes = None if mean_attribute is None else list(map(mean_attribute.read, self.rows))
        closing = [None if rows is None else view.read(rows)[PROBES:] for rows in self.probed]
        labels, words = list(map(prompt_label, self.pools)), [t["length"] for t in self.texts]
        scores = list(map(view.read, self.rows))
        return AlarmScores(labels, scores, words, attributes, closing)


def score_set(proxy: ProxyReward, prompts: PromptSet, config: StressConfig) -> ScoredSet:
    """Score a set's pools and their probes; DataError where the reward scores no pool."""
    census, probe_census, reward = Census(), Census(), proxy.reward
    score = partial(score_all, reward, reason=DropReason.NO_REWARD, what="score")
    scored = score(prompts.pools, census=census, skip=config.on_bad_record == "skip")
    rows = [result.rows for result in filter(None, scored)]
    pools = list(compress(prompts.pools, scored))
    gold, texts = list(compress(prompts.gold, scored)), list(compress(prompts.texts, scored))
    if not pools:
        raise DataError(f"prompts {prompts.name}: {proxy.name} scores no pool")
    probed: list[Floats | None] = []
    # A field or a file has no number for an answer that was changed.
    if config.probes and reward.reads_text:
        results = score(list(map(probes_of, pools)), census=probe_census, skip=True)
        probed = [None if result is None else result.rows for result in results]
    signal = _disagreement(proxy, rows, census)
    # A table has other rewards beside this one: its name is in every note.
    notes = [f"{proxy.name}: {line}" for line in census.lines()]
    notes += [f"{proxy.name}: probes: {line}" for line in probe_census.lines()]
    return ScoredSet(prompts, pools, rows, gold, texts, probed, tuple(notes), signal)


def measure_set(
    proxy: ProxyReward,
    scored: ScoredSet,
    of_all: Sequence[ScoredSet],
    sizes: tuple[int, ...],
    config: StressConfig,
) -> list[Result]:
    """A result for each view of a reward on one set of prompts, with its alarms beside those of
    the set in distribution, one of `of_all`."""
    prompts, pools, reward = scored.prompts, scored.pools, proxy.reward
    texts_of_pools = [[prompt_label(pool), *map(prompt_key, pool.responses)] for pool in pools]
    provenance: dict[str, Any] = {
        "data": fingerprint(texts_of_pools),
        "gold": dict(prompts.provenance),
        "config": fingerprint(config.decisive),
        "versions": versions(),
    }
    if proxy.seed is not None:
        provenance["seed"] = proxy.seed
    results = []
    for view in proxy.views:
        attacks = [None if rows is None else view.read(rows)[:PROBES] for rows in scored.probed]
        values = list(map(view.read, scored.rows))
        pushed = ScoredPools(
            pools, values, scored.gold, scored.texts, sizes, attacks, scored.disagreement
        )
        try:
            measurement, points = measure(pushed)
        except DataError as error:
            where = f"{proxy.name}, view {view.name}, prompts {prompts.name}"
            raise DataError(f"{where}: {error}") from error
        of_view = {each.prompts.name: each.alarm_scores(view, proxy) for each in of_all}
        # Without a set that is named as in distribution there is nothing to compare with.
        reference = of_view.get(config.in_distribution or "")
        alarms = measure_alarms(of_view[prompts.name], reference, prompts.name)
        notes = [*prompts.notes, *scored.notes]
        if alarms.note:
            notes.append(f"{proxy.name}, {view.name}: {alarms.note}")
        results.append(
            Result(
                KIND,
                f"best-of-n/{prompts.name}",
                proxy.name,
                view.name,
                measurement.metrics,
                points,
                {**provenance_of(reward, view), **provenance},
                tuple(notes),
                measurement.outcomes,
                alarms=alarms.measured,
            )
        )
    return results


def _disagreement(
    proxy: ProxyReward, rows: Sequence[Floats], census: Census
) -> list[Floats] | None:
    if not proxy.heads:
        return None
    try:
        return disagreement(*(list(map(view.read, rows)) for view in proxy.heads))
    except DataError as error:
        # A head that does not vary is a finding about the model, and stops no test of its views.
        census.add(DropReason.NO_DISAGREEMENT, detail=str(error))
        return None


def paired_by_seed(results: Sequence[Result]) -> list[Result]:
    """Paired differences to the first reward, prompt by prompt, of each seed apart: the interval
    over seeds is then that of paired runs."""
    by_seed: dict[Any, list[Result]] = {}
    for result in results:
        by_seed.setdefault(result.fingerprint.get("seed"), []).append(result)
    paired: list[Result] = []
    for seed, of_seed in by_seed.items():
        for difference in differences(of_seed):
            if seed is not None:
                provenance = {**difference.fingerprint, "seed": seed}
                difference = replace(difference, fingerprint=provenance)
            paired.append(difference)
    return paired
