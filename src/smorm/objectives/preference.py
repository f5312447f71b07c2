r"""The terms of the preference row: Bradley–Terry, and regularisers of what it leaves free.

Bradley–Terry fixes differences only, so rewards may drift together. `centering` acts on every pair
by itself; `batch_sum` and `positive` take the scores of the whole optimizer step. P pairs."""

import torch
from torch.nn import functional

from smorm.objectives.terms import Labels, Metrics, Totals


def bradley_terry(
    chosen: torch.Tensor,
    rejected: torch.Tensor,
    *,
    total: float,
    margin: torch.Tensor | None = None,
    label_smoothing: float = 0.0,
) -> tuple[torch.Tensor, Metrics]:
    r"""Negative log likelihood of the preferences (Bradley and Terry, 1952), and metrics.

    $$\frac{1}{N} \sum_p -(1 - \epsilon) \log \sigma(d_p) - \epsilon \log \sigma(-d_p),
    \qquad d_p = c_p - r_p - m_p$$

    `total` is N, the pairs of the whole step: what its micro-batches give then adds up to the exact
    mean. `margin` m [P] is how much better the preferred one should be (Llama 2, section 3.2.2),
    `label_smoothing` epsilon the share of labels taken to be wrong. Scores are [P]."""
    if chosen.ndim != 1 or chosen.shape != rejected.shape:
        raise ValueError(f"scores of shapes {tuple(chosen.shape)} and {tuple(rejected.shape)}")
    if margin is not None and margin.shape != chosen.shape:
        raise ValueError(f"margins of shape {tuple(margin.shape)} for {tuple(chosen.shape)} pairs")
    gap = logit = chosen - rejected
    if margin is not None:
        logit = gap - margin
    losses = -functional.logsigmoid(logit)
    # The expected loss over flipped labels, exactly: no label is sampled.
    if label_smoothing:
        losses = (1 - label_smoothing) * losses - label_smoothing * functional.logsigmoid(-logit)
    # Accuracy ignores the margin, and a tie counts as half right.
    right = (gap > 0).double() + 0.5 * (gap == 0).double()
    metrics = {"accuracy": right.sum() / total, "reward_gap": gap.detach().sum() / total}
    return losses.sum() / total, metrics


def labelled_preferences(
    scores: torch.Tensor, labels: Labels, totals: Totals, label_smoothing: float
) -> tuple[torch.Tensor, Metrics]:
    """`bradley_terry` of the labelled pairs by the scores of all sequences, [S]."""
    compared = scores[labels.pairs]
    return bradley_terry(
        compared[:, 0],
        compared[:, 1],
        total=totals.pairs,
        margin=labels.margins,
        label_smoothing=label_smoothing,
    )


def centering(chosen: torch.Tensor, rejected: torch.Tensor, *, total: float) -> torch.Tensor:
    r"""$\frac{1}{N} \sum_p (c_p + r_p)^2$ over scores [P] (Eisenstein et al., 2023, arXiv
    2312.09244; TRL's `center_rewards_coefficient`); N, `total`, as in `bradley_terry`."""
    return (chosen + rejected).square().sum() / total


def batch_sum(chosen: torch.Tensor, rejected: torch.Tensor) -> torch.Tensor:
    r"""Batch-wise sum-to-zero regularisation: $\left( \frac{1}{2P} \sum_p c_p + r_p \right)^2$ over
    the scores [P] of all pairs of the step (BSR; Hong et al., 2025)."""
    # Squared after the mean: single rewards are free, their average is not.
    return torch.cat([chosen, rejected]).mean().square()


def positive(chosen: torch.Tensor) -> torch.Tensor:
    r"""$-\log \sigma \left( \frac{1}{P} \sum_p c_p \right)$ over the preferred scores [P] of the
    step: their mean is pushed above zero (the baseline of Yang et al., 2024, GRM)."""
    # logsigmoid, not log(sigmoid): finite for large negative means.
    return -functional.logsigmoid(chosen.mean())
