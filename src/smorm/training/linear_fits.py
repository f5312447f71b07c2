"""Rows of a linear head, fitted to hidden states that stay as they are: ridge regression on
ratings, logistic regression on the differences of pairs. Neither has an intercept, as the head has
none.

Shapes: N responses, P pairs, D hidden size."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import expit

from smorm.arrays import Bools, Floats, Ints

States = NDArray[np.floating[Any]]
Spectra = dict[bytes, tuple[Floats, Floats]]
"""Eigenvalues and eigenvectors of X^T X, by the responses X that it is of."""
FOLDS = 5
LEVELS = tuple(10.0**power for power in range(-5, 3))
"""Penalties that are tried, in units of the mean eigenvalue of X^T X over all data."""
_BLOCK = 1 << 16
_GRADIENT = 1e-9
"""Largest entry of the gradient at a logistic solution, per square root of a pair."""


@dataclass(frozen=True, slots=True)
class Fit:
    """A row [D], its penalty, its mean loss on what it was fitted to, and the mean loss of that
    penalty on the held-out folds."""

    weights: Floats
    penalty: float
    loss: float
    held_out: float


def gram(states: States) -> Floats:
    """X^T X [D, D] in double precision."""
    total = np.zeros((states.shape[1], states.shape[1]))
    # In blocks: there may be no memory for a copy of all states in double precision.
    for start in range(0, len(states), _BLOCK):
        block = states[start : start + _BLOCK].astype(np.float64)
        total += block.T @ block
    return total


def spectrum(states: States) -> tuple[Floats, Floats]:
    """Eigenvalues [D] and eigenvectors [D, D] of X^T X."""
    values, vectors = np.linalg.eigh(gram(states))
    # Rounding makes the smallest eigenvalues of a singular matrix negative.
    return values.clip(min=0.0), vectors


def ridge_fits(
    states: States, target: Floats, penalties: Sequence[float], spectra: Spectra
) -> dict[float, Floats]:
    """Weights [D] by penalty: argmin |X w - y|^2 + penalty |w|^2 over the responses [N] whose
    target is not NaN. Their eigenvectors of X^T X serve every penalty, and all targets that are
    known of the same responses (kept in `spectra`)."""
    rated = ~np.isnan(target)
    states, key = states[rated], rated.tobytes()
    if key not in spectra:
        spectra[key] = spectrum(states)
    values, vectors = spectra[key]
    moment = np.asarray(states.T @ target[rated], dtype=np.float64)
    rotated = vectors.T @ moment
    return {penalty: vectors @ (rotated / (values + penalty)) for penalty in penalties}


def penalties_for(states: States) -> list[float]:
    """`LEVELS` for these states, the largest first."""
    total = float(np.einsum("nd,nd->", states, states, dtype=np.float64))
    unit = total / states.shape[1] or 1.0
    return [level * unit for level in reversed(LEVELS)]


def folds_of(groups: Ints, seed: int) -> Ints:
    """A fold for each item, whole groups in one fold; fewer folds than `FOLDS` where there are
    fewer groups. The order of the items decides nothing."""
    names, codes = np.unique(groups, return_inverse=True)
    order = np.random.default_rng(seed).permutation(len(names))
    return np.asarray((order % min(FOLDS, len(names)))[codes], dtype=np.int64)


def fit_ridge(states: States, target: Floats, folds: Ints, spectra: Spectra) -> Fit | None:
    """The row of one rated attribute; states [N, D], targets [N] with NaN where not rated. None
    where no penalty can be chosen: all its ratings are in one fold."""
    rated = ~np.isnan(target)
    penalties = penalties_for(states[rated])

    def fits(trained: Bools) -> dict[float, Floats]:
        return ridge_fits(states, np.where(trained, target, np.nan), penalties, spectra)

    def loss(weights: Floats, tested: Bools) -> float:
        return float(np.square(states[tested] @ weights - target[tested]).sum())

    return _chosen(fits, loss, penalties, rated, folds)


@dataclass(frozen=True, slots=True)
class Comparisons:
    """Pairs as logistic regression sees them: chosen less rejected hidden states [P, D], margins
    [P], and the share of labels that is taken to be wrong (`smorm.objectives.preference`)."""

    gaps: States
    margins: Floats
    smoothing: float = 0.0

    def losses(self, scores: Floats) -> Floats:
        """The loss of each pair [P] by its difference of scores."""
        logits = scores - self.margins
        right, wrong = np.logaddexp(0.0, -logits), np.logaddexp(0.0, logits)
        return np.asarray((1 - self.smoothing) * right + self.smoothing * wrong)

    def slopes(self, scores: Floats) -> Floats:
        """The derivative of each loss [P] by the difference of scores."""
        return np.asarray(expit(scores - self.margins) - (1 - self.smoothing))

    def of(self, pairs: Bools) -> "Comparisons":
        """Some of the pairs."""
        return Comparisons(self.gaps[pairs], self.margins[pairs], self.smoothing)


def logistic_fits(pairs: Comparisons, penalties: Sequence[float]) -> dict[float, Floats]:
    """Weights [D] by penalty: argmin of the sum of the losses + penalty / 2 |w|^2, by L-BFGS in the
    eigenvectors of X^T X, where the Hessian is nearly the identity."""
    values, vectors = spectrum(pairs.gaps)
    rotated = pairs.gaps @ vectors
    weights, fits = np.zeros(len(values)), {}
    for penalty in penalties:
        # The Hessian of a pair's loss is at most a quarter.
        scales = np.sqrt(values / 4 + penalty)

        def objective(
            scaled: Floats, scales: Floats = scales, penalty: float = penalty
        ) -> tuple[float, Floats]:
            point = scaled / scales
            scores = rotated @ point
            value = pairs.losses(scores).sum() + penalty / 2 * (point @ point)
            slope = rotated.T @ pairs.slopes(scores) + penalty * point
            return float(value), slope / scales

        solved = minimize(
            objective, weights * scales, jac=True, method="L-BFGS-B",
            options={"maxiter": 1000, "ftol": 0.0, "gtol": _GRADIENT * len(rotated) ** 0.5},
        )  # fmt: skip
        # The next penalty begins from here.
        weights = solved.x / scales
        fits[penalty] = vectors @ weights
    return fits


def fit_logistic(pairs: Comparisons, folds: Ints) -> Fit | None:
    """The preference row; None where all pairs are in one fold."""
    penalties = penalties_for(pairs.gaps)

    def fits(trained: Bools) -> Mapping[float, Floats]:
        return logistic_fits(pairs.of(trained), penalties)

    def loss(weights: Floats, tested: Bools) -> float:
        held_out = pairs.of(tested)
        return float(held_out.losses(held_out.gaps @ weights).sum())

    return _chosen(fits, loss, penalties, np.ones(len(folds), dtype=bool), folds)


def _chosen(
    fits: Callable[[Bools], Mapping[float, Floats]],
    loss: Callable[[Floats, Bools], float],
    penalties: Sequence[float],
    usable: Bools,
    folds: Ints,
) -> Fit | None:
    """The fit to all usable items, with the penalty of the least loss on folds not fitted to."""
    losses, tested = dict.fromkeys(penalties, 0.0), 0
    for fold in np.unique(folds):
        train, test = usable & (folds != fold), usable & (folds == fold)
        if not train.any() or not test.any():
            continue
        tested += int(test.sum())
        for penalty, weights in fits(train).items():
            losses[penalty] += loss(weights, test)
    if not tested:
        return None
    # Of equally good penalties the largest, which comes first.
    penalty = min(penalties, key=losses.__getitem__)
    weights = fits(usable)[penalty]
    fitted = loss(weights, usable) / int(usable.sum())
    return Fit(weights, penalty, fitted, losses[penalty] / tested)
