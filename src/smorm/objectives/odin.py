r"""ODIN (Chen et al., 2024, arXiv 2402.07319): a second row learns length and is then discarded.

Pairs are ranked by the sum of quality (row 0, the reward) and length (row 1). The length row is
pushed to correlate with the lengths of the responses, the quality row not to, and both to be
orthogonal. P pairs."""

import torch

from smorm.objectives.preference import labelled_preferences
from smorm.objectives.terms import Labels, Losses, Metrics, Term, Totals

QUALITY, LENGTH = 0, 1


def ranking(
    scores: torch.Tensor, labels: Labels, totals: Totals, label_smoothing: float = 0.0
) -> Losses:
    r"""$-\log \sigma((q + l)_c - (q + l)_r)$ of scores [.., 2], averaged over the step's pairs.
    Metrics are of the quality row, and `ranking_accuracy` of the sum."""
    if not len(labels.pairs):
        return {}, {}
    loss, ranked = labelled_preferences(scores.sum(-1), labels, totals, label_smoothing)
    # Accuracy is that of the reward, which is the quality row; the sum is only trained.
    _, metrics = labelled_preferences(scores[:, QUALITY].detach(), labels, totals, 0.0)
    return {"preference": Term(loss)}, {**metrics, "ranking_accuracy": ranked["accuracy"]}


def length_term(compared: torch.Tensor, lengths: torch.Tensor) -> tuple[torch.Tensor, Metrics]:
    r"""$(1 - \rho(l, n)) + |\rho(q, n)|$, with Pearson's correlation of the scores of the whole
    step's pairs, [P, 2, 2], to their numbers of tokens n, [P, 2]."""
    # Both sides of every pair: 2P responses.
    rows, tokens = compared.flatten(0, 1), lengths.flatten().to(compared.dtype)
    quality = correlation(rows[:, QUALITY], tokens)
    length = correlation(rows[:, LENGTH], tokens)
    metrics = {
        "length_correlation/quality": quality.detach(),
        "length_correlation/length": length.detach(),
    }
    return 1 - length + quality.abs(), metrics


def orthogonality(rows: torch.Tensor) -> torch.Tensor:
    """Absolute cosine of the two rows, [2, hidden size]."""
    return torch.cosine_similarity(rows[QUALITY], rows[LENGTH], dim=0).abs()


def correlation(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Pearson's correlation of two vectors; 0, without gradient, where one of them is constant."""
    # A constant vector has no correlation: 0 / 0 would put NaN into every gradient, so that the
    # denominator is replaced before the division, not the quotient after it.
    a, b = a - a.mean(), b - b.mean()
    power = a.square().sum() * b.square().sum()
    varies = power > torch.finfo(power.dtype).tiny
    return torch.where(varies, (a * b).sum(), 0.0) / torch.where(varies, power, 1.0).sqrt()
