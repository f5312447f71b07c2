"""The multi-attribute regression term, masked where not rated. R rated responses, K attributes."""

from typing import Literal

import torch

from smorm.objectives.terms import Metrics

Reduction = Literal["sum", "mean"]


def squared_errors(
    predicted: torch.Tensor, target: torch.Tensor, rated: torch.Tensor
) -> torch.Tensor:
    """Squared errors [R, K], exactly 0 (without gradient, NaN or not) where `rated` is False."""
    if predicted.ndim != 2 or not predicted.shape == target.shape == rated.shape:
        shapes = [tuple(predicted.shape), tuple(target.shape), tuple(rated.shape)]
        raise ValueError(f"predicted, target and rated have shapes {shapes}, expected one [R, K]")
    # NaN must go before the subtraction: `where` would still let it into the gradient.
    gap = torch.where(rated, predicted - target.nan_to_num(), 0.0)
    return gap.square()


def regression(
    predicted: torch.Tensor,
    target: torch.Tensor,
    rated: torch.Tensor,
    *,
    total_rated: float,
    total_ratings: float,
    reduction: Reduction,
) -> tuple[torch.Tensor, Metrics]:
    r"""Squared error over the `rated` ratings; predictions and ratings are on the training scale.

    `sum` is the paper's $\mathbb{E} \lVert W^\top f - r \rVert_2^2$ (SMORM, equation of the joint
    objective): summed over attributes, averaged over the step's `total_rated` responses. `mean` is
    the official code's: averaged over its `total_ratings`, K times smaller where all are rated."""
    errors = squared_errors(predicted, target, rated)
    mean = errors.sum() / total_ratings
    metrics = {"mse": mean.detach()}
    if reduction == "mean":
        return mean, metrics
    return errors.sum() / total_rated, metrics


def homoscedastic(
    predicted: torch.Tensor,
    target: torch.Tensor,
    rated: torch.Tensor,
    log_variance: torch.Tensor,
    *,
    totals: torch.Tensor,
    likelihood_scale: torch.Tensor,
) -> tuple[torch.Tensor, Metrics]:
    r"""Gaussian negative log likelihood with one learned noise variance per attribute.

    $$\sum_k \lambda_k \left[ \frac{\mathrm{mse}_k}{2 \sigma_k^2} + \tfrac12 \log \sigma_k^2
    \right]$$

    With $\lambda_k = n_k / n_S$ (`likelihood_scale` [K]: ratings of attribute k per preference pair
    in the whole data) the sum with the Bradley–Terry mean is the joint likelihood of both sets: the
    maximum-likelihood weight (Kendall, Gal and Cipolla, 2018, for the learned `log_variance` [K]).
    `totals` [K] are the observed ratings of the step: an attribute without any adds nothing."""
    # Summed over responses first: the variance belongs to the attribute.
    errors = squared_errors(predicted, target, rated).sum(0)
    # The share of the step's ratings that are in this micro-batch: the shares add up to 1, so that
    # the log-variance counts once a step. An attribute without ratings adds 0, not 0 / 0.
    counts = totals.clamp_min(1.0)
    share = rated.sum(0) / counts
    terms = errors / counts * torch.exp(-log_variance) / 2 + share * log_variance / 2
    metrics = {"mse": (errors.sum() / totals.sum().clamp_min(1.0)).detach()}
    return (likelihood_scale * terms).sum(), metrics
