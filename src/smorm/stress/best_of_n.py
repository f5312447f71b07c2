"""Best-of-n over a pool of answers, in closed form.

Best-of-n draws n answers and keeps the one that the proxy scores highest. From a pool of N answers
its expectation over all subsets of size n needs no drawing: an answer is the pick when it is in the
subset and nothing better is. The estimate is unbiased for every n up to N, and uses all N answers
at every n; taking only the first n of them is unbiased too, and far noisier.

Source: the estimator of Nakano et al. (2021, WebGPT) and Gao et al. (2023), equation 4, with ties
shared.

Shapes: `N` answers of a pool, `C` sizes n.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from smorm.errors import ConfigError, DataError
from smorm.evaluation.metrics import Floats, as_floats, require_finite


def pick_chances(proxy: Floats, sizes: Sequence[int]) -> Floats:
    """The chance of each answer to be the pick of a random subset of size n [C, N].

    With `b` answers at or below a score and `a` below it, the pick has that score with chance
    (C(b, n) − C(a, n)) / C(N, n); answers that share a score share the chance. Only the order of
    scores counts, so that no growing function of a proxy changes it.

    Args:
        proxy: scores of the pool [N], in any order.
        sizes: sizes n, each 1 to N.

    Raises:
        DataError: a score is NaN or infinite, or there is none.
        ConfigError: a size that the pool does not have.
    """
    proxy = as_floats("proxy scores of a pool", proxy, None)
    require_finite("proxy scores of a pool", proxy)
    ascending = np.sort(proxy)
    below = np.searchsorted(ascending, proxy, side="left")
    up_to = np.searchsorted(ascending, proxy, side="right")
    rows = []
    for size in sizes:
        share = _share_within(len(proxy), size)
        rows.append((share[up_to] - share[below]) / (up_to - below))
        if size == 1:  # no choice: exactly alike, so that two proxies differ by exactly nothing
            rows[-1] = np.full(len(proxy), 1 / len(proxy))
    return np.stack(rows)


def _share_within(pool: int, size: int) -> Floats:
    """C(k, n) / C(N, n) for k = 0..N [N + 1]: the share of subsets within the k lowest answers."""
    if not 1 <= size <= pool:
        raise ConfigError(f"n = {size}: the pool has {pool} answers")
    at = np.arange(pool, 0, -1)
    # C(k − 1, n) = C(k, n) (k − n) / k: exactly 1 at N and exactly 0 below n, at any size.
    steps = np.maximum(at - size, 0) / at
    return np.concatenate([[1.0], np.cumprod(steps)])[::-1]


def kl_of(size: int) -> float:
    """KL divergence of best-of-n from the policy, in nats: ln n − (n − 1) / n.

    Exact where no two answers tie, an upper bound otherwise (Beirami et al. 2024).
    """
    return math.log(size) - (size - 1) / size


def doubling_sizes(largest: int) -> tuple[int, ...]:
    """1, 2, 4, ... and the largest."""
    found = [1]
    while found[-1] * 2 < largest:
        found.append(found[-1] * 2)
    return (*found, largest) if largest > 1 else (1,)


def law_weights(sizes: Sequence[int]) -> Floats:
    """What turns a curve of gold into α and β of d (α − β d) by least squares [2, C].

    d = sqrt(KL), and the law is about the gain over n = 1 (Gao et al. 2023, best-of-n). Both are
    linear in the curve, so that an interval and a paired difference of them are those of means.

    Raises:
        ConfigError: fewer than two sizes above 1, or none of them 1: there is nothing to fit.
    """
    distances = np.sqrt([max(kl_of(size), 0.0) for size in sizes])
    later = distances > 0
    if later.sum() < 2 or 1 not in sizes:
        raise ConfigError("the law needs n = 1 and two larger n")
    design = np.stack([distances, -(distances**2)], axis=1)[later]
    weights = np.zeros((2, len(sizes)))
    weights[:, later] = np.linalg.pinv(design)
    weights[:, list(sizes).index(1)] -= weights.sum(axis=1)
    return weights


def slope_weights(sizes: Sequence[int]) -> Floats:
    """What turns a curve over n into its slope per nat of KL, by least squares [C].

    Raises:
        ConfigError: a single size has no slope.
    """
    nats = np.array([kl_of(size) for size in sizes])
    centred = nats - nats.mean()
    if not (centred @ centred) > 0:
        raise ConfigError("a slope needs two sizes n")
    return np.asarray(centred / (centred @ centred))


def area_weights(sizes: Sequence[int]) -> Floats:
    """What turns a curve over n into its average over KL, by trapezoids [C]; sizes ascend.

    Raises:
        ConfigError: a single size has no area.
    """
    nats = np.array([kl_of(size) for size in sizes])
    steps = np.diff(nats)
    if not steps.sum() > 0:
        raise ConfigError("an area needs two sizes n")
    weights = np.zeros(len(nats))
    weights[:-1] += steps / 2
    weights[1:] += steps / 2
    return np.asarray(weights / steps.sum())


def spread_within(what: str, values: Sequence[Floats]) -> float:
    """Standard deviation of scores around the mean of their pool, over all pools.

    Raises:
        DataError: every pool has one value throughout: nothing can be chosen by such a score; or
            values so large that their squares are infinite.
    """
    residuals = np.concatenate([one - one.mean() for one in values])
    freedom = sum(len(one) - 1 for one in values)
    with np.errstate(over="ignore"):
        spread = math.sqrt(float(residuals @ residuals) / freedom) if freedom else 0.0
    if not math.isfinite(spread):
        raise DataError(f"{what}: scores too large to be measured: divide them by a constant")
    if spread <= 1e-12 * max(float(np.abs(one).max()) for one in values):
        raise DataError(
            f"{what}: all answers of every pool have the same score: it chooses nothing"
        )
    return spread
