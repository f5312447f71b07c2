r"""GRM (Yang et al., 2024, arXiv 2406.10216): the hidden states must still predict text.

The language head is trained with the score head, and the loss is $(1 - a) L_{BT} + a L_{reg}$, with
a regulariser on the log-probabilities of the responses of P pairs."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch.nn import functional

from smorm.objectives.preference import labelled_preferences
from smorm.objectives.terms import Labels, Losses, Term, Totals

Regulariser = Literal["sft", "dpo", "dpo_noref"]


@dataclass(frozen=True, slots=True)
class Likelihoods:
    """Log-probabilities of each pair's two responses, summed over their tokens, [P, 2]: the trained
    model's, and those of the frozen reference (`dpo` only)."""

    policy: torch.Tensor
    reference: torch.Tensor | None = None


@dataclass(frozen=True, slots=True)
class Mixture:
    """The regulariser, its share a of the loss, the scale beta of its log-probabilities, and the
    share of labels that Bradley–Terry takes to be wrong."""

    regulariser: Regulariser = "sft"
    share: float = 0.01
    beta: float = 0.1
    label_smoothing: float = 0.0


def grm(
    scores: torch.Tensor, labels: Labels, totals: Totals, likelihoods: Likelihoods, mixture: Mixture
) -> Losses:
    """The terms `preference` and `language`, already weighted, and metrics (`log_likelihood`: mean
    over the step's preferred responses). Scores are [sequences, 1]."""
    # Every row of the loss comes from pairs, so that the mixture is of two means over pairs.
    if not len(labels.pairs):
        return {}, {}
    loss, metrics = labelled_preferences(scores[:, 0], labels, totals, mixture.label_smoothing)
    text_loss = text_losses(likelihoods, mixture.regulariser, mixture.beta).sum() / totals.pairs
    # Detached: a metric must not keep the graph of the language head alive.
    metrics["log_likelihood"] = likelihoods.policy[:, 0].detach().sum() / totals.pairs
    terms = {
        "preference": Term((1 - mixture.share) * loss),
        "language": Term(mixture.share * text_loss),
    }
    return terms, metrics


def text_losses(likelihoods: Likelihoods, regulariser: Regulariser, beta: float) -> torch.Tensor:
    r"""The regulariser of each pair, [P]. `sft` is $-\log \sigma(\beta \log \pi(y_c))$; `dpo`
    $-\log \sigma(\beta [(\log \pi(y_c) - \log \pi(y_r)) - (\log \pi_0(y_c) - \log \pi_0(y_r))])$
    (Rafailov et al., 2023); `dpo_noref` the same without the reference."""
    # beta scales sums over tokens, which may be hundreds: without it the sigmoid is saturated.
    policy = likelihoods.policy
    if regulariser == "sft":
        return -functional.logsigmoid(beta * policy[:, 0])
    gap = policy[:, 0] - policy[:, 1]
    if regulariser == "dpo":
        if likelihoods.reference is None:
            raise ValueError("dpo needs the reference's log-probabilities")
        gap = gap - (likelihoods.reference[:, 0] - likelihoods.reference[:, 1])
    return -functional.logsigmoid(beta * gap)
