r"""Regularisers of the preference row: what Bradley–Terry leaves free, held near zero.

Bradley–Terry fixes differences only, so a reward may drift as a whole (and, with it, the length of
the row). Centering acts on every pair by itself. The batch-wise sum and the positive term are
functions of a mean over all pairs of an optimizer step: they take the scores of the whole step.

Shapes: P pairs.
"""

from __future__ import annotations

import torch
from torch.nn import functional


def centering(chosen: torch.Tensor, rejected: torch.Tensor, *, total: float) -> torch.Tensor:
    r"""$\frac{1}{N} \sum_p (c_p + r_p)^2$ (Eisenstein et al., 2023, arXiv 2312.09244; TRL's
    `center_rewards_coefficient`).

    Args:
        chosen, rejected: scores of the two sides, [P].
        total: N, the pairs of the whole step (see `bradley_terry`).
    """
    return (chosen + rejected).square().sum() / total


def batch_sum(chosen: torch.Tensor, rejected: torch.Tensor) -> torch.Tensor:
    r"""Batch-wise sum-to-zero regularisation: $\left( \frac{1}{2P} \sum_p c_p + r_p \right)^2$ over
    all pairs of the step (BSR; Hong et al., 2025).

    Args:
        chosen, rejected: scores of the two sides of the whole step's pairs, [P].
    """
    # Squared after the mean: single rewards are free, their average is not.
    return torch.cat([chosen, rejected]).mean().square()


def positive(chosen: torch.Tensor) -> torch.Tensor:
    r"""$-\log \sigma \left( \frac{1}{P} \sum_p c_p \right)$ over all pairs of the step: the mean
    reward of preferred responses is pushed above zero (the baseline of Yang et al., 2024, GRM).

    Args:
        chosen: scores of the preferred responses of the whole step, [P].
    """
    # logsigmoid, not log(sigmoid): finite for large negative means.
    return -functional.logsigmoid(chosen.mean())
