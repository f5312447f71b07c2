"""Proximal policy optimisation of the published protocol: a step samples answers, scores them, and
makes a few passes. Two value heads on the policy's own last hidden state, one for the proxy and one
for the KL penalty, let a multiplier weigh the two advantages (Moskovitz et al. 2023).

Shapes: `B` answers, `T` tokens of the longest one, `H` streams of reward. A mask [B, T] is True on
the tokens of an answer, up to and with its end."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain, repeat

import torch
from torch import Tensor, nn

from smorm.errors import NonFiniteLossError
from smorm.stress.rl.actor import Actor, Answers, TokenisedPrompt, sampled_log_probs
from smorm.stress.rl.reward_signal import RewardSignal

# Streams of reward with a value each: the proxy and the KL penalty.
STREAMS = 2


@dataclass(frozen=True, slots=True)
class Experience:
    """The data of a step, as the policy was when it sampled."""

    answers: Answers
    log_probs: Tensor  # of the sampled tokens [B, T]
    values: Tensor  # of both streams [B, T, 2]
    advantage: Tensor  # what is followed [B, T]
    returns: Tensor  # targets of the values [B, T, 2]


class PPO:
    """The trainer; `step` makes one step, and `train` all of them."""

    def __init__(self, actor: Actor, signal: RewardSignal, seed: int) -> None:
        self.actor, self.signal, self.settings = actor, signal, actor.rl
        self.generator = torch.Generator().manual_seed(seed)
        hidden_size = int(actor.model.config.get_text_config().hidden_size)
        self.value = nn.Linear(hidden_size, STREAMS).to(actor.model.device)
        # From zero: random values would be noise in the first steps' advantages.
        nn.init.zeros_(self.value.weight)
        nn.init.zeros_(self.value.bias)
        self.parameters = [*actor.model.parameters(), *self.value.parameters()]
        self.optimizer = torch.optim.AdamW(
            self.parameters, lr=self.settings.learning_rate, weight_decay=0.0
        )

    def train(self, prompts: Sequence[TokenisedPrompt], after: Callable[[int], None]) -> None:
        """All steps; `after` is called with the number of each when it is done."""
        batches = self._prompt_batches(prompts)
        with torch.random.fork_rng(devices=self.actor.devices):
            torch.manual_seed(int(torch.randint(2**31, (), generator=self.generator)))
            for step in range(1, self.settings.steps + 1):
                self.step(next(batches))
                after(step)

    def step(self, prompts: Sequence[TokenisedPrompt]) -> None:
        """Sample answers, score them, and make the passes; NonFiniteLossError where a gradient is
        NaN or infinite."""
        experience = self.experience(prompts)
        rows = len(experience.answers)
        for _ in range(self.settings.all_passes):
            order = torch.randperm(rows, generator=self.generator)
            for minibatch in order.split(self.settings.gradient_step):
                self.optimizer.zero_grad()
                for loss in self.losses(experience, minibatch):
                    loss.backward()
                norm = nn.utils.clip_grad_norm_(self.parameters, self.settings.max_grad_norm)
                # Before the step: a policy with NaN weights could not be reported on any more.
                if not norm.isfinite():
                    raise NonFiniteLossError("PPO's gradient is NaN or infinite")
                self.optimizer.step()

    def experience(self, prompts: Sequence[TokenisedPrompt]) -> Experience:
        """Answers to prompts, with their rewards, values and advantages."""
        count = self.settings.answers_per_prompt
        answers = self.actor.answer([prompt.ids for prompt in prompts], count)
        # Answers to one prompt stand side by side.
        repeated = list(chain.from_iterable(repeat(prompt, count) for prompt in prompts))
        scores = self.signal(repeated, answers.texts)
        score = torch.tensor(scores, dtype=torch.float32, device=answers.mask.device)
        # An answer without a score gets an empty mask: no term below sees its tokens.
        answers = replace(answers, mask=answers.mask & score.isfinite().unsqueeze(-1))
        log_probs, start, values = self._before_update(answers)
        rewards = token_rewards(
            score.nan_to_num(), log_probs - start, answers.mask, self.settings.kl_coefficient
        )
        estimates = advantages(rewards, values, answers.mask, self.settings.gae_lambda)
        advantage = mix_advantages(estimates, self.signal.multiplier, answers.mask)
        return Experience(answers, log_probs, values, advantage, returns=estimates + values)

    def _before_update(self, answers: Answers) -> tuple[Tensor, Tensor, Tensor]:
        """Log-probabilities under the policy and its start [B, T], and values [B, T, 2]."""
        # Computed anew, not taken from `generate`: its numerics (a cache, other shapes) differ from
        # those of the passes, and the first ratio must be 1.
        mask = answers.mask
        log_probs, start = torch.zeros(2, *mask.shape, device=mask.device)
        values = torch.zeros(*mask.shape, STREAMS, device=mask.device)
        with torch.no_grad():
            for rows, batch in answers.batches(torch.arange(len(answers)), self.settings.batch):
                width = batch.mask.shape[1]
                log_probs[rows, :width], values[rows, :width] = self._evaluate(batch)
                of_start, _ = self.actor.distribution(self.actor.start, batch)
                start[rows, :width] = sampled_log_probs(of_start, batch)
        return log_probs, start, values

    def _evaluate(self, answers: Answers) -> tuple[Tensor, Tensor]:
        """Log-probabilities of the sampled tokens [B, T] and values [B, T, 2] as they are now."""
        log_probs, states = self.actor.distribution(self.actor.model, answers, hidden=True)
        values = self.value(states) * answers.mask.unsqueeze(-1)
        return sampled_log_probs(log_probs, answers), values

    def losses(self, experience: Experience, rows: Tensor) -> Iterator[Tensor]:
        """The loss of a minibatch, a mean over its tokens, as terms that add up to it."""
        # Divided by the tokens of the whole minibatch, so that the split into batches does not
        # change the gradient.
        tokens = experience.answers.mask[rows].sum().clamp(min=1)
        clip = self.settings.clip
        for index, batch in experience.answers.batches(rows, self.settings.batch):
            width = batch.mask.shape[1]
            log_probs, values = self._evaluate(batch)
            log_ratio = log_probs - experience.log_probs[index, :width]
            gain = clipped_objective(log_ratio, experience.advantage[index, :width], clip)
            old = experience.values[index, :width]
            returns = experience.returns[index, :width]
            error = clipped_value_loss(values, old, returns, clip).sum(dim=-1)
            loss = self.settings.value_coefficient * error - gain
            yield (loss * batch.mask).sum() / tokens

    def _prompt_batches(
        self, prompts: Sequence[TokenisedPrompt]
    ) -> Iterator[list[TokenisedPrompt]]:
        size = self.settings.prompts_per_step
        while True:
            order = torch.randperm(len(prompts), generator=self.generator).tolist()
            # Those at the end of an order that are too few for a step are passed over.
            for start in range(0, len(order) - size + 1, size):
                yield list(map(prompts.__getitem__, order[start : start + size]))


def token_rewards(score: Tensor, log_ratio: Tensor, mask: Tensor, kl_coefficient: float) -> Tensor:
    """Rewards of each token [B, T, 2]: the answer's score on its last token, and the KL penalty
    −β (log π − log π_0) on each (Ouyang et al. 2022, arXiv 2203.02155, section 3.5), of the policy
    that sampled. `score` is [B], `log_ratio` [B, T]."""
    # An answer without a score has an empty mask; its reward lands at 0 and is masked out again.
    last = (mask.sum(dim=1) - 1).clamp(min=0)
    at_end = torch.zeros_like(log_ratio)
    at_end[torch.arange(len(score), device=score.device), last] = score
    return torch.stack([at_end, -kl_coefficient * log_ratio], dim=-1) * mask.unsqueeze(-1)


def advantages(rewards: Tensor, values: Tensor, mask: Tensor, decay: float) -> Tensor:
    """Generalised advantage estimates of an undiscounted (γ = 1) episode, from the rewards of each
    token and the values estimated before it is chosen, all [B, T, H]: A_t = Σ_k λ^k δ_{t+k}, where
    δ_t = r_t + V_{t+1} − V_t, V = 0 after the last token, and λ is `decay` (Schulman et al. 2016,
    arXiv 1506.02438, equation 16)."""
    inside = mask.unsqueeze(-1).to(values.dtype)
    values = values * inside
    estimates = torch.zeros_like(values)
    next_value = next_estimate = torch.zeros_like(values[:, 0])
    # From the last token back: A_t = δ_t + λ A_{t+1}. Padding behind an answer's end has value
    # and estimate 0, which is what an episode's end needs.
    for t in reversed(range(values.shape[1])):
        delta = rewards[:, t] + next_value - values[:, t]
        next_estimate = (delta + decay * next_estimate) * inside[:, t]
        estimates[:, t] = next_estimate
        next_value = values[:, t]
    return estimates


def mix_advantages(estimates: Tensor, multiplier: float, mask: Tensor) -> Tensor:
    """The advantage that is followed [B, T], from those of proxy and penalty [B, T, 2]: the proxy's
    times the multiplier, plus the penalty's, whitened over the tokens of the batch."""
    proxy, penalty = estimates.unbind(-1)
    # The standard deviation is that of a multiplier of 1: divided by its own, the mixture would be
    # as large as before wherever the penalty is small, and the multiplier would have no effect.
    std = (proxy + penalty)[mask].std(correction=0) + 1e-8
    centred = multiplier * (proxy - proxy[mask].mean()) + penalty - penalty[mask].mean()
    return centred / std * mask


def clipped_objective(log_ratio: Tensor, advantage: Tensor, clip: float) -> Tensor:
    """PPO's pessimistic objective of each token [B, T], to be maximised, with ρ = π / π_old:
    min(ρ A, clamp(ρ, 1 − clip, 1 + clip) A) (Schulman et al. 2017, arXiv 1707.06347, eq. 7)."""
    # The minimum removes the gain of moving ρ beyond the clip, and keeps the loss of having moved
    # the wrong way: a token is pulled back however far it is.
    ratio = log_ratio.exp()
    return torch.minimum(ratio * advantage, ratio.clamp(1 - clip, 1 + clip) * advantage)


def clipped_value_loss(values: Tensor, old: Tensor, returns: Tensor, clip: float) -> Tensor:
    """Half the squared error of values [B, T, H], the larger of plain and clipped around the old
    value (the official PPO code; trl 0.8.5 has the same)."""
    clipped = old + (values - old).clamp(-clip, clip)
    return 0.5 * torch.maximum((values - returns) ** 2, (clipped - returns) ** 2)
