"""Ridge regression of each attribute on hidden states that stay as they are (ArmoRM's first stage).

    w = argmin |X w - y|^2 + alpha |w|^2,    alpha by squared error on held-out prompts

Without intercept, and over the ratings that there are (Wang et al., 2024, arXiv 2406.12845, section
3.1). The chosen penalty is then used on all of the ratings.

Shapes: R rated responses, D hidden size, K attributes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from smorm.arrays import Floats
from smorm.errors import DataError

Matrix = NDArray[np.floating[Any]]
Mask = NDArray[np.bool_]

ALPHAS = tuple(10.0**power for power in range(-4, 5))
"""The published penalties."""
_BLOCK = 1 << 16


@dataclass(frozen=True, slots=True)
class RidgeRow:
    """One attribute's row: its weights [D], the penalty that was chosen, the mean squared error of
    each penalty on the held-out prompts, and over how many ratings that is."""

    weights: Floats
    alpha: float
    errors: dict[float, float]
    held_out: int


@dataclass(frozen=True, slots=True)
class _Spectrum:
    """The eigenvectors of X^T X: every penalty's solution from one decomposition."""

    values: Floats
    vectors: Floats

    @classmethod
    def of(cls, states: Matrix) -> _Spectrum:
        width = states.shape[1]
        gram = np.zeros((width, width))
        for start in range(0, len(states), _BLOCK):
            block = states[start : start + _BLOCK].astype(np.float64)
            gram += block.T @ block
        values, vectors = np.linalg.eigh(gram)
        return cls(values.clip(min=0.0), vectors)

    def solve(self, moment: Floats, alpha: float) -> Floats:
        """(X^T X + alpha)^-1 times X^T y [D]."""
        return np.asarray(self.vectors @ ((self.vectors.T @ moment) / (self.values + alpha)))


def held_out_prompts(prompts: NDArray[np.int64], share: float, seed: int) -> Mask:
    """Which responses [R] stand under the `share` of prompts that is held out."""
    names = np.unique(prompts)
    count = max(1, round(share * len(names)))
    chosen = np.random.default_rng(seed).permutation(names)[:count]
    return np.isin(prompts, chosen)


def ridge_rows(
    states: Matrix, targets: Floats, held_out: Mask, names: Sequence[str]
) -> list[RidgeRow]:
    """A row for each attribute.

    Args:
        states: hidden states, [R, D].
        targets: [R, K], NaN where not rated.
        held_out: the responses that choose the penalty, [R].
        names: of the attributes, for errors.

    Raises:
        DataError: an attribute that is rated under no held-out prompt, or under no other.
    """
    spectra: dict[bytes, _Spectrum] = {}
    found = []
    for target, name in zip(targets.T, names, strict=True):
        rated = ~np.isnan(target)
        if not (rated & held_out).any() or not (rated & ~held_out).any():
            raise DataError(
                f"attribute {name!r} is rated under too few prompts to choose a ridge penalty: "
                "leave it out (data.attributes), or rate more"
            )
        errors = _errors(states, target, rated, held_out, spectra)
        alpha = min(errors, key=lambda one: (errors[one], -one))
        weights = _fitted(states, target, rated, spectra)[alpha]
        found.append(RidgeRow(weights, alpha, errors, int((rated & held_out).sum())))
    return found


def _errors(
    states: Matrix, target: Floats, rated: Mask, held_out: Mask, spectra: dict[bytes, _Spectrum]
) -> dict[float, float]:
    """Mean squared error of each penalty on the held-out prompts."""
    fits = _fitted(states, target, rated & ~held_out, spectra)
    kept = rated & held_out
    return {
        alpha: float(np.mean((states[kept] @ weights - target[kept]) ** 2))
        for alpha, weights in fits.items()
    }


def _fitted(
    states: Matrix, target: Floats, rows: Mask, spectra: dict[bytes, _Spectrum]
) -> dict[float, Floats]:
    """Weights [D] by penalty; attributes that are rated together share a decomposition."""
    key = rows.tobytes()
    if key not in spectra:
        spectra[key] = _Spectrum.of(states[rows])
    moment = np.asarray(states[rows].T @ target[rows], dtype=np.float64)
    return {alpha: spectra[key].solve(moment, alpha) for alpha in ALPHAS}
