"""Curves of best-of-n: sizes, KL, and the weights that sum a curve up.

Best-of-n draws n answers and keeps the one that the proxy scores highest; `smorm.evaluation.picks`
has the probability of each answer to be that pick.

Shapes: `N` answers of a pool, `C` sizes n."""

import math
from collections.abc import Sequence

import numpy as np

from smorm.arrays import Floats
from smorm.errors import ConfigError, DataError


def kl_of(size: int) -> float:
    """KL divergence of best-of-n from the policy, in nats: ln n - (n - 1) / n. Exact where no two
    answers tie, an upper bound otherwise (Beirami et al. 2024)."""
    return math.log(size) - (size - 1) / size


def doubling_sizes(largest: int) -> tuple[int, ...]:
    """1, 2, 4, ... and the largest."""
    # All powers below the largest: as many as n - 1 has binary digits.
    exponents = range((largest - 1).bit_length())
    return (*(2**exponent for exponent in exponents), largest)


def law_weights(sizes: Sequence[int]) -> Floats:
    """The weights that make α and β of d (α - β d) by least squares of a curve of gold [2, C].

    d = sqrt(KL), and the law is about the gain over n = 1 (Gao et al. 2023, best-of-n). ConfigError
    with fewer than two sizes above 1, or none of them 1: there is nothing to fit."""
    # Linear in the curve: an interval and a paired difference of α and β are those of means.
    distances = np.sqrt(np.maximum(list(map(kl_of, sizes)), 0.0))
    later = distances > 0
    if later.sum() < 2 or 1 not in sizes:
        raise ConfigError("the law needs n = 1 and two larger n")
    design = np.stack([distances, -(distances**2)], axis=1)[later]
    weights = np.zeros((2, len(sizes)))
    weights[:, later] = np.linalg.pinv(design)
    # The fit is of gains: what the others weigh, n = 1 weighs with the opposite sign.
    weights[:, list(sizes).index(1)] -= weights.sum(axis=1)
    return weights


def slope_weights(sizes: Sequence[int]) -> Floats:
    """The weights [C] that make a curve's slope per nat of KL, by least squares."""
    nats = np.array(list(map(kl_of, sizes)))
    centred = nats - nats.mean()
    if not (centred @ centred) > 0:
        raise ConfigError("a slope needs two sizes n")
    return np.asarray(centred / (centred @ centred))


def area_weights(sizes: Sequence[int]) -> Floats:
    """The weights [C] that make a curve's average over KL, by trapezoids; sizes ascend."""
    nats = np.array(list(map(kl_of, sizes)))
    steps = np.diff(nats)
    if not steps.sum() > 0:
        raise ConfigError("an area needs two sizes n")
    weights = np.zeros(len(nats))
    weights[:-1] += steps / 2
    weights[1:] += steps / 2
    return np.asarray(weights / steps.sum())


def spread_within(what: str, values: Sequence[Floats]) -> float:
    """Standard deviation of scores around the mean of their pool, over all pools; DataError where
    every pool has one value throughout, or values are so large that their squares are infinite."""
    residuals = np.concatenate([scores - scores.mean() for scores in values])
    # A mean is estimated for each pool: pools of few answers would else make it too small.
    dof = len(residuals) - len(values)
    with np.errstate(over="ignore"):
        std = math.sqrt(float(residuals @ residuals) / dof) if dof else 0.0
    if not math.isfinite(std):
        raise DataError(f"{what}: scores too large to be measured: divide them by a constant")
    # Equal scores leave residuals of rounding, relative to their size.
    if std <= 1e-12 * float(np.abs(np.concatenate(values)).max()):
        raise DataError(
            f"{what}: all answers of every pool have the same score: it chooses nothing"
        )
    return std
