"""The `pairs` suite: does the preferred response score higher, and how much of that is length?"""

from __future__ import annotations

import numpy as np

from smorm.evaluation.baselines import longer_wins
from smorm.evaluation.correlation import spearman_metric
from smorm.evaluation.metrics import (
    Clusters,
    Floats,
    Metric,
    as_floats,
    cluster_codes,
    mean_metric,
    pair_outcomes,
    paired_difference,
    share_metric,
)
from smorm.evaluation.result import Measurement


def measure_pairs(
    chosen: Floats,
    rejected: Floats,
    prompts: Clusters,
    *,
    chosen_lengths: Floats,
    rejected_lengths: Floats,
    length_unit: str,
) -> Measurement:
    """Accuracy with ties as half, the length-only rule beside it, and the score's tie to length.

    Args:
        chosen: scores of the preferred responses [N].
        rejected: scores of the others [N].
        prompts: a label of the prompt for each pair [N]; intervals resample prompts.
        chosen_lengths: lengths of the preferred responses [N].
        rejected_lengths: lengths of the others [N].
        length_unit: the lengths' unit, such as "tokens" or "characters"; it is told in a note.

    Metrics: `accuracy`, `length_only_accuracy` (the longer response wins), their difference
    `accuracy_minus_length_only`, the accuracy where the preferred response is the longer or the
    shorter one, the mean `margin` (chosen − rejected, in units of the score), and the Spearman
    `length_correlation` of score and length over all 2N responses, plain and with both centred
    within each prompt (Bradley–Terry fixes no offset between prompts).

    Raises:
        DataError: shapes differ, there is no pair, or a score or length is NaN or infinite.
    """
    chosen = as_floats("scores of chosen responses", chosen, None)
    count = len(chosen)
    rejected = as_floats("scores of rejected responses", rejected, count)
    chosen_lengths = as_floats("lengths of chosen responses", chosen_lengths, count)
    rejected_lengths = as_floats("lengths of rejected responses", rejected_lengths, count)
    codes, groups = cluster_codes(prompts, count)

    outcomes, ties = pair_outcomes(chosen, rejected)
    by_length, length_ties = longer_wins(chosen_lengths, rejected_lengths)
    metrics = {
        "accuracy": share_metric(outcomes, codes),
        "length_only_accuracy": share_metric(by_length, codes),
        "accuracy_minus_length_only": paired_difference(outcomes, by_length, codes),
    }
    for name, part in (("longer", by_length == 1.0), ("shorter", by_length == 0.0)):
        if part.any():
            metrics[f"accuracy_chosen_{name}"] = share_metric(outcomes[part], codes[part])
    metrics["margin"] = mean_metric(chosen - rejected, codes)
    scores = np.concatenate([chosen, rejected])
    lengths = np.concatenate([chosen_lengths, rejected_lengths])
    metrics |= _length_correlations(scores, lengths, np.concatenate([codes, codes]))
    return Measurement(
        metrics,
        (
            f"{count} pairs over {groups} prompts; intervals resample prompts.",
            f"{ties} pairs with equal scores count as half.",
            f"Length is in {length_unit}; {length_ties} pairs have two responses of equal length "
            "and count as half for the length-only rule.",
        ),
    )


def _length_correlations(scores: Floats, lengths: Floats, codes: Clusters) -> dict[str, Metric]:
    return {
        "length_correlation": spearman_metric(scores, lengths, codes),
        "length_correlation_within_prompt": spearman_metric(
            _centred(scores, codes), _centred(lengths, codes), codes
        ),
    }


def _centred(values: Floats, clusters: Clusters) -> Floats:
    """Values less the mean of their cluster."""
    codes, groups = cluster_codes(clusters, len(values))
    means = np.bincount(codes, values, groups) / np.bincount(codes, minlength=groups)
    # Rounded, so that values equal but for rounding stay tied in a rank correlation.
    scale = float(np.abs(values).max()) or 1.0
    return np.asarray(np.round((values - means[codes]) / scale, 12) * scale)
