"""A policy on sets of prompts while it is optimised: gold, proxy, KL and measures of its answers,
and the numbers and points of a run's curve.

Shapes: `P` prompts, `N` answers to one, `E` evaluations."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import compress
from typing import Any

import numpy as np
import torch

from smorm.arrays import Floats
from smorm.data.census import Census, DropReason
from smorm.data.records import Item
from smorm.errors import DataError
from smorm.evaluation.alarm_measures import (
    CLOSING_WORDS,
    Alarms,
    AlarmScores,
    measure_policy_alarms,
    standing_among,
)
from smorm.evaluation.outcomes import Outcomes, single
from smorm.evaluation.result import Measurement
from smorm.rewards.protocol import Reward
from smorm.stress.best_of_n import spread_within
from smorm.stress.curves import along, points_of, shape_of, table_of
from smorm.stress.proxies import ProxyReward
from smorm.stress.rl.actor import Actor, Answers, TokenisedSet, kl_from_start
from smorm.stress.rl.reward_signal import Proxy, RewardSignal
from smorm.stress.symptoms import TEXT_MEASURES, text_measures
from smorm.text.limits import Unscored

QUANTITIES = ("kl", "gold", "proxy", "raw_proxy", *TEXT_MEASURES)
# Of a model with both heads: the share of the starting policy's answers to a prompt that an answer
# beats on the mean attribute, 1/2 at the start.
STANDING = "standing_on_attributes"
# Numbers that a table shows first.
LEADING = (
    "gold@first",
    "gold@peak",
    "gold@last",
    "gain",
    "fall",
    "peak_step",
    "onset_step",
    "kl@peak",
    "kl@last",
    "proxy@last",
    "divergence",
)
Weights = dict[str, dict[str, float]]


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The values of a policy's answers to one set after a step."""

    step: int
    # gold, raw proxy, KL, text measures and, of a model with both heads, the mean attribute by
    # name, [N] for each prompt; NaN throughout where a prompt's answers could not be scored and are
    # to be skipped.
    values: dict[str, list[Floats]]
    multiplier: float  # Lagrange's, 1 without a constraint

    def means(self, name: str) -> Floats:
        """A quantity's mean over each prompt's answers [P]."""
        return np.array(list(map(np.mean, self.values[name])))


