"""The pick of best-of-n from a pool of answers, in closed form.

Best-of-n draws n answers and keeps the one that a score ranks highest. From a pool of N answers its
expectation over all subsets of size n needs no drawing. It is unbiased for every n up to N; taking
only the first n answers is unbiased too, and far noisier. Source: the estimator of Nakano et al.
(2021, WebGPT) and Gao et al. (2023), equation 4, with ties shared.

Shapes: `N` answers of a pool, `C` sizes n."""

from collections.abc import Sequence

import numpy as np

from smorm.arrays import Floats
from smorm.errors import ConfigError
from smorm.evaluation.metrics import as_floats, require_finite


def pick_probabilities(proxy: Floats, sizes: Sequence[int]) -> Floats:
    """The probability of each answer to be the pick of a random subset of size n [C, N].

    With `b` answers at or below a score and `a` below it, the pick has that score with probability
    (C(b, n) - C(a, n)) / C(N, n); answers that share a score share it equally. Only the order of
    scores [N] counts, so that no increasing function of a proxy changes it.

    Raises:
        DataError: a score is NaN or infinite, or there is none.
        ConfigError: a size that the pool does not have."""
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
    counts = np.arange(pool, 0, -1)
    # C(k - 1, n) = C(k, n) (k - n) / k: exactly 1 at N and exactly 0 below n, at any size, where
    # the binomials themselves would overflow.
    steps = np.maximum(counts - size, 0) / counts
    return np.concatenate([[1.0], np.cumprod(steps)])[::-1]
