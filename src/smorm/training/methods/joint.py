"""SMORM: a preference row and attribute rows on one hidden state, trained jointly."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch

from smorm.arrays import Ints
from smorm.config import ObjectiveSection
from smorm.objectives.joint import JointWeights, joint
from smorm.objectives.preference import batch_sum, positive
from smorm.objectives.terms import Losses, Rows, Term, Terms, Totals
from smorm.training.batches import MicroBatch
from smorm.training.methods.base import Method, Outputs, View

if TYPE_CHECKING:
    from smorm.training.setup import Prepared


class Joint(Method):
    """Bradley–Terry on pairs and regression on ratings; either term is absent without its data.
    With `weighting: learned`, `log_variance` [K] is the learned noise of each attribute."""

    uses_ratings = True
    trains: ClassVar[tuple[Rows, ...]] = (Rows.PREFERENCE, Rows.ATTRIBUTES)
    default_view: ClassVar[View] = "M"
    regularised = True

    @classmethod
    def label(cls, objective: ObjectiveSection) -> str:
        if cls.title is not None:
            return cls.title
        # Runs with different weightings are different arms of a comparison.
        if objective.weighting == "fixed":
            return f"SMORM {objective.weight:g} {objective.reduction}"
        return f"SMORM {objective.weighting}"

    def __init__(self, run: Prepared) -> None:
        super().__init__(run)
        objective, device = self.objective, run.network.device
        self.attributes = run.card.attributes
        self.log_variance: torch.nn.Parameter | None = None
        scale = None
        if objective.weighting == "learned" and run.train.rated:
            # Ratings of each attribute per pair: with this scale, and the mean over pairs, the sum
            # of both terms is the likelihood of both data sets.
            counts = (~np.isnan(run.train.targets)).sum(0)
            base = len(run.train.pairs) or len(run.train.rated)
            scale = torch.tensor(counts / base, dtype=torch.float32, device=device)
            self.log_variance = torch.nn.Parameter(torch.zeros(len(counts), device=device))
            self.parameters = {"log_variance": self.log_variance}
            self.parameter_learning_rate = objective.noise_learning_rate
        # `paper` and `learned` sum over attributes: with learned noise each has a weight already.
        weight, reduction = 1.0, objective.reduction
        if objective.weighting == "fixed":
            weight = objective.weight
        else:
            reduction = "mean" if objective.weighting == "official" else "sum"
        self.weights = JointWeights(
            objective.label_smoothing,
            weight,
            reduction,
            scale,
            self.log_variance,
            objective.centering,
        )

    @property
    def needs_step_scores(self) -> bool:
        return bool(self.objective.positive_regularisation or self.objective.bsr)

    def terms(self, outputs: Outputs, micro: MicroBatch, totals: Totals) -> Losses:
        return joint(outputs.scores, micro.labels, totals, self.weights)

    def step_terms(self, compared: torch.Tensor, pairs: Ints) -> Losses:
        # The last index is the row of the head: both regularisers are of the preference row.
        chosen, rejected = compared[:, 0, 0], compared[:, 1, 0]
        objective = self.objective
        terms: Terms = {}
        if objective.positive_regularisation:
            terms["positive"] = Term(objective.positive_regularisation * positive(chosen))
        if objective.bsr:
            terms["bsr"] = Term(objective.bsr * batch_sum(chosen, rejected))
        return terms, {}

    def state_metrics(self) -> dict[str, float]:
        """The noise of each attribute, as a standard deviation on the training scale."""
        if self.log_variance is None:
            return {}
        # The variance is learned as a logarithm, so that it stays positive.
        std = torch.exp(self.log_variance.detach() / 2).tolist()
        return {f"noise/{name}": value for name, value in zip(self.attributes, std, strict=True)}