@dataclass(slots=True)
class Tracer:
    """Evaluates the actor on every set after a step, and reports it."""

    actor: Actor
    signal: RewardSignal
    sets: Sequence[TokenisedSet]
    gold: Reward
    seed: int
    skip: bool  # whether a prompt whose answers cannot be scored is left out of that step
    report: Callable[[str], None]
    censuses: dict[str, Census] = field(default_factory=dict)
    # By set, in the order of steps [E].
    snapshots: dict[str, list[Snapshot]] = field(default_factory=dict)
    # By set, the proxy's scores of answers of one closing word [W] to each prompt; no policy
    # changes them.
    closing: dict[str, list[Floats | None]] = field(default_factory=dict)
    _started: float = field(default_factory=time.monotonic)

    def after(self, step: int) -> None:
        """Evaluate where it is time: at the start, every so often, and at the end."""
        settings = self.actor.rl
        if step % settings.evaluate_every and step != settings.steps:
            return
        training = self.actor.model.training
        self.actor.model.eval()
        for prompts in self.sets:
            self.snapshots.setdefault(prompts.name, []).append(self._snapshot(prompts, step))
            if prompts.name not in self.closing:
                self.closing[prompts.name] = self._closing(prompts)
        self.actor.model.train(training)
        self.report(self._line(step))

    def _snapshot(self, prompts: TokenisedSet, step: int) -> Snapshot:
        count = self.actor.rl.evaluation_answers
        census = self.censuses.setdefault(prompts.name, Census())
        # The same seed at each step: differences between steps are the policy's, hardly the
        # sampling's. The training's own generator is left as it is.
        with torch.random.fork_rng(devices=self.actor.devices):
            torch.manual_seed(self.seed)
            answers = self.actor.answer([prompt.ids for prompt in prompts.prompts], count)
        items, measures = [], []
        for index, prompt in enumerate(prompts.prompts):
            texts = answers.texts[index * count : (index + 1) * count]
            items.append(prompt.item(texts))
            measures.append(text_measures(texts))
        unfinished = len(answers) - sum(answers.finished)
        if unfinished:
            census.add(DropReason.UNFINISHED_EVALUATION, count=unfinished)
        gold = Proxy(ProxyReward("gold", self.gold, [self.gold.view()]), 0, census)
        proxy, *attributes = self.signal.proxy.with_attributes(items)
        values = {
            "gold": self._scored("gold", items, gold.values(items), census),
            "raw_proxy": self._scored("proxy", items, proxy, census),
            "kl": list(self._kl(answers).reshape(-1, count)),
        }
        if attributes:
            # What has no score was counted with the proxy: both come from one pass.
            values["attributes"] = self._scored("proxy", items, attributes[0], Census())
        for name in measures[0]:
            values[name] = [measure[name] for measure in measures]
        return Snapshot(step, values, self.signal.multiplier)

    def _scored(
        self, what: str, items: Sequence[Item], scores: Sequence[Floats | Unscored], census: Census
    ) -> list[Floats]:
        """Scores, with NaN for an item that has none under `skip`."""
        if self.skip and all(isinstance(score, Unscored) for score in scores):
            raise DataError(f"{items[0].where}: no {what} for any prompt: {scores[0]}")
        values = []
        for item, score in zip(items, scores, strict=True):
            if not isinstance(score, Unscored):
                values.append(score)
                continue
            if not self.skip:
                raise DataError(
                    f"{item.where}: no {what} of a sampled answer: {score}. Skipping bad "
                    "records leaves its prompt out of that step, counted."
                )
            census.add(DropReason.UNSCORED_STEP, item.where, detail=what)
            values.append(np.full(len(item), np.nan))
        return values

    def _closing(self, prompts: TokenisedSet) -> list[Floats | None]:
        """Scores of answers of one closing word; None where they could not be scored."""
        items = [prompt.item(CLOSING_WORDS) for prompt in prompts.prompts]
        # A census of its own: a probe is no answer of the policy.
        scores = replace(self.signal.proxy, census=Census()).values(items)
        return [None if isinstance(values, Unscored) else values for values in scores]

    def _kl(self, answers: Answers) -> Floats:
        """KL divergence from the starting policy, in nats, of each answer."""
        divergences = np.empty(len(answers))
        with torch.no_grad():
            for rows, batch in answers.batches(torch.arange(len(answers)), self.actor.rl.batch):
                now, _ = self.actor.distribution(self.actor.model, batch)
                start, _ = self.actor.distribution(self.actor.start, batch)
                divergences[rows.numpy()] = kl_from_start(now, start, batch.mask).cpu().numpy()
        return divergences

    def _line(self, step: int) -> str:
        steps = self.actor.rl.steps
        of_sets = []
        for name, snapshots in self.snapshots.items():
            means = map(snapshots[-1].means, ("gold", "raw_proxy", "kl"))
            gold, proxy, kl = map(np.nanmean, means)
            of_sets.append(f"{name} gold {gold:.3f}, proxy {proxy:.2f}, KL {kl:.1f}")
        line = f"  step {step}/{steps}: {'; '.join(of_sets)}"
        if 0 < step < steps:
            elapsed = time.monotonic() - self._started
            line += f"; about {elapsed / step * (steps - step):.0f} s left"
        return line


def measure(
    snapshots: Sequence[Snapshot], prompts: Sequence[str], keys: Sequence[str]
) -> tuple[Measurement, list[dict[str, Any]]]:
    """A run's numbers, and its points: of snapshots in the order of their steps [E], the first of
    the starting policy, with a label of each prompt and its place in its file [P]."""
    steps = [snapshot.step for snapshot in snapshots]
    gold_std, proxy_std = initial_stds(snapshots[0])
    columns = _columns(snapshots, proxy_std)
    comparable = _comparable(steps, gold_std)
    of_run = {**comparable, **_slopes(columns, steps)}
    golds = table_of(columns, "gold", steps)
    peak = steps[int(np.nanmean(golds, axis=0).argmax())]
    for name in ("gold", "raw_proxy", "kl"):
        of_run[f"{name}@peak"] = {f"{name}@{peak}": 1.0}
    # Not every reward has them: what is compared with another reward holds only what all have.
    traced = columns | _standings(snapshots)
    weights = {**single(traced), **of_run}
    measured = Outcomes(traced, prompts, weights, keys, frozenset(weights)).metrics()
    metrics = {name: measured[name] for name in of_run}
    metrics |= shape_of(golds, steps, prompts, "_step")
    metrics = {name: metrics[name] for name in (*LEADING, *metrics)}
    known = {}
    for snapshot in snapshots:
        known[snapshot.step] = {"step": snapshot.step, "multiplier": snapshot.multiplier}
    quantities = [name for name in (*QUANTITIES, STANDING) if f"{name}@{steps[0]}" in traced]
    points = points_of(measured, quantities, known)
    # Only numbers that mean the same in every run may be compared: the peak is at another step.
    outcomes = Outcomes(columns, prompts, comparable, keys, frozenset(comparable))
    return Measurement(metrics, outcomes=outcomes), points


