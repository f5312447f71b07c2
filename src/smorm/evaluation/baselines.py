"""What a score has to beat: the simplest rules, measured on the same items."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from smorm.arrays import Floats
from smorm.evaluation.metrics import (
    pair_outcomes,
)


def longer_wins(chosen_lengths: Floats, rejected_lengths: Floats) -> tuple[Floats, int]:
    """Outcomes [N] of preferring the longer response (a tie is half), and the number of ties."""
    return pair_outcomes(chosen_lengths, rejected_lengths)


def constants(ratings: Floats, names: Sequence[str], training_means: Mapping[str, float]) -> Floats:
    """One number to predict for each attribute [K], from ratings [N, K] with NaN for missing.

    It is the training set's mean where given, else the mean of these very ratings, which no other
    constant beats: the hardest baseline of its kind. NaN for an attribute that has neither.
    """
    present = np.isfinite(ratings)
    sums = np.where(present, ratings, 0.0).sum(axis=0)
    own = sums / np.where(present.any(axis=0), present.sum(axis=0), np.nan)
    return np.array([training_means.get(name, own[place]) for place, name in enumerate(names)])
