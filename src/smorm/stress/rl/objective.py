"""The formulas of PPO, as functions of tensors.

Shapes: `B` answers, `T` tokens of the longest one, `H` streams of reward. A mask [B, T] is True on
the tokens of an answer, up to and with its end."""

import torch
from torch import Tensor


def token_rewards(score: Tensor, log_ratio: Tensor, mask: Tensor, kl_coefficient: float) -> Tensor:
    """Rewards of each token [B, T, 2]: the answer's score on its last token, and the KL penalty
    −β (log π − log π_0) on each (Ouyang et al. 2022, arXiv 2203.02155, section 3.5).

    Args:
        score: of each answer [B].
        log_ratio: log π(token) − log π_0(token) under the policy that sampled [B, T]."""
    # An answer without a score has an empty mask; its reward lands at 0 and is masked out again.
    last = (mask.sum(dim=1) - 1).clamp(min=0)
    at_end = torch.zeros_like(log_ratio)
    at_end[torch.arange(len(score), device=score.device), last] = score
    return torch.stack([at_end, -kl_coefficient * log_ratio], dim=-1) * mask.unsqueeze(-1)


def advantages(rewards: Tensor, values: Tensor, mask: Tensor, decay: float) -> Tensor:
    """Generalised advantage estimates [B, T, H] of an undiscounted (γ = 1) episode.

    A_t = Σ_k decay^k δ_{t+k} with δ_t = r_t + V_{t+1} − V_t, and V = 0 after the last token
    (Schulman et al. 2016, arXiv 1506.02438, equation 16).

    Args:
        rewards: of each token [B, T, H].
        values: estimated before each token is chosen [B, T, H].
        mask: the tokens of the answers [B, T].
        decay: λ."""
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
    """The advantage that is followed [B, T]: the proxy's times the multiplier, plus the KL
    penalty's, whitened over the tokens of the batch.

    Args:
        estimates: advantages of proxy and penalty [B, T, 2]."""
    proxy, penalty = estimates.unbind(-1)
    # The standard deviation is that of a multiplier of 1: divided by its own, the mixture would be
    # as large as before wherever the penalty is small, and the multiplier would have no effect.
    std = (proxy + penalty)[mask].std(correction=0) + 1e-8
    centred = multiplier * (proxy - proxy[mask].mean()) + penalty - penalty[mask].mean()
    return centred / std * mask


def clipped_objective(log_ratio: Tensor, advantage: Tensor, clip: float) -> Tensor:
    """PPO's pessimistic objective of each token [B, T], to be maximised:
    min(ρ A, clamp(ρ, 1 − clip, 1 + clip) A) (Schulman et al. 2017, arXiv 1707.06347, equation 7).

    Args:
        log_ratio: log ρ = log π(token) − log π_old(token) [B, T].
        advantage: A [B, T]."""
    # The minimum removes the gain of moving ρ beyond the clip, and keeps the loss of having moved
    # the wrong way: a token is pulled back however far it is.
    ratio = log_ratio.exp()
    return torch.minimum(ratio * advantage, ratio.clamp(1 - clip, 1 + clip) * advantage)


def clipped_value_loss(values: Tensor, old: Tensor, returns: Tensor, clip: float) -> Tensor:
    """Half the squared error of values [B, T, H], the larger of plain and clipped around the old
    value (the official PPO code; trl 0.8.5 has the same)."""
    clipped = old + (values - old).clamp(-clip, clip)
    return 0.5 * torch.maximum((values - returns) ** 2, (clipped - returns) ** 2)
