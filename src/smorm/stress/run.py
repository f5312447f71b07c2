"""A stress test from its configuration to results: one for each reward, view and set of prompts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from smorm.arrays import Floats
from smorm.data.census import Census, DropReason
from smorm.data.records import Item
from smorm.errors import DataError
from smorm.evaluation.result import Measurement, Result, differences
from smorm.files import fingerprint
from smorm.model.device import pick_device
from smorm.model.store import versions
from smorm.rewards.protocol import RewardView, ScoringOptions, score_all
from smorm.scoring.scorer import Scored
from smorm.stress.best_of_n import doubling_sizes
from smorm.stress.config import StressConfig
from smorm.stress.curves import ScoredPools, measure
from smorm.stress.probes import attacked, measure_probes
from smorm.stress.proxies import ProxyReward, find_all, names_of, open_proxy, provenance_of
from smorm.stress.sets import PromptSet, Tell, data_of, read_sets, skips
from smorm.stress.symptoms import detection, disagreement

KIND = "stress"


def run_stress(config: StressConfig, *, tell: Tell = lambda line: None) -> list[Result]:
    """Optimise against every reward on every set of prompts, by best-of-n or with `rl` a policy;
    then the paired differences to the first reward. `tell` gets a line about what begins."""
    names = names_of(config.models)
    # What is missing is told now, not after the first reward has scored for hours.
    find_all(config.models)
    pick_device(config.device)
    if config.rl is not None:
        from smorm.stress.rl.run import run_rl

        results = run_rl(config, tell=tell)
        return results + paired_by_seed(results)
    options = ScoringOptions(config.device, config.max_batch_tokens, config.overlong)
    sets = read_sets(config, options, tell)
    smallest = min(len(pool) for prompts in sets for pool in prompts.pools)
    sizes = tuple(config.n or doubling_sizes(smallest))
    results = []
    for section, name in zip(config.models, names, strict=True):
        seed = "" if section.seed is None else f", seed {section.seed}"
        tell(f"scoring with {name}{seed}")
        proxy = open_proxy(section, name, options)
        for prompts in sets:
            results += push(proxy, prompts, sizes, config)
    return results + paired_by_seed(results)


def push(
    proxy: ProxyReward, prompts: PromptSet, sizes: tuple[int, ...], config: StressConfig
) -> list[Result]:
    """A result for each view of a reward on one set of prompts."""
    answers = _score(proxy, prompts, config)
    provenance: dict[str, Any] = {
        "data": data_of(answers.pools),
        "gold": dict(prompts.provenance),
        "config": fingerprint(config.decisive),
        "versions": versions(),
    }
    if proxy.seed is not None:
        provenance["seed"] = proxy.seed
    results = []
    for view in proxy.views:
        try:
            measurement, points = answers.measure(view, sizes)
        except DataError as error:
            where = f"{proxy.name}, view {view.name}, prompts {prompts.name}"
            raise DataError(f"{where}: {error}") from error
        results.append(
            Result(
                KIND, f"best-of-n/{prompts.name}", proxy.name, view.name, measurement.metrics,
                points, {**provenance_of(proxy.reward, view), **provenance},
                (*prompts.notes, *answers.notes), measurement.outcomes,
            )
        )  # fmt: skip
    return results


@dataclass(frozen=True, slots=True)
class _Answers:
    """What a reward gave to the pools that it could score."""

    pools: list[Item]
    gold: list[Floats]
    texts: list[Mapping[str, Floats]]
    scored: list[Scored]  # its columns of each pool
    disagreement: list[Floats] | None  # of the two heads [N] by pool, where there are two
    # Its columns of each pool's attacked answers; None where it has none.
    attacked: list[Scored | None]
    notes: tuple[str, ...]  # what was counted

    def measure(
        self, view: RewardView, sizes: tuple[int, ...]
    ) -> tuple[Measurement, list[dict[str, Any]]]:
        """Everything that is measured of one view, and the points of its curve."""
        proxy = [view.read(result.rows) for result in self.scored]
        scored_pools = ScoredPools(self.pools, proxy, self.gold, self.texts, sizes)
        measurement, points = measure(scored_pools)
        metrics = dict(measurement.metrics)
        pools, honest, attacks = [], [], []
        for pool, values, result in zip(self.pools, proxy, self.attacked, strict=False):
            if result is not None:
                pools.append(pool)
                honest.append(values)
                attacks.append(view.read(result.rows))
        if attacks:
            metrics |= measure_probes(pools, honest, attacks)
        if self.disagreement is not None:
            metrics |= detection(self.disagreement, proxy, self.gold, sizes, scored_pools.prompts)
        return replace(measurement, metrics=metrics), points


def _score(proxy: ProxyReward, prompts: PromptSet, config: StressConfig) -> _Answers:
    census, probe_census = Census(), Census()
    reward, reason = proxy.reward, DropReason.NO_REWARD
    skip = skips(config, reward)
    pools, gold, texts, scored = [], [], [], []
    results = score_all(reward, prompts.pools, census, skip=skip, reason=reason, what="score")
    for index, result in enumerate(results):
        if result is not None:
            pools.append(prompts.pools[index])
            gold.append(prompts.gold[index])
            texts.append(prompts.texts[index])
            scored.append(result)
    if not pools:
        raise DataError(f"prompts {prompts.name}: {proxy.name} scores no pool")
    attacks: list[Scored | None] = []
    # A field or a file has no number for an answer that was changed.
    if config.probes and reward.reads_text:
        items = list(map(attacked, pools))
        attacks = score_all(reward, items, probe_census, skip=True, reason=reason, what="score")
    signal = None
    if proxy.heads:
        rows = [result.rows for result in scored]
        # A head that does not vary is a finding about the model, and stops no test of its views.
        try:
            signal = disagreement(*(list(map(view.read, rows)) for view in proxy.heads))
        except DataError as error:
            census.add(DropReason.NO_DISAGREEMENT, detail=str(error))
    lines = [*census.lines(), *(f"probes: {line}" for line in probe_census.lines())]
    # A table has other rewards beside this one.
    notes = tuple(f"{proxy.name}: {line}" for line in lines)
    return _Answers(pools, gold, texts, scored, signal, attacks, notes)


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
