"""SMORM's joint objective: a preference term and a regression term on one set of scores."""

from dataclasses import dataclass

import torch

from smorm.objectives.preference import centering, labelled_preferences
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
    batch has labels for them, and metrics. Scores are all rows, [sequences, 1 + K]. With
    `log_variance` [K] the regression term is `homoscedastic`, without it `regression`."""
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
        predicted = scores[labels.rated, 1:]
        observed = ~labels.targets.isnan()
        # The totals are those of the step: micro-batches divide by ratings that others hold.
        if log_variance is None:
            loss, errors = regression(
                predicted, labels.targets, observed, total_rated=totals.rated,
                total_ratings=float(totals.ratings.sum()), reduction=weights.reduction,
            )  # fmt: skip
        else:
            assert weights.likelihood_scale is not None
            loss, errors = homoscedastic(
                predicted, labels.targets, observed, log_variance, totals=totals.ratings,
                likelihood_scale=weights.likelihood_scale,
            )  # fmt: skip
        terms["regression"] = Term(weights.regression * loss, Rows.ATTRIBUTES)
        metrics = {**metrics, **errors}
    return terms, metrics
