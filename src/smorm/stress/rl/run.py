"""Policy optimisation: results for each reward, view, seed and set of prompts."""

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain
from typing import Any

from smorm.errors import ConfigError, DataError, Interrupted, NonFiniteLossError
from smorm.evaluation.result import Result, read_results, write_results
from smorm.files import fingerprint
from smorm.locks import only_writer
from smorm.model.store import versions
from smorm.rewards.protocol import Reward, ScoringOptions
from smorm.stopping import handled
from smorm.stress.config import ConstraintSection, ProxySection, RLSection, StressConfig
from smorm.stress.pools import prompt_label
from smorm.stress.proxies import ProxyReward, names_of, open_gold, open_proxy, provenance_of
from smorm.stress.rl.actor import Actor, TokenisedSet, tokenised_set, training_prompts
from smorm.stress.rl.ppo import PPO
from smorm.stress.rl.reward_signal import Multiplier, Normaliser, Proxy, RewardSignal
from smorm.stress.rl.trace import Tracer, alarms_of, initial_stds, measure
from smorm.stress.rl.trl_trainers import train_with_trl

KIND = "rl"
# torch's message where probabilities to sample from are NaN or infinite.
_BAD_PROBABILITIES = "probability tensor contains"


@dataclass(frozen=True, slots=True)
class RunContext:
    """What all runs of a configuration share."""

    config: StressConfig
    rl: RLSection
    options: ScoringOptions
    actor: Actor
    gold: Reward
    training: TokenisedSet
    sets: list[TokenisedSet]
    report: Callable[[str], None]

    @property
    def provenance(self) -> dict[str, Any]:
        """For the fingerprint of every result."""
        return {
            "gold": {"name": self.gold.name, **provenance_of(self.gold, self.gold.view())},
            "policy": self.rl.policy,
            "training_prompts": self.training.data,
            "config": fingerprint(self.config.decisive),
            "versions": versions(),
        }


def run_rl(config: StressConfig, *, tell: Callable[[str], None]) -> list[Result]:
    """Optimise the policy against every reward and view, with every seed. Until all runs are done,
    the results of finished runs stand in a file beside the output, named `.part`. SmormError where
    a reward, policy or file cannot be used, or the policy's probabilities became NaN."""
    with handled(), only_writer(config.output):
        return _run_all(config, tell)


def _run_all(config: StressConfig, tell: Callable[[str], None]) -> list[Result]:
    rewards = list(zip(config.models, names_of(config.models), strict=True))
    context = _context(config, tell)
    # Whatever is wrong with a later reward is found now, not after hours with those before it.
    for section, name in rewards[1:]:
        _open(context, section, name)
    # Runs take hours: what is finished is on the disk before the next one begins.
    results: list[Result] = []
    unfinished = config.output.with_name(f"{config.output.name}.part")
    finished = f"the results of finished runs are in {unfinished}"
    try:
        for section, name in rewards:
            reward = _open(context, section, name)
            for view_index in range(len(reward.views)):
                for seed, label in seeds_of(section, context.rl):
                    results += optimise(context, reward, view_index, seed, label)
                    write_results(unfinished, results)
    except KeyboardInterrupt:
        raise Interrupted(f"stopped: {finished if results else 'no run was finished'}") from None
    except BaseException:
        if results:
            tell(f"stopped: {finished}")
        raise
    unfinished.unlink(missing_ok=True)
    return results


def _context(config: StressConfig, tell: Callable[[str], None]) -> RunContext:
    assert config.rl is not None
    options = config.scoring_options
    gold = open_gold(config.gold, options)
    _require_text(gold, "gold")
    actor = Actor(config.rl, config.device)
    sets = [tokenised_set(section.name, section.source, actor) for section in config.prompts]
    training = training_prompts(config.rl, actor)
    return RunContext(config, config.rl, options, actor, gold, training, sets, tell)


def _open(context: RunContext, section: ProxySection, name: str) -> ProxyReward:
    reward = open_proxy(section, name, context.options)
    _require_text(reward.reward, f"models: {name}")
    for view in reward.views:
        for _, label in seeds_of(section, context.rl):
            _multiplier(context.rl.constraint, name, view.name, label)
    return reward


def _require_text(reward: Reward, what: str) -> None:
    if not reward.reads_text:
        raise ConfigError(f"{what}: a field of a file cannot judge answers that are newly sampled")


def seeds_of(section: ProxySection, rl: RLSection) -> list[tuple[int, int | str]]:
    """The policy's seeds for a reward, each with the label of its results. Without `rl.seeds` there
    is one, the reward's own (else 0). With them, a reward that has a seed too is labelled by both,
    unless there is only one."""
    seeds = rl.seeds or [section.seed or 0]
    if section.seed is None:
        return list(zip(seeds, seeds, strict=True))
    if len(seeds) == 1:
        return [(seeds[0], section.seed)]
    return [(seed, f"{section.seed}.{seed}") for seed in seeds]


