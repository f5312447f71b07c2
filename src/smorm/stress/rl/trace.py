"""A policy on sets of prompts while it is optimised: gold, proxy, KL, and measures of its answers.

Shapes: `P` prompts, `N` answers to one, `E` evaluations."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from smorm.arrays import Floats
from smorm.data.census import Census, DropReason
from smorm.data.records import Item
from smorm.errors import DataError
from smorm.rewards.protocol import Reward
from smorm.stress.proxies import ProxyReward
from smorm.stress.rl.actor import Actor, Answers, kl_from_start
from smorm.stress.rl.prompts import TokenisedSet
from smorm.stress.rl.reward_signal import Proxy, RewardSignal
from smorm.stress.sets import Tell
from smorm.stress.symptoms import text_measures
from smorm.text.limits import Unscored


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The values of a policy's answers to one set after a step."""

    step: int
    # gold, raw proxy, KL and text measures by name, [N] for each prompt; NaN throughout where a
    # prompt's answers could not be scored and are to be skipped.
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
    report: Tell
    censuses: dict[str, Census] = field(default_factory=dict)
    # By set, in the order of steps [E].
    snapshots: dict[str, list[Snapshot]] = field(default_factory=dict)
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
        values = {
            "gold": self._scored("gold", items, gold.values(items), census),
            "raw_proxy": self._scored("proxy", items, self.signal.proxy.values(items), census),
            "kl": list(self._kl(answers).reshape(-1, count)),
        }
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
        """Every set's means, and the remaining time."""
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
