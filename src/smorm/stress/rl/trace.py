"""A policy on sets of prompts while it is optimised: gold, proxy, KL, and what its answers look
like.

Shapes: `P` prompts, `N` answers to one, `E` evaluations.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from smorm.data.census import Census, DropReason
from smorm.data.records import Item
from smorm.errors import DataError
from smorm.evaluation.metrics import Floats
from smorm.rewards.protocol import Reward
from smorm.stress.proxies import ProxyReward
from smorm.stress.rl.actor import Actor, Answers, kl_to
from smorm.stress.rl.prompts import AskedSet
from smorm.stress.rl.reward_signal import Proxy, Signal
from smorm.stress.sets import Tell
from smorm.stress.symptoms import text_measures
from smorm.text.limits import Unscored

QUANTITIES = ("gold", "raw_proxy", "kl")


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What a policy's answers to one set were worth after a step.

    Attributes:
        values: gold, raw proxy, KL and text measures by name, [N] for each prompt; NaN throughout
            where a prompt's answers could not be scored and are to be skipped.
        multiplier: Lagrange's, 1 without a constraint.
    """

    step: int
    values: dict[str, list[Floats]]
    multiplier: float

    def means(self, name: str) -> Floats:
        """A quantity's mean over each prompt's answers [P]."""
        return np.array([one.mean() for one in self.values[name]])


@dataclass(slots=True)
class Tracer:
    """Evaluates the actor on every set after a step, and tells how it goes.

    Answers are drawn with the same seed each time, so that steps differ by the policy and by little
    chance besides; the training's own chance is left alone.
    """

    actor: Actor
    signal: Signal
    sets: Sequence[AskedSet]
    gold: Reward
    seed: int
    skip: bool
    tell: Tell
    censuses: dict[str, Census] = field(default_factory=dict)
    found: dict[str, list[Snapshot]] = field(default_factory=dict)
    _started: float = field(default_factory=time.monotonic)

    def after(self, step: int) -> None:
        """Evaluate where it is time: at the start, every so often, and at the end."""
        settings = self.actor.rl
        if step % settings.evaluate_every and step != settings.steps:
            return
        training = self.actor.model.training
        self.actor.model.eval()
        for one in self.sets:
            self.found.setdefault(one.name, []).append(self._snapshot(one, step))
        self.actor.model.train(training)
        self.tell(self._line(step))

    def _snapshot(self, one: AskedSet, step: int) -> Snapshot:
        count = self.actor.rl.evaluation_answers
        census = self.censuses.setdefault(one.name, Census())
        with torch.random.fork_rng(devices=self.actor.devices):
            torch.manual_seed(self.seed)
            answers = self.actor.answer([asked.ids for asked in one.prompts], count)
        texts = [answers.texts[at : at + count] for at in range(0, len(answers), count)]
        pools = [asked.item(own) for asked, own in zip(one.prompts, texts, strict=True)]
        cut = len(answers) - sum(answers.finished)
        if cut:
            census.add(DropReason.UNFINISHED_EVALUATION, count=cut)
        gold = Proxy(ProxyReward("gold", self.gold, [self.gold.view()]), 0, census)
        values = {
            "gold": self._scored("gold", pools, gold.values(pools), census),
            "raw_proxy": self._scored("proxy", pools, self.signal.proxy.values(pools), census),
            "kl": list(self._kl(answers).reshape(-1, count)),
        }
        measures = [text_measures(own) for own in texts]
        values |= {name: [of[name] for of in measures] for name in measures[0]}
        return Snapshot(step, values, self.signal.multiplier)

    def _scored(
        self, what: str, pools: Sequence[Item], scores: Sequence[Floats | Unscored], census: Census
    ) -> list[Floats]:
        """Scores, with NaN for a pool that has none under `skip`.

        Raises:
            DataError: a pool has none, or under `skip` none has any.
        """
        if self.skip and all(isinstance(one, Unscored) for one in scores):
            raise DataError(f"{pools[0].where}: no {what} for any prompt: {scores[0]}")
        found = []
        for pool, one in zip(pools, scores, strict=True):
            if isinstance(one, Unscored):
                if not self.skip:
                    raise DataError(
                        f"{pool.where}: no {what} of a sampled answer: {one}. Skipping bad "
                        "records leaves its prompt out of that step, counted."
                    )
                census.add(DropReason.UNSCORED_STEP, pool.where, detail=what)
            found.append(np.full(len(pool), np.nan) if isinstance(one, Unscored) else one)
        return found

    def _kl(self, answers: Answers) -> Floats:
        """KL divergence from the starting policy, in nats, of each answer."""
        found = np.empty(len(answers))
        with torch.no_grad():
            for rows, part in answers.parts(torch.arange(len(answers)), self.actor.rl.batch):
                now, _ = self.actor.distribution(self.actor.model, part)
                start, _ = self.actor.distribution(self.actor.start, part)
                found[rows.numpy()] = kl_to(now, start, part.mask).cpu().numpy()
        return found

    def _line(self, step: int) -> str:
        """Where every set stands, and how long it will take."""
        steps = self.actor.rl.steps
        told = []
        for name, snapshots in self.found.items():
            last = snapshots[-1]
            gold, proxy, nats = (float(np.nanmean(last.means(what))) for what in QUANTITIES)
            told.append(f"{name} gold {gold:.3f}, proxy {proxy:.2f}, KL {nats:.1f}")
        spent = time.monotonic() - self._started
        left = f"; about {spent / step * (steps - step):.0f} s left" if 0 < step < steps else ""
        return f"  step {step}/{steps}: {'; '.join(told)}{left}"
