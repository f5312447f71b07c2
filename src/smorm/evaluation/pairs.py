"""The `pairs` suite: does the preferred response score higher, and how much of that is length?"""

from collections.abc import Sequence

import numpy as np

from smorm.arrays import Clusters, Floats
from smorm.evaluation.correlation import length_correlations
from smorm.evaluation.metrics import as_floats, cluster_codes, pair_outcomes, require_finite
from smorm.evaluation.outcomes import Outcomes, single
from smorm.evaluation.result import Measurement, chance_levels

_SHARES = ("accuracy", "accuracy_chosen_longer", "accuracy_chosen_shorter")


def measure_pairs(
    chosen: Floats, rejected: Floats, prompts: Clusters, *, chosen_lengths: Floats,
    rejected_lengths: Floats, length_unit: str, keys: Sequence[str] | None = None,
) -> Measurement:  # fmt: skip
    """Accuracy with ties as half, the length-only rule beside it, and correlation with length.

    From scores and lengths of the preferred responses and of the others [N]; `length_unit` is for a
    note, `keys` identify pairs, the same for every model.
    Metrics: `accuracy`, `length_only_accuracy` (the longer response wins), their difference
    `accuracy_minus_length_only`, the accuracy where the preferred response is the longer or the
    shorter one, the mean `margin` (chosen − rejected, in units of the score), and the Spearman
    `length_correlation` of score and length over all 2N responses, plain and with both centred
    within each prompt (Bradley–Terry fixes no offset between prompts).

    Raises:
        DataError: shapes differ, there is no pair, or a score or length is NaN or infinite."""
    chosen = as_floats("scores of chosen responses", chosen, None)
    count = len(chosen)
    rejected = as_floats("scores of rejected responses", rejected, count)
    chosen_lengths = as_floats("lengths of chosen responses", chosen_lengths, count)
    rejected_lengths = as_floats("lengths of rejected responses", rejected_lengths, count)
    require_finite("lengths of chosen responses", chosen_lengths)
    require_finite("lengths of rejected responses", rejected_lengths)
    # Ties as half: a score that is constant is then worth chance, not zero.
    outcomes, ties = pair_outcomes(chosen, rejected)
    by_length, length_ties = pair_outcomes(chosen_lengths, rejected_lengths)
    columns = {
        "accuracy": outcomes,
        "length_only_accuracy": by_length,
        "accuracy_minus_length_only": outcomes - by_length,
        "accuracy_chosen_longer": np.where(by_length == 1.0, outcomes, np.nan),
        "accuracy_chosen_shorter": np.where(by_length == 0.0, outcomes, np.nan),
        "margin": chosen - rejected,
    }
    # Where no preferred response is the longer one, there is no accuracy of those.
    for name in ("accuracy_chosen_longer", "accuracy_chosen_shorter"):
        if np.isnan(columns[name]).all():
            del columns[name]
    keys = keys or list(map(str, range(count)))
    differences = frozenset({"accuracy_minus_length_only", "margin"})
    chance_columns = {name: np.full(count, 0.5) for name in _SHARES if name in columns}
    table = Outcomes(columns, prompts, single(columns), keys, differences, chance_columns)
    # Both responses of a pair belong to its prompt, so both are resampled with it.
    codes, groups = cluster_codes(prompts, count)
    scores = np.concatenate([chosen, rejected])
    lengths = np.concatenate([chosen_lengths, rejected_lengths])
    with_length = length_correlations(scores, lengths, np.concatenate([codes, codes]))
    notes = (
        f"{count} pairs over {groups} prompts; intervals resample prompts.",
        f"{ties} pairs with equal scores count as half.",
        f"Length is in {length_unit}; {length_ties} pairs have two responses of equal length "
        "and count as half for the length-only rule.",
    )
    return Measurement(table.metrics() | with_length, notes, table, chance_levels(table))
