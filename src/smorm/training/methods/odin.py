"""ODIN: a length row beside the quality row, as docs/rivals.md describes it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from smorm.arrays import Floats, Ints
from smorm.config.base import Section
from smorm.config.objective import Weight
from smorm.data.scaling import AttributeScale
from smorm.model.network import RewardNetwork
from smorm.objectives import odin
from smorm.objectives.terms import Losses, Term, Terms, Totals
from smorm.training.batches import MicroBatch
from smorm.training.methods.base import Method, Outputs
from smorm.training.responses import response_lengths, response_starts

if TYPE_CHECKING:
    from smorm.training.setup import Prepared


class OdinSection(Section):
    """ODIN's weights: of the `length` term (both correlations) and the rows' `orthogonality`."""

    length: Weight = 1.0
    orthogonality: Weight = 1.0


class Odin(Method):
    """Pairs are ranked by the sum of both rows; the reward is the quality row."""

    title = "ODIN"
    section = OdinSection
    # A row that is used at length one cannot be zero.
    head_starts = ("random", "probe", "trl", "openrlhf")

    @classmethod
    def rows(cls, scales: list[AttributeScale]) -> list[AttributeScale]:
        """The length row has no scale of ratings: only its correlation is trained."""
        return [AttributeScale("length")]

    @classmethod
    def init_head(cls, network: RewardNetwork) -> None:
        """As in the official code, each row is used without its mean and at length one."""
        network.head.unit_rows = True

    @classmethod
    def response_targets(cls, run: Prepared, pairs: Ints) -> Floats:
        """Lengths, standardised: their correlation is what the length row learns."""
        records = [run.train.pairs[index] for index in pairs]
        lengths = response_lengths(records, response_starts(records, run.renderer))
        standard = (lengths - lengths.mean()) / (lengths.std() or 1.0)
        return np.asarray(standard[..., None], dtype=np.float64)

    def __init__(self, run: Prepared) -> None:
        super().__init__(run)
        self.settings = self.objective.settings(OdinSection)
        # Length is that of the response: the prompt is the same on both sides.
        self.pairs = run.train.pairs
        self.starts = response_starts(self.pairs, run.renderer)

    @property
    def needs_step_scores(self) -> bool:
        return self.settings.length > 0

    def terms(self, outputs: Outputs, micro: MicroBatch, totals: Totals) -> Losses:
        smoothing = self.objective.label_smoothing
        return odin.ranking(outputs.scores, micro.labels, totals, smoothing)

    def step_terms(self, compared: torch.Tensor, pairs: Ints) -> Losses:
        compared_pairs = [self.pairs[index] for index in pairs]
        lengths = torch.from_numpy(response_lengths(compared_pairs, self.starts[pairs]))
        length, metrics = odin.length_term(compared, lengths.to(compared.device))
        return {"length": Term(self.settings.length * length)}, metrics

    def head_terms(self, network: RewardNetwork) -> Terms:
        # The rows as they are applied, without their means: a common offset is no similarity.
        if not self.settings.orthogonality:
            return {}
        cosine = odin.orthogonality(network.head.rows())
        return {"orthogonality": Term(self.settings.orthogonality * cosine)}
