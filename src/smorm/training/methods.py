"""What each kind of objective adds to a step: this is the only place that tells methods apart.

Most terms are sums over pairs and ratings, and micro-batches add up to them. Some are functions of
a statistic over all pairs of the step (a mean, a correlation). Those take the scores of the whole
step: a first pass without gradient finds the scores, autograd the share of each score in the
gradient, and the second pass back-propagates these shares beside the other terms. So the gradient
is exact whatever the micro-batches (the scheme of Gao et al., 2021, arXiv 2101.06983, section 3).

Shapes: S scored sequences, P pairs, K attributes, D hidden size.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from smorm.config import ObjectiveSection
from smorm.model.language import LanguageHead, predicted_tokens
from smorm.model.network import leaf_rows
from smorm.objectives import odin
from smorm.objectives.bradley_terry import Metrics
from smorm.objectives.grm import Likelihoods, Mixture, grm
from smorm.objectives.joint import Terms, Totals, Weights, joint
from smorm.objectives.regularisers import batch_sum, positive
from smorm.text.chat import Renderer
from smorm.training.batches import MicroBatch, micro_batches
from smorm.training.responses import response_starts
from smorm.training.setup import Prepared

log = logging.getLogger(__name__)

Kind = Literal["joint", "preference", "regression", "odin", "grm", "armo"]
TOGETHER = 4096
"""Pairs that are split into micro-batches at once for the reference."""
Regularisers = Literal["positive", "bsr", "length", "orthogonality"]


@dataclass(slots=True)
class Objective:
    """The objective's settings and its one learned value, the noise of each attribute.

    Attributes:
        whole: weights of the terms over all pairs of a step, those that there are.
        mixture: GRM's.
        starts: the first response token of every training pair, [P], where a method asks for it.
        reference: log-probabilities of both responses of training pairs under the model that
            training began with, [P, 2]; of pairs that no step has, NaN.
        reference_tokens: tokens that finding it took.
    """

    weights: Weights
    use_margin: bool
    log_variance: torch.nn.Parameter | None
    kind: Kind = "joint"
    whole: dict[Regularisers, float] | None = None
    mixture: Mixture | None = None
    starts: NDArray[np.int64] | None = None
    reference: NDArray[np.float32] | None = None
    reference_tokens: int = 0


def make_objective(prepared: Prepared) -> Objective:
    """Settings of every term, as `ObjectiveSection` documents them. Call it before weights change:
    GRM's reference is the model as it is now."""
    section: ObjectiveSection = prepared.config.objective
    weights, log_variance = _weights(prepared, section)
    objective = Objective(weights, section.use_margin, log_variance, section.kind)
    whole: dict[Regularisers, float] = {
        "positive": section.positive_regularisation,
        "bsr": section.bsr,
    }
    if section.kind == "odin":
        whole = {"length": section.odin.length, "orthogonality": section.odin.orthogonality}
    objective.whole = {name: weight for name, weight in whole.items() if weight} or None
    if section.kind in ("odin", "grm"):
        renderer = Renderer(prepared.tokenizer, prepared.card.chat_template)
        objective.starts = response_starts(prepared.train.pairs, renderer)
    if section.kind == "grm":
        chosen = section.grm
        objective.mixture = Mixture(chosen.regulariser, chosen.share, chosen.beta)
        if chosen.regulariser == "dpo":
            _find_reference(prepared, objective)
    return objective


def _find_reference(prepared: Prepared, objective: Objective) -> None:
    """Log-probabilities of the responses of all pairs that the run will see, once, before the
    first update: no second model needs to be kept."""
    training, order = prepared.config.training, copy.deepcopy(prepared.order)
    steps = range(training.max_steps or order.num_steps(training.epochs))
    used = np.unique(np.concatenate([order.step(step)[0] for step in steps]))
    found = np.full((len(prepared.train.pairs), 2), np.nan, dtype=np.float32)
    none = np.zeros(0, dtype=np.int64)
    log.info("reference: log-probabilities of %d pairs under the starting model, once", len(used))
    was_training = prepared.network.training
    prepared.network.eval()
    with torch.no_grad():
        for first in range(0, len(used), TOGETHER):
            for micro in micro_batches(prepared, False, used[first : first + TOGETHER], none):
                spoken = forward(prepared, objective, micro).spoken
                assert spoken is not None
                found[micro.numbers] = spoken.reshape(-1, 2).cpu().numpy()
                objective.reference_tokens += micro.batch.num_tokens
    prepared.network.train(was_training)
    objective.reference = found


