"""GRM: Bradley–Terry, regularised by the language head, as docs/rivals.md describes it."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Annotated

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field

from smorm.config import Architecture, Config
from smorm.config.base import Section
from smorm.model.language import LanguageHead, response_tokens
from smorm.model.network import RewardNetwork, leaf_rows
from smorm.objectives.grm import Likelihoods, Mixture, Regulariser, grm
from smorm.objectives.terms import Losses, Totals
from smorm.printing import get_logger
from smorm.training.batches import MicroBatch
from smorm.training.methods.base import Method, Outputs
from smorm.training.responses import response_starts

if TYPE_CHECKING:
    from smorm.training.setup import Prepared

log = get_logger(__name__)

REFERENCE_PAIRS = 4096
"""Pairs that are split into micro-batches at once for the reference."""


class GrmSection(Section):
    """The regulariser, its `share` of the loss and the scale `beta` of its log-probabilities."""

    regulariser: Regulariser = "sft"
    share: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.01
    beta: Annotated[float, Field(gt=0.0)] = 0.1


class Grm(Method):
    """The language head reads the same hidden states, and the loss holds its log-probabilities of
    the responses, which begin at `starts` [pairs].

    `reference` [pairs, 2]: log-probabilities under the model that training began with, NaN for
    pairs that no step has; None where the regulariser does not use it."""

    title = "GRM"
    section = GrmSection
    heads = ("linear", "mlp")
    keeps_language_head = True

    @classmethod
    def check(cls, config: Config) -> None:
        if isinstance(config.model.backbone, Architecture):
            raise ValueError("model.backbone: objective.kind grm needs a pretrained language model")
        if config.model.freeze:
            raise ValueError("model.freeze: objective.kind grm regularises a backbone that trains")

    def __init__(self, run: Prepared) -> None:
        super().__init__(run)
        settings = self.objective.settings(GrmSection)
        smoothing = self.objective.label_smoothing
        self.mixture = Mixture(settings.regulariser, settings.share, settings.beta, smoothing)
        self.starts = response_starts(run.train.pairs, run.renderer)
        self.reference: NDArray[np.float32] | None = None
        # The others compare nothing with the model that training began with.
        if settings.regulariser == "dpo":
            self.reference = self._reference(run)

    def forward(self, network: RewardNetwork, micro: MicroBatch) -> Outputs:
        """One pass for both heads, the language head over every token before a response token."""
        assert isinstance(network.language, LanguageHead)
        lengths = [len(tokens) for tokens in micro.sequences]
        # Both sides of a pair are next to each other, in the order of the pairs.
        starts = self.starts[micro.pair_indices].repeat(2).tolist()
        responses = response_tokens(micro.batch, lengths, starts)
        states = network.states(micro.batch)
        scores = network.head(states.index_select(0, leaf_rows(micro.batch)))
        return Outputs(scores, network.language.response_log_probs(states, responses, len(lengths)))

    def terms(self, outputs: Outputs, micro: MicroBatch, totals: Totals) -> Losses:
        assert outputs.log_probs is not None
        reference = None
        # Indexed by pair, so that it does not depend on how steps are split.
        if self.reference is not None:
            reference = torch.from_numpy(self.reference[micro.pair_indices])
            reference = reference.to(outputs.scores.device)
        likelihoods = Likelihoods(outputs.log_probs[micro.labels.pairs], reference)
        return grm(outputs.scores, micro.labels, totals, likelihoods, self.mixture)

    def _reference(self, run: Prepared) -> NDArray[np.float32]:
        """Computed once for all pairs that the run will see: no second model stays in memory. The
        ranks share them out."""
        network, ranks = run.network, run.ranks
        order = copy.deepcopy(run.order)  # an order remembers the epoch that it drew last
        used = np.unique(np.concatenate([order.step(step)[0] for step in range(run.num_steps)]))
        reference = np.zeros((len(run.train.pairs), 2), dtype=np.float32)
        no_ratings = np.zeros(0, dtype=np.int64)
        log.info("reference: log-probabilities of %d pairs under the starting model", len(used))
        was_training = network.training
        network.eval()  # the reference is without dropout
        with torch.no_grad(), run.autocast():
            for first in range(0, len(used), REFERENCE_PAIRS):
                pairs = used[first : first + REFERENCE_PAIRS]
                for micro in run.batcher.split(pairs, no_ratings):
                    log_probs = self.forward(network, micro).log_probs
                    assert log_probs is not None
                    reference[micro.pair_indices] = log_probs.reshape(-1, 2).cpu().numpy()
                    self.reference_tokens += micro.batch.num_tokens
        network.train(was_training)
        self.reference_tokens = sum(ranks.gather(self.reference_tokens))
        ranks.sum(torch.from_numpy(reference))
        unused = np.ones(len(reference), dtype=bool)
        unused[used] = False
        reference[unused] = np.nan
        return reference
