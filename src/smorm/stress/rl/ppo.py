"""Proximal policy optimisation: a step samples, scores, and makes a few passes.

TRL has no PPO any more (see docs/rl.md); this is the algorithm of the published protocol.
Two value heads on the policy's own last hidden state, one for the proxy and one for the KL penalty,
so that a multiplier can weigh the two advantages (Moskovitz et al. 2023).

Shapes: `B` answers, `T` tokens of the longest one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from smorm.errors import NonFiniteLossError
from smorm.stress.rl.actor import Actor, Answers, chosen
from smorm.stress.rl.objective import (
    advantages,
    clipped_objective,
    clipped_value_loss,
    mixed,
    token_rewards,
)
from smorm.stress.rl.prompts import Asked
from smorm.stress.rl.reward_signal import Signal

STREAMS = 2
"""Streams of reward with a value each: the proxy and the KL penalty."""


@dataclass(frozen=True, slots=True)
class Experience:
    """What a step learns from, as the policy was when it sampled.

    Attributes:
        log_probs: of the sampled tokens [B, T].
        values: of both streams [B, T, 2].
        advantage: what is followed [B, T].
        returns: what the values are to learn [B, T, 2].
    """

    answers: Answers
    log_probs: Tensor
    values: Tensor
    advantage: Tensor
    returns: Tensor


class PPO:
    """The trainer; `step` makes one step, and `train` all of them."""

    def __init__(self, actor: Actor, signal: Signal, seed: int) -> None:
        self.actor, self.signal, self.settings = actor, signal, actor.rl
        self.generator = torch.Generator().manual_seed(seed)
        self.value = nn.Linear(_hidden_size(actor), STREAMS).to(actor.model.device)
        nn.init.zeros_(self.value.weight)
        nn.init.zeros_(self.value.bias)
        self.parameters = [*actor.model.parameters(), *self.value.parameters()]
        self.optimiser = torch.optim.AdamW(
            self.parameters, lr=self.settings.learning_rate, weight_decay=0.0
        )

    def train(self, prompts: Sequence[Asked], after: Callable[[int], None]) -> None:
        """All steps; `after` is called with the number of each when it is done."""
        batches = self._batches(prompts)
        with torch.random.fork_rng(devices=self.actor.devices):
            torch.manual_seed(int(torch.randint(2**31, (), generator=self.generator)))
            for step in range(1, self.settings.steps + 1):
                self.step(next(batches))
                after(step)

    def step(self, prompts: Sequence[Asked]) -> None:
        """Sample answers, score them, and make the passes.

        Raises:
            NonFiniteLossError: the gradient is NaN or infinite.
        """
        experience = self.experience(prompts)
        rows = len(experience.answers)
        for _ in range(self.settings.all_passes):
            order = torch.randperm(rows, generator=self.generator)
            for minibatch in order.split(self.settings.gradient_step):
                self._descend(experience, minibatch)

    def experience(self, prompts: Sequence[Asked]) -> Experience:
        """Answers to prompts with all that is learnt from them."""
        count = self.settings.answers_per_prompt
        answers = self.actor.answer([one.ids for one in prompts], count)
        scores = self.signal([one for one in prompts for _ in range(count)], answers.texts)
        score = torch.tensor(scores, dtype=torch.float32, device=answers.mask.device)
        answers = _only(answers, score.isfinite())
        log_probs, start, values = self._as_sampled(answers)
        rewards = token_rewards(
            score.nan_to_num(), log_probs - start, answers.mask, self.settings.kl_coefficient
        )
        found = advantages(rewards, values, answers.mask, self.settings.gae_lambda)
        advantage = mixed(found, self.signal.multiplier, answers.mask)
        return Experience(answers, log_probs, values, advantage, found + values)

    def _as_sampled(self, answers: Answers) -> tuple[Tensor, Tensor, Tensor]:
        """Log-probabilities under the policy and its start [B, T], and values [B, T, 2]."""
        mask = answers.mask
        log_probs, start = torch.zeros(2, *mask.shape, device=mask.device)
        values = torch.zeros(*mask.shape, STREAMS, device=mask.device)
        with torch.no_grad():
            for rows, part in answers.parts(torch.arange(len(answers)), self.settings.batch):
                width = part.mask.shape[1]
                log_probs[rows, :width], values[rows, :width] = self._evaluated(part)
                first, _ = self.actor.distribution(self.actor.start, part)
                start[rows, :width] = chosen(first, part)
        return log_probs, start, values

    def _evaluated(self, part: Answers) -> tuple[Tensor, Tensor]:
        found, states = self.actor.distribution(self.actor.model, part, hidden=True)
        return chosen(found, part), self.value(states) * part.mask.unsqueeze(-1)

    def losses(self, experience: Experience, rows: Tensor) -> Iterator[Tensor]:
        """The loss of a minibatch, a mean over its tokens, in parts that add up to it."""
        tokens = experience.answers.mask[rows].sum().clamp(min=1)
        for at, part in experience.answers.parts(rows, self.settings.batch):
            width = part.mask.shape[1]
            log_probs, values = self._evaluated(part)
            gain = clipped_objective(
                log_probs - experience.log_probs[at, :width],
                experience.advantage[at, :width],
                self.settings.clip,
            )
            error = clipped_value_loss(
                values,
                experience.values[at, :width],
                experience.returns[at, :width],
                self.settings.clip,
            ).sum(dim=-1)
            loss = self.settings.value_coefficient * error - gain
            yield (loss * part.mask).sum() / tokens

    def _descend(self, experience: Experience, rows: Tensor) -> None:
        self.optimiser.zero_grad()
        for loss in self.losses(experience, rows):
            loss.backward()
        norm = nn.utils.clip_grad_norm_(self.parameters, self.settings.max_grad_norm)
        if not norm.isfinite():
            raise NonFiniteLossError("PPO's gradient is NaN or infinite")
        self.optimiser.step()

    def _batches(self, prompts: Sequence[Asked]) -> Iterator[list[Asked]]:
        """Prompts of each step: the file's in random order, then in another; those at the end of
        an order that are too few for a step are passed over."""
        size = self.settings.prompts_per_step
        while True:
            order = torch.randperm(len(prompts), generator=self.generator).tolist()
            for at in range(0, len(order) - size + 1, size):
                yield [prompts[place] for place in order[at : at + size]]


def _only(answers: Answers, kept: Tensor) -> Answers:
    """The answers with an empty mask where there is no score: nothing is learnt from them."""
    mask = answers.mask & kept.unsqueeze(-1)
    return Answers(answers.ids, answers.seen, mask, answers.texts, answers.finished)


def _hidden_size(actor: Actor) -> int:
    return int(actor.model.config.get_text_config().hidden_size)
