"""Squared error of a reward against the truth, after what a reward does not fix is taken out.

Bradley–Terry fixes neither a prompt's offset nor, without its noise model, the scale. So both are
centred within each prompt and the reward is put on the truth's scale by least squares, with a slope
of at least 0: a reward that goes the wrong way is no better than a constant.

Shapes: `N` responses, `P` pairs, `K` attributes.
"""

from __future__ import annotations

import numpy as np

from smorm.evaluation.correlation import centred
from smorm.evaluation.metrics import Clusters, Floats, cluster_codes


def centred_errors(reward: Floats, truth: Floats, prompts: Clusters) -> Floats:
    """Squared errors [N] of reward [N], both centred within their prompt, after the best slope."""
    x, y = centred(reward, prompts), centred(truth, prompts)
    power = float(x @ x)
    slope = max(0.0, float(x @ y) / power) if power > 0 else 0.0
    return np.asarray((y - slope * x) ** 2)


def pair_errors(reward: Floats, truth: Floats, prompts: Clusters) -> Floats:
    """The same for pairs [P, 2], the mean of the two sides [P]; `prompts` has one label a pair."""
    codes = np.repeat(cluster_codes(prompts, len(reward))[0], 2)
    errors = centred_errors(reward.reshape(-1), truth.reshape(-1), codes)
    return np.asarray(errors.reshape(-1, 2).mean(axis=1))


def affine_errors(predicted: Floats, ratings: Floats) -> Floats:
    """Squared errors [N, K] of attribute predictions after the best line, in units of the ratings'
    variance: 1 is what a constant has. NaN where not rated, or where all ratings are equal."""
    found = np.full(ratings.shape, np.nan)
    for at, (x, y) in enumerate(zip(predicted.T, ratings.T, strict=True)):
        known = np.isfinite(y)
        if known.sum() < 2 or np.ptp(y[known]) == 0:
            continue
        a, b = x[known] - x[known].mean(), y[known] - y[known].mean()
        power = float(a @ a)
        slope = max(0.0, float(a @ b) / power) if power > 0 else 0.0
        found[known, at] = (b - slope * a) ** 2 / float((b * b).mean())
    return found
