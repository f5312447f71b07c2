"""SMORM's joint objective: a preference term and a regression term on one set of scores. The
multi-attribute regression is masked where not rated. R rated responses, K attributes."""

from dataclasses import dataclass
from typing import Literal

import torch

from smorm.objectives.preference import centering, labelled_preferences
from smorm.objectives.terms import Labels, Losses, Metrics, Rows, Term, Terms, Totals

Reduction = Literal["sum", "mean"]


@dataclass(frozen=True, slots=True)
class JointWeights:
    """Weights and options of the terms. With a learned `log_variance` [K], and its
    `likelihood_scale` [K], the regression term is `homoscedastic`, else `regression`."""

    label_smoothing: float = 0.0
    regression: float = 1.0
    reduction: Reduction = "mean"
    likelihood_scale: torch.Tensor | None = None
    log_variance: torch.Tensor | None = None
    centering: float = 0.0


def joint(scores: torch.Tensor, labels: Labels, totals: Totals, weights: JointWeights) -> Losses:
    """The terms `preference`, `centering` (where it has a weight) and `regression`, as far as the
    batch has labels for them, and metrics. Scores are all rows, [sequences, 1 + K]."""
    terms: Terms = {}
    metrics: Metrics = {}
    # A micro-batch may hold pairs, ratings or both; a term without labels is absent, not 0.
    if len(labels.pairs):
        preference = scores[:, 0]
        loss, metrics = labelled_preferences(preference, labels, totals, weights.label_smoothing)
        terms["preference"] = Term(loss)
        if weights.centering:
            penalty = centering(*preference[labels.pairs].unbind(1), total=totals.pairs)
            terms["centering"] = Term(weights.centering * penalty)
    if len(labels.rated):
        term = regression if weights.log_variance is None else homoscedastic
        loss, errors = term(scores[labels.rated, 1:], labels.targets, totals, weights)
        terms["regression"] = Term(weights.regression * loss, Rows.ATTRIBUTES)
        metrics = {**metrics, **errors}
    return terms, metrics


def squared_errors(predicted: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Squared errors [R, K], exactly 0, without gradient, where the target is NaN."""
    if predicted.ndim != 2 or predicted.shape != target.shape:
        shapes = [tuple(predicted.shape), tuple(target.shape)]
        raise ValueError(f"predicted and target have shapes {shapes}, expected one [R, K]")
    # NaN must go before the subtraction: `where` would still let it into the gradient.
    gap = torch.where(target.isnan(), 0.0, predicted - target.nan_to_num())
    return gap.square()


def regression(
    predicted: torch.Tensor, target: torch.Tensor, totals: Totals, weights: JointWeights
) -> tuple[torch.Tensor, Metrics]:
    r"""Squared error of predictions of ratings on the training scale, NaN where not rated, [R, K].

    `sum` is the paper's $\mathbb{E} \lVert W^\top f - r \rVert_2^2$ (SMORM, equation of the joint
    objective): summed over attributes, averaged over the step's rated responses. `mean` is the
    official code's: averaged over its ratings, K times smaller where all are rated."""
    errors = squared_errors(predicted, target)
    # The totals are those of the step: micro-batches divide by ratings that others hold.
    mean = errors.sum() / float(totals.ratings.sum())
    metrics = {"mse": mean.detach()}
    if weights.reduction == "mean":
        return mean, metrics
    return errors.sum() / totals.rated, metrics


def homoscedastic(
    predicted: torch.Tensor, target: torch.Tensor, totals: Totals, weights: JointWeights
) -> tuple[torch.Tensor, Metrics]:
    r"""Gaussian negative log likelihood with one learned noise variance per attribute.

    $$\sum_k \lambda_k \left[ \frac{\mathrm{mse}_k}{2 \sigma_k^2} + \tfrac12 \log \sigma_k^2
    \right]$$

    With $\lambda_k = n_k / n_S$ (`likelihood_scale` [K]: ratings of attribute k per preference pair
    in the whole data) the sum with the Bradley–Terry mean is the joint likelihood of both sets: the
    maximum-likelihood weight (Kendall, Gal, Cipolla, 2018, for the learned `log_variance` [K])."""
    log_variance, scale = weights.log_variance, weights.likelihood_scale
    assert log_variance is not None
    assert scale is not None
    # Summed over responses first: the variance belongs to the attribute.
    errors = squared_errors(predicted, target).sum(0)
    # The share of the step's ratings that are in this micro-batch: the shares add up to 1, so that
    # the log-variance counts once a step. An attribute without ratings adds 0, not 0 / 0.
    counts = totals.ratings.clamp_min(1.0)
    share = (~target.isnan()).sum(0) / counts
    terms = errors / counts * torch.exp(-log_variance) / 2 + share * log_variance / 2
    metrics = {"mse": (errors.sum() / totals.ratings.sum().clamp_min(1.0)).detach()}
    return (scale * terms).sum(), metrics
