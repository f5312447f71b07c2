"""SMORM's joint objective: a preference term and a regression term on one set of scores.

Shapes: S scored sequences, R rated responses, K attributes.
"""

from dataclasses import dataclass

import torch

from smorm.objectives.preference import bradley_terry, centering
from smorm.objectives.regression import Reduction, homoscedastic, regression
from smorm.objectives.terms import Labels, Losses, Metrics, Rows, Term, Terms, Totals


@dataclass(frozen=True, slots=True)
class JointWeights:
    """Weights and options of the terms. `likelihood_scale` [K] belongs to a learned variance."""

    label_smoothing: float = 0.0
    regression: float = 1.0
    reduction: Reduction = "mean"
    likelihood_scale: torch.Tensor | None = None
    centering: float = 0.0


def joint(
    scores: torch.Tensor,
    labels: Labels,
    totals: Totals,
    weights: JointWeights,
    log_variance: torch.Tensor | None = None,
) -> Losses:
    """The terms `preference`, `centering` (where it has a weight) and `regression`, as far as the
    batch has labels for them, and metrics. Scores are all rows, [S, 1 + K]. With `log_variance` [K]
    the regression term is `homoscedastic`, without it `regression`."""
    terms: Terms = {}
    metrics: Metrics = {}
    # A micro-batch may hold pairs, ratings or both; a term without labels is absent, not 0.
    if len(labels.pairs):
        chosen, rejected = scores[labels.pairs[:, 0], 0], scores[labels.pairs[:, 1], 0]
        loss, metrics = bradley_terry(
            chosen, rejected, total=totals.pairs, margin=labels.margins,
            label_smoothing=weights.label_smoothing,
        )  # fmt: skip
        terms["preference"] = Term(loss)
        if weights.centering:
            penalty = centering(chosen, rejected, total=totals.pairs)
            terms["centering"] = Term(weights.centering * penalty)
    if len(labels.rated):
        predicted = scores[labels.rated, 1:]
        loss, errors = _regression(predicted, labels, totals, weights, log_variance)
        terms["regression"] = Term(weights.regression * loss, Rows.ATTRIBUTES)
        metrics = {**metrics, **errors}
    return terms, metrics


def _regression(
    predicted: torch.Tensor,
    labels: Labels,
    totals: Totals,
    weights: JointWeights,
    log_variance: torch.Tensor | None,
) -> tuple[torch.Tensor, Metrics]:
    observed = ~labels.targets.isnan()
    # The totals are those of the step: micro-batches divide by ratings that others hold.
    if log_variance is None:
        return regression(
            predicted, labels.targets, observed, total_rated=totals.rated,
            total_ratings=float(totals.ratings.sum()), reduction=weights.reduction,
        )  # fmt: skip
    scale = weights.likelihood_scale
    if scale is None:
        scale = torch.ones_like(log_variance)
    return homoscedastic(
        predicted, labels.targets, observed, log_variance, totals=totals.ratings,
        likelihood_scale=scale,
    )  # fmt: skip
