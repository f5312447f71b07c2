"""Policy optimisation from its configuration to results: one for each reward, view, seed and set
of prompts."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from smorm.errors import ConfigError, DataError, NonFiniteLossError
from smorm.evaluation.result import Result, read_results, write_results
from smorm.files import fingerprint
from smorm.model.store import versions
from smorm.rewards.protocol import Reward, ScoringOptions
from smorm.stress.config import ProxySection, StressConfig
from smorm.stress.pools import prompt_label
from smorm.stress.proxies import ProxyReward, names_of, open_gold, open_proxy, provenance_of
from smorm.stress.rl.actor import Actor
from smorm.stress.rl.config import ConstraintSection, RLSection
from smorm.stress.rl.measure import measure, spreads
from smorm.stress.rl.ppo import PPO
from smorm.stress.rl.prompts import AskedSet, evaluation_set, training_prompts
from smorm.stress.rl.reward_signal import Multiplier, Normaliser, Proxy, Signal
from smorm.stress.rl.trace import Tracer
from smorm.stress.rl.trl_trainers import train_with_trl
from smorm.stress.sets import Tell, skips

KIND = "rl"
NO_CHANCES = "probability tensor contains"
"""What torch says of chances that are NaN or infinite."""


@dataclass(frozen=True, slots=True)
class RunContext:
    """What all runs of a configuration share."""

    config: StressConfig
    rl: RLSection
    actor: Actor
    gold: Reward
    training: AskedSet
    sets: list[AskedSet]
    tell: Tell


def run_rl(config: StressConfig, *, tell: Tell) -> list[Result]:
    """Optimise the policy against every reward and view, with every seed. Until all runs are done,
    the results of those that are stand in a file beside the output, named `.part`.

    Raises:
        ConfigError, ModelError, DataError, SmormError: what was asked for cannot be had.
        NonFiniteLossError: a policy's chances became NaN or infinite.
    """
    rewards = list(zip(config.models, names_of(config.models), strict=True))
    options = ScoringOptions(config.device, config.max_batch_tokens, config.overlong)
    ground = _ground(config, options, tell)
    # Whatever is wrong with a later reward is found now, not after hours with those before it.
    for section, name in rewards[1:]:
        _opened(ground, section, name, options)
    results: list[Result] = []
    kept = config.output.with_name(f"{config.output.name}.part")
    try:
        for section, name in rewards:
            pusher = _opened(ground, section, name, options)
            for place in range(len(pusher.views)):
                for seed, label in seeds_of(section, ground.rl):
                    results += optimise(ground, pusher, place, seed, label)
                    write_results(kept, results)
    except BaseException:
        if results:
            tell(f"stopped: the results of finished runs are in {kept}")
        raise
    kept.unlink(missing_ok=True)
    return results


def _opened(
    ground: RunContext, section: ProxySection, name: str, options: ScoringOptions
) -> ProxyReward:
    """A reward that can judge new text, and whose thresholds are there."""
    pusher = open_proxy(section, name, options)
    _needs_text(pusher.reward.reads_text, f"models: {name}")
    for view in pusher.views:
        for _, label in seeds_of(section, ground.rl):
            _multiplier(ground.rl.constraint, name, view.name, label)
    return pusher


def _ground(config: StressConfig, options: ScoringOptions, tell: Tell) -> RunContext:
    assert config.rl is not None
    gold = open_gold(config.gold, options)
    _needs_text(gold.reads_text, "gold")
    actor = Actor(config.rl, config.device)
    sets = [evaluation_set(section, actor) for section in config.prompts]
    return RunContext(
        config, config.rl, actor, gold, training_prompts(config.rl, actor), sets, tell
    )


def _needs_text(reads_text: bool, what: str) -> None:
    if not reads_text:
        raise ConfigError(f"{what}: a field of a file cannot judge answers that are newly sampled")


def seeds_of(section: ProxySection, rl: RLSection) -> list[tuple[int, int | str]]:
    """The policy's seeds for a reward, each with the label of its results.

    Without `rl.seeds` there is one, the reward's own (else 0). With them, a reward that has a seed
    too is labelled by both, unless there is only one.
    """
    if rl.seeds is None:
        own = section.seed or 0
        return [(own, own)]
    if section.seed is None:
        return [(seed, seed) for seed in rl.seeds]
    if len(rl.seeds) == 1:
        return [(rl.seeds[0], section.seed)]
    return [(seed, f"{section.seed}.{seed}") for seed in rl.seeds]


def optimise(
    ground: RunContext, pusher: ProxyReward, place: int, seed: int, label: int | str
) -> list[Result]:
    """One run from the starting policy, and its results on every set."""
    rl, view = ground.rl, pusher.views[place].name
    constraint = _multiplier(rl.constraint, pusher.name, view, label)
    held = "" if constraint is None else f", proxy held at {constraint.threshold:.3f}"
    ground.tell(f"{rl.algorithm} against {pusher.name} ({view}), seed {label}{held}")
    started = time.monotonic()
    signal = Signal(Proxy(pusher, place), Normaliser(rl.normalise_rewards), constraint)
    ground.actor.restart()
    tracer = Tracer(
        ground.actor, signal, ground.sets, ground.gold, seed, skips(ground.config), ground.tell
    )
    with _finite(
        f"{rl.policy}: the starting policy's chances", "look at its weights and at rl.temperature"
    ):
        tracer.after(0)
    for one in ground.sets:
        _require_spread(one, tracer)
    what = f"{rl.algorithm} against {pusher.name} ({view}), seed {label}: the policy's chances"
    with _finite(what, f"take a smaller rl.learning_rate than {rl.learning_rate:g}"):
        if rl.algorithm == "ppo":
            PPO(ground.actor, signal, seed).train(ground.training.prompts, tracer.after)
        else:
            train_with_trl(ground.actor, signal, ground.training.prompts, seed, tracer.after)
    ground.tell(f"  done in {time.monotonic() - started:.0f} s")
    marks = {**pusher.provenance(pusher.views[place]), **_marks(ground), "seed": label}
    return [_result(ground, pusher.name, view, one, tracer, marks) for one in ground.sets]


@contextlib.contextmanager
def _finite(what: str, advice: str) -> Iterator[None]:
    """Tell of NaN and infinity, in a gradient or where answers are sampled, in one line."""
    try:
        yield
    except (NonFiniteLossError, RuntimeError) as error:
        if not isinstance(error, NonFiniteLossError) and NO_CHANCES not in str(error):
            raise
        raise NonFiniteLossError(f"{what} became NaN or infinite: {advice}") from error


def _require_spread(one: AskedSet, tracer: Tracer) -> None:
    """Refuse at the start what could not be measured at the end."""
    try:
        spreads(tracer.found[one.name][0])
    except DataError as error:
        raise DataError(f"prompts {one.name}: starting policy: {error}") from error


def _result(
    ground: RunContext, name: str, view: str, one: AskedSet, tracer: Tracer, marks: dict[str, Any]
) -> Result:
    pools = [asked.item([]) for asked in one.prompts]
    measurement, points = measure(
        tracer.found[one.name],
        [prompt_label(pool) for pool in pools],
        [pool.where for pool in pools],
    )
    rl = ground.rl
    count, times = len(pools), len(tracer.found[one.name])
    notes = [
        f"{count} prompt{'s' * (count > 1)} with {rl.evaluation_answers} sampled answers each at "
        f"{times} evaluations; intervals resample prompts.",
        *one.notes,
        *ground.training.notes,
        *tracer.censuses[one.name].lines(),
        *tracer.signal.proxy.census.lines(),
    ]
    held = tracer.signal.constraint
    if held is not None:
        unscaled = ", and advantages not divided by their group's spread"
        notes.append(
            f"Constrained: the raw proxy held at {held.threshold:.3f}"
            f"{unscaled if rl.algorithm == 'grpo' else ''}."
        )
    return Result(
        KIND,
        f"{rl.algorithm}/{one.name}",
        name,
        view,
        measurement.metrics,
        points,
        {**marks, "data": one.data},
        tuple(notes),
        measurement.outcomes,
    )


def _marks(ground: RunContext) -> dict[str, Any]:
    values = ground.config.as_dict()
    decisive = {key: value for key, value in values.items() if key not in ("output", "device")}
    return {
        "gold": {"name": ground.gold.name, **provenance_of(ground.gold, ground.gold.view())},
        "policy": ground.rl.policy,
        "training_prompts": ground.training.data,
        "config": fingerprint(decisive),
        "versions": versions(),
    }


def _multiplier(
    section: ConstraintSection | None, name: str, view: str, label: int | str
) -> Multiplier | None:
    if section is None:
        return None
    if section.threshold is not None:
        return Multiplier(section.threshold, section.rate, section.damping)
    threshold = threshold_from(section, name, view, label)
    return Multiplier(threshold, section.rate, section.damping)


def threshold_from(section: ConstraintSection, name: str, view: str, label: int | str) -> float:
    """The raw proxy at the gold's peak of an earlier run against the same reward: that of the same
    seed if it is there, else the mean over seeds.

    Raises:
        DataError: the file has no such run.
    """
    runs = [
        one for one in read_results(str(section.from_result))
        if one.kind == KIND and (one.model, one.view) == (name, view)
    ]  # fmt: skip
    wanted = section.prompts or next((one.suite.partition("/")[2] for one in runs), "")
    runs = [one for one in runs if one.suite.partition("/")[2] == wanted]
    runs = [one for one in runs if "raw_proxy@peak" in one.metrics]
    if not runs:
        of = f" on prompts {section.prompts}" if section.prompts else ""
        raise DataError(
            f"{section.from_result}: has no policy optimisation against {name} ({view}){of}: run "
            "it without a constraint first"
        )
    same = [one for one in runs if one.fingerprint.get("seed") == label] or runs
    return sum(one.metrics["raw_proxy@peak"].value for one in same) / len(same)