def optimise(
    context: RunContext, reward: ProxyReward, view_index: int, seed: int, label: int | str
) -> list[Result]:
    """One run from the starting policy, and its results on every set."""
    rl, view = context.rl, reward.views[view_index]
    constraint = _multiplier(rl.constraint, reward.name, view.name, label)
    title = f"{rl.algorithm} against {reward.name} ({view.name}), seed {label}"
    held = "" if constraint is None else f", proxy held at {constraint.threshold:.3f}"
    context.report(title + held)
    started = time.monotonic()
    signal = RewardSignal(Proxy(reward, view_index), Normaliser(rl.normalise_rewards), constraint)
    # One actor for all runs: a policy that is loaded once, put back to its start for each.
    context.actor.restart()
    skip = context.config.skips_answers
    tracer = Tracer(context.actor, signal, context.sets, context.gold, seed, skip, context.report)
    start = f"{rl.policy}: the starting policy's probabilities"
    with _named_non_finite(start, "look at its weights and at rl.temperature"):
        tracer.after(0)
    for prompts in context.sets:
        # What could not be measured at the end is refused at the start.
        try:
            initial_stds(tracer.snapshots[prompts.name][0])
        except DataError as error:
            raise DataError(f"prompts {prompts.name}: starting policy: {error}") from error
    advice = f"take a smaller rl.learning_rate than {rl.learning_rate:g}"
    with _named_non_finite(f"{title}: the policy's probabilities", advice):
        if rl.algorithm == "ppo":
            PPO(context.actor, signal, seed).train(context.training.prompts, tracer.after)
        else:
            train_with_trl(context.actor, signal, context.training.prompts, seed, tracer.after)
    context.report(f"  done in {time.monotonic() - started:.0f} s")
    provenance = {**provenance_of(reward.reward, view), **context.provenance, "seed": label}
    results = []
    for prompts in context.sets:
        head = (f"{rl.algorithm}/{prompts.name}", reward.name, view.name)
        results.append(_result(context, head, prompts, tracer, provenance))
    return results


@contextlib.contextmanager
def _named_non_finite(what: str, advice: str) -> Iterator[None]:
    """One line for NaN and infinity, in a gradient or where answers are sampled."""
    try:
        yield
    except (NonFiniteLossError, RuntimeError) as error:
        if not isinstance(error, NonFiniteLossError) and _BAD_PROBABILITIES not in str(error):
            raise
        raise NonFiniteLossError(f"{what} became NaN or infinite: {advice}") from error


def _result(
    context: RunContext,
    head: tuple[str, str, str],
    prompts: TokenisedSet,
    tracer: Tracer,
    provenance: dict[str, Any],
) -> Result:
    rl, snapshots = context.rl, tracer.snapshots[prompts.name]
    labels_of: dict[str, list[str]] = {}
    for each in context.sets:
        labels_of[each.name] = [prompt_label(prompt.item([])) for prompt in each.prompts]
    labels, keys = labels_of[prompts.name], [prompt.where for prompt in prompts.prompts]
    measurement, points = measure(snapshots, labels, keys)
    notes = [
        f"{len(labels)} prompt{'s' * (len(labels) > 1)} with {rl.evaluation_answers} sampled "
        f"answers each at {len(snapshots)} evaluations; intervals resample prompts.",
        *prompts.notes,
        *context.training.notes,
        *tracer.censuses[prompts.name].lines(),
        *tracer.signal.proxy.census.lines(),
    ]
    constraint = tracer.signal.constraint
    if constraint is not None:
        note = f"Constrained: the raw proxy held at {constraint.threshold:.3f}"
        if rl.algorithm == "grpo":
            note += ", and advantages not divided by their group's standard deviation"
        notes.append(f"{note}.")
    alarms = alarms_of(tracer, prompts.name, context.config.in_distribution, labels_of)
    if alarms.note:
        notes.append(alarms.note)
    provenance = {**provenance, "data": prompts.data}
    metrics, outcomes = measurement.metrics, measurement.outcomes
    return Result(
        KIND, *head, metrics, points, provenance, tuple(notes), outcomes, alarms=alarms.measured
    )


def _multiplier(
    section: ConstraintSection | None, name: str, view: str, label: int | str
) -> Multiplier | None:
    if section is None:
        return None
    threshold = section.threshold
    if threshold is None:
        threshold = _threshold_from(section, name, view, label)
    return Multiplier(threshold, section.rate, section.damping)


def _threshold_from(section: ConstraintSection, name: str, view: str, label: int | str) -> float:
    """The raw proxy at the gold's peak of an earlier run against the same reward: that of the same
    seed if it is there, else the mean over seeds."""
    prompts = section.prompts
    of_seed: dict[Any, list[float]] = {}
    for result in read_results(str(section.from_result)):
        if (result.kind, result.model, result.view) != (KIND, name, view):
            continue
        _, _, of_prompts = result.suite.partition("/")
        prompts = prompts or of_prompts  # by default the file's first set
        if of_prompts == prompts and "raw_proxy@peak" in result.metrics:
            peak = result.metrics["raw_proxy@peak"].value
            of_seed.setdefault(result.fingerprint.get("seed"), []).append(peak)
    if not of_seed:
        where = f" on prompts {section.prompts}" if section.prompts else ""
        raise DataError(
            f"{section.from_result}: has no policy optimisation against {name} ({view}){where}: "
            "run it without a constraint first"
        )
    peaks = of_seed.get(label) or list(chain.from_iterable(of_seed.values()))
    return sum(peaks) / len(peaks)
