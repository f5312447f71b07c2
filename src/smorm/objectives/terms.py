"""What objectives are made of: labels, totals of a step, terms with the rows that they train."""

from dataclasses import dataclass
from enum import Enum

import torch


class Rows(Enum):
    """The rows of the head that a term trains; the value names them in metrics."""

    PREFERENCE = "preference"
    ATTRIBUTES = "regression"


@dataclass(frozen=True, slots=True)
class Term:
    """A weighted term of the loss, a scalar, and the rows that it trains."""

    value: torch.Tensor
    rows: Rows = Rows.PREFERENCE


# A term's name is for people (`loss/NAME` in metrics); what it trains is in its type.
Terms = dict[str, Term]
"""Terms by name. The loss is the sum of their values."""
Metrics = dict[str, torch.Tensor]
"""Scalars to report. Those of micro-batches add up to the value of the step."""
Losses = tuple[Terms, Metrics]


@dataclass(frozen=True, slots=True)
class Labels:
    """What a batch of scored sequences is compared with. `pairs` [P, 2] are rows of (chosen,
    rejected) in the scores; `rated` [R] rows of the rated responses; `targets` [R, K] with NaN
    where not rated; `margins` [P] or None."""

    pairs: torch.Tensor
    rated: torch.Tensor
    targets: torch.Tensor
    margins: torch.Tensor | None = None


@dataclass(frozen=True, slots=True)
class Totals:
    """Counts of the whole step, with the observed ratings of each attribute, [K]. Every micro-batch
    divides by them, so that their losses add up to the mean of the step."""

    pairs: int
    rated: int
    ratings: torch.Tensor