def alarms_of(
    tracer: Tracer, prompts: str, in_distribution: str | None, labels: Mapping[str, Sequence[str]]
) -> Alarms:
    """The alarms of a run on a set of prompts; `labels` are those of each set's prompts."""

    def scores(name: str, index: int) -> AlarmScores:
        snapshots = tracer.snapshots[name]
        # Only prompts that have all numbers at the start and at the end.
        usable = np.ones(len(labels[name]), dtype=bool)
        for values in (snapshots[0].values, snapshots[-1].values):
            for quantity in {"raw_proxy", "attributes"} & values.keys():
                usable &= [bool(np.isfinite(of_prompt).all()) for of_prompt in values[quantity]]
        values = snapshots[index].values

        def of(rows: Sequence[Any]) -> list[Any]:
            return list(compress(rows, usable))

        attributes = of(values["attributes"]) if "attributes" in values else None
        proxies, words = of(values["raw_proxy"]), of(values["length"])
        return AlarmScores(of(labels[name]), proxies, words, attributes, of(tracer.closing[name]))

    start = scores(prompts, 0)
    reference = None
    if in_distribution is not None:
        reference = start if in_distribution == prompts else scores(in_distribution, 0)
    return measure_policy_alarms(start, scores(prompts, -1), reference, prompts)


def initial_stds(first: Snapshot) -> tuple[float, float]:
    """Standard deviations of gold and raw proxy within the first policy's answers to a prompt."""
    stds = []
    for what, name in (("gold", "gold"), ("proxy", "raw_proxy")):
        scored = [values for values in first.values[name] if np.isfinite(values).all()]
        stds.append(spread_within(what, scored))
    return stds[0], stds[1]


def _columns(snapshots: Sequence[Snapshot], proxy_std: float) -> dict[str, Floats]:
    """`QUANTITY@step` to the mean of each prompt's answers [P]."""
    # The proxy's gain over the starting policy, in its standard deviations within that policy's
    # answers to a prompt: so rewards of any scale can be compared.
    start = snapshots[0].means("raw_proxy")
    columns: dict[str, Floats] = {}
    for snapshot in snapshots:
        means = {name: snapshot.means(name) for name in snapshot.values}
        means["proxy"] = (means["raw_proxy"] - start) / proxy_std
        for name in QUANTITIES:
            columns[f"{name}@{snapshot.step}"] = means[name]
    return columns


def _standings(snapshots: Sequence[Snapshot]) -> dict[str, Floats]:
    """`STANDING@step` of each prompt [P], where the attributes were measured."""
    columns: dict[str, Floats] = {}
    for snapshot in snapshots:
        if "attributes" in snapshot.values:
            attributes = snapshot.values["attributes"], snapshots[0].values["attributes"]
            columns[f"{STANDING}@{snapshot.step}"] = standing_among(*attributes)
    return columns


def _comparable(steps: Sequence[int], gold_std: float) -> Weights:
    first, last = steps[0], steps[-1]
    weights: Weights = {}
    for name in ("gold", "raw_proxy"):
        weights[f"{name}@first"] = {f"{name}@{first}": 1.0}
        weights[f"{name}@last"] = {f"{name}@{last}": 1.0}
    for name in ("proxy", "kl", *TEXT_MEASURES):
        weights[f"{name}@last"] = {f"{name}@{last}": 1.0}
    weights["gain"] = {f"gold@{last}": 1.0, f"gold@{first}": -1.0}
    weights["divergence"] = {
        f"proxy@{last}": 1.0,
        f"gold@{last}": -1.0 / gold_std,
        f"gold@{first}": 1.0 / gold_std,
    }
    return weights


def _slopes(columns: Mapping[str, Floats], steps: Sequence[int]) -> Weights:
    """Slopes of the text measures per nat of KL by least squares; none where the KL stands still.
    The KL of each step is taken as known."""
    nats = np.nanmean(table_of(columns, "kl", steps), axis=0)
    centred = nats - nats.mean()
    if not centred @ centred > 1e-12:
        return {}
    # The least-squares slope is a weighted sum of the values: Σ (x − x̄) y / Σ (x − x̄)².
    weights = centred / (centred @ centred)
    slopes: Weights = {}
    for name in TEXT_MEASURES:
        slopes[f"slope/{name}"] = along(name, steps, weights)
    return slopes