def _weights(
    prepared: Prepared, section: ObjectiveSection
) -> tuple[Weights, torch.nn.Parameter | None]:
    weight, reduction = {
        "paper": (1.0, "sum"),
        "official": (1.0, "mean"),
        "fixed": (section.weight, section.reduction),
        "learned": (1.0, "sum"),
    }[section.weighting]
    device = prepared.network.device
    log_variance = scale = None
    if section.weighting == "learned" and prepared.train.rated:
        counts = (~np.isnan(prepared.train.targets)).sum(0)
        base = len(prepared.train.pairs) or len(prepared.train.rated)
        scale = torch.tensor(counts / base, dtype=torch.float32, device=device)
        log_variance = torch.nn.Parameter(torch.zeros(len(counts), device=device))
    weights = Weights(
        section.label_smoothing,
        weight,
        reduction,  # type: ignore[arg-type]
        scale,
        section.centering,
    )
    return weights, log_variance


@dataclass(frozen=True, slots=True)
class Outputs:
    """What a forward pass gives: all rows of the head [S, 1 + K], and for GRM the log-probability
    of each sequence's response [S]."""

    scores: torch.Tensor
    spoken: torch.Tensor | None = None


def forward(prepared: Prepared, objective: Objective, micro: MicroBatch) -> Outputs:
    """One pass through the network."""
    network = prepared.network
    half = prepared.config.training.precision == "bf16"
    with torch.autocast(network.device.type, dtype=torch.bfloat16, enabled=half):
        if objective.mixture is None:
            return Outputs(network(micro.batch))
        assert isinstance(network.language, LanguageHead)
        lengths = [len(tokens) for tokens in micro.sequences]
        # Both sides of a pair stand side by side, in the pairs' order.
        starts = _starts(objective, micro.numbers).repeat(2).tolist()
        predicted = predicted_tokens(micro.batch, lengths, starts)
        states = network.states(micro.batch)
        scores = network.head(states.index_select(0, leaf_rows(micro.batch)))
        return Outputs(scores, network.language.responses(states, predicted, len(lengths)))


def _starts(objective: Objective, numbers: Sequence[int]) -> NDArray[np.int64]:
    assert objective.starts is not None
    return objective.starts[np.asarray(numbers, dtype=np.int64)]


def terms_of(
    objective: Objective, outputs: Outputs, micro: MicroBatch, totals: Totals
) -> tuple[Terms, Metrics]:
    """The terms that micro-batches add up to."""
    scores, labels, weights = outputs.scores, micro.labels, objective.weights
    if objective.kind == "odin":
        return odin.ranking(scores, labels, totals, weights)
    if objective.mixture is not None:
        assert outputs.spoken is not None
        likelihoods = Likelihoods(
            outputs.spoken[labels.pairs], _reference(objective, micro, scores.device)
        )
        return grm(scores, labels, totals, weights, likelihoods, objective.mixture)
    return joint(scores, labels, totals, weights, objective.log_variance)


def _reference(
    objective: Objective, micro: MicroBatch, device: torch.device
) -> torch.Tensor | None:
    if objective.reference is None:
        return None
    return torch.from_numpy(objective.reference[micro.numbers]).to(device)


def lengths_of(objective: Objective, micros: Sequence[MicroBatch]) -> torch.Tensor:
    """Tokens of the responses of the micro-batches' pairs, in order, [P, 2]."""
    found = []
    for micro in micros:
        whole = np.array([len(tokens) for tokens in micro.sequences], dtype=np.int64)
        pairs = whole[micro.labels.pairs.cpu().numpy()]
        found.append(pairs - _starts(objective, micro.numbers)[:, None])
    return torch.from_numpy(np.concatenate(found))


def whole_terms(
    objective: Objective, compared: torch.Tensor, lengths: torch.Tensor | None
) -> tuple[Terms, Metrics]:
    """The terms over the scores of all pairs of the step, already weighted.

    Args:
        compared: all rows of both sides, [P, 2, 1 + K].
        lengths: tokens of these responses [P, 2], for ODIN.
    """
    weights = objective.whole or {}
    terms: Terms = {}
    metrics: Metrics = {}
    preference = compared[:, :, 0]
    if "positive" in weights:
        terms["positive"] = weights["positive"] * positive(preference[:, 0])
    if "bsr" in weights:
        terms["bsr"] = weights["bsr"] * batch_sum(preference[:, 0], preference[:, 1])
    if "length" in weights:
        assert lengths is not None
        length, metrics = odin.length_term(compared, lengths)
        terms["length"] = weights["length"] * length
    return terms, metrics


def head_terms(objective: Objective, rows: torch.Tensor) -> Terms:
    """The terms over the head's rows [1 + K, D], once a step, already weighted."""
    weight = (objective.whole or {}).get("orthogonality")
    return {} if weight is None else {"orthogonality": weight * odin.orthogonality(rows)}
