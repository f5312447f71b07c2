"""A stress test from its configuration to results: one for each reward, view and set of prompts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from smorm.data.census import Census, DropReason
from smorm.data.records import Item
from smorm.errors import DataError
from smorm.evaluation.compare import differences
from smorm.evaluation.metrics import Floats
from smorm.evaluation.result import Measurement, Result
from smorm.files import fingerprint
from smorm.model.device import pick_device
from smorm.model.store import versions
from smorm.rewards.protocol import ScoringOptions
from smorm.stress.best_of_n import doubling_sizes
from smorm.stress.config import StressConfig
from smorm.stress.curves import Pushed, measure
from smorm.stress.probes import attacked, measure_probes
from smorm.stress.proxies import ProxyReward, Values, find_all, names_of, open_proxy
from smorm.stress.sets import PromptSet, Tell, data_of, read_sets, skips
from smorm.stress.symptoms import detection, disagreement
from smorm.text.limits import Unscored

KIND = "stress"


def run_stress(config: StressConfig, *, tell: Tell = lambda line: None) -> list[Result]:
    """Push every reward on every set of prompts, or with `rl` optimise a policy against each; then
    the paired differences to the first one.

    Args:
        tell: is called with a line about what begins.

    Raises:
        ConfigError, ModelError, DataError, SmormError: what was asked for cannot be had.
    """
    names = names_of(config.models)
    find_all(config.models)
    pick_device(config.device)
    if config.rl is not None:
        from smorm.stress.rl.run import run_rl

        results = run_rl(config, tell=tell)
        return results + paired_by_seed(results)
    options = ScoringOptions(config.device, config.max_batch_tokens, config.overlong)
    sets = read_sets(config, options, tell)
    sizes = tuple(config.n or doubling_sizes(min(len(p) for one in sets for p in one.pools)))
    results = []
    for section, name in zip(config.models, names, strict=True):
        tell(f"scoring with {name}" + ("" if section.seed is None else f", seed {section.seed}"))
        pusher = open_proxy(section, name, options)
        for one in sets:
            results += push(pusher, one, sizes, config)
    return results + paired_by_seed(results)


def push(
    pusher: ProxyReward, one: PromptSet, sizes: tuple[int, ...], config: StressConfig
) -> list[Result]:
    """A result for each view of a reward on one set of prompts.

    Raises:
        DataError: an answer without a score (under `stop`), or a score that chooses nothing.
    """
    scored = _score(pusher, one, config)
    marks = {
        "data": data_of(scored.pools),
        "gold": dict(one.provenance),
        "config": fingerprint(_decisive(config)),
        "versions": versions(),
        **({} if pusher.seed is None else {"seed": pusher.seed}),
    }
    results = []
    for place, view in enumerate(pusher.views):
        try:
            measurement, points = _measure(scored, place, sizes)
        except DataError as error:
            raise DataError(
                f"{pusher.name}, view {view.name}, prompts {one.name}: {error}"
            ) from error
        own = {**pusher.provenance(view), **marks}
        results.append(
            Result(
                KIND,
                f"best-of-n/{one.name}",
                pusher.name,
                view.name,
                measurement.metrics,
                points,
                own,
                (*one.notes, *scored.notes),
                measurement.outcomes,
            )
        )
    return results


@dataclass(frozen=True, slots=True)
class _Scored:
    """What a reward gave to the pools that it could score.

    Attributes:
        values: scores [N] by view and pool.
        signal: disagreement of the two heads [N] by pool, where there are two.
        probed: places of the pools whose attacked answers could be scored.
        probes: scores of the attacked answers by view and probed pool.
        notes: what was counted.
    """

    pools: list[Item]
    gold: list[Floats]
    texts: list[Mapping[str, Floats]]
    values: list[list[Floats]]
    signal: list[Floats] | None
    probed: list[int]
    probes: list[list[Floats]]
    notes: tuple[str, ...]


def _score(pusher: ProxyReward, one: PromptSet, config: StressConfig) -> _Scored:
    census, of_probes = Census(), Census()
    found = pusher.score(one.pools, census)
    kept = _kept(one.pools, found, census, skip=skips(config, pusher.reward))
    if not kept:
        raise DataError(f"prompts {one.name}: {pusher.name} scores no pool")
    pools = [one.pools[at] for at in kept]
    gold, texts = [one.gold[at] for at in kept], [one.texts[at] for at in kept]
    values = [_at(column, kept) for column in found]
    count = len(pusher.views)
    probed: list[int] = []
    probes: list[list[Floats]] = []
    if config.probes and pusher.reward.reads_text:
        attacks = pusher.score([attacked(pool) for pool in pools], of_probes)
        probed = _kept(pools, attacks, of_probes, skip=True)
        probes = [_at(column, probed) for column in attacks[:count]]
    signal = _signal(values[count:], census)
    told = (*census.lines(), *(f"probes: {line}" for line in of_probes.lines()))
    notes = tuple(f"{pusher.name}: {line}" for line in told)  # a table has other rewards beside it
    return _Scored(pools, gold, texts, values[:count], signal, probed, probes, notes)


def _measure(
    scored: _Scored, place: int, sizes: tuple[int, ...]
) -> tuple[Measurement, list[dict[str, Any]]]:
    """Everything that is measured of one view, and the points of its curve."""
    proxy = scored.values[place]
    pushed = Pushed(scored.pools, proxy, scored.gold, scored.texts, sizes)
    measurement, points = measure(pushed)
    metrics = dict(measurement.metrics)
    if scored.probed:
        pools = [scored.pools[at] for at in scored.probed]
        honest = [proxy[at] for at in scored.probed]
        metrics |= measure_probes(pools, honest, scored.probes[place])
    if scored.signal is not None:
        metrics |= detection(scored.signal, proxy, scored.gold, sizes, pushed.prompts)
    return replace(measurement, metrics=metrics), points


def _kept(pools: Sequence[Item], values: Values, census: Census, *, skip: bool) -> list[int]:
    """Places of the pools that have scores."""
    kept = []
    for at, pool in enumerate(pools):
        reason = next((column[at] for column in values if isinstance(column[at], Unscored)), None)
        if reason is None:
            kept.append(at)
        elif skip:
            census.add(DropReason.NO_REWARD, pool.where, detail="score")
        else:
            raise DataError(f"{pool.where}: {reason}. Skipping bad records leaves it out, counted.")
    return kept


def _at(column: Sequence[Floats | Unscored], kept: Sequence[int]) -> list[Floats]:
    return [one for one in (column[at] for at in kept) if not isinstance(one, Unscored)]


def _signal(heads: Sequence[Sequence[Floats]], census: Census) -> list[Floats] | None:
    """The disagreement of the two heads, where there are two."""
    if len(heads) < 2:
        return None
    try:
        return disagreement(heads[0], heads[1])
    except DataError as error:
        census.add(DropReason.NO_DISAGREEMENT, detail=str(error))
        return None


def paired_by_seed(results: Sequence[Result]) -> list[Result]:
    """Paired differences to the first reward, prompt by prompt, of each seed apart: the interval
    over seeds is then that of paired runs."""
    found: list[Result] = []
    for seed in dict.fromkeys(result.fingerprint.get("seed") for result in results):
        part = [result for result in results if result.fingerprint.get("seed") == seed]
        for one in differences(part):
            marks = one.fingerprint if seed is None else {**one.fingerprint, "seed": seed}
            found.append(replace(one, fingerprint=marks))
    return found


def _decisive(config: StressConfig) -> dict[str, Any]:
    """What of a configuration decides the numbers."""
    values = config.as_dict()
    return {key: value for key, value in values.items() if key not in ("output", "device")}
