"""Bradley–Terry weights over a few columns, non-negative where asked: a small convex problem.

    minimise over u   sum_i p_i log(1 + exp(-z_i u)) + l2 / 2 |u|^2   with u_r >= 0 for bounded r

solved by projected Newton steps (Bertsekas 1982, "Projected Newton methods for optimization
problems with simple constraints"). Shapes: P pairs, R columns.
"""

from __future__ import annotations

import numpy as np

from smorm.arrays import Bools, Floats
from smorm.errors import SmormError

_STEPS = 200
_ROUNDING = 1e-14  # of the objective, which is of order one


def fit_weights(
    differences: Floats,
    counts: Floats,
    bounded: Bools,
    l2: float,
    *,
    tolerance: float = 1e-9,
) -> Floats:
    """The minimiser u [R], unique for l2 above 0.

    Args:
        differences: chosen minus rejected [P, R], columns of comparable size.
        counts: how often each pair counts [P]; not all 0.
        bounded: which columns must not get a negative weight [R].
        l2: strength of the penalty, above 0: separable pairs have no finite minimiser without it.
        tolerance: largest violation of the conditions of optimality (`violation`).

    Raises:
        SmormError: no convergence (numbers that are not finite).
    """
    shares = counts / counts.sum()
    weights = np.zeros(differences.shape[1])
    for _ in range(_STEPS):
        gradient, curvature = _derivatives(differences, shares, weights, l2)
        residual = violation(weights, gradient, bounded)
        if residual <= tolerance:
            return weights
        # Nearly at the bound and pushed against it: held there, else Newton's step may not descend.
        held = bounded & (weights <= min(1e-6, residual)) & (gradient > 0)
        step = gradient / np.diag(curvature)
        free = np.flatnonzero(~held)
        step[free] = np.linalg.solve(curvature[np.ix_(free, free)], gradient[free])
        found = _descend(differences, shares, bounded, l2, weights, gradient, step, held)
        if found is None:
            break
        weights = found
    raise SmormError(f"weights of a view: no convergence, the conditions are off by {residual:.1e}")


def _descend(
    differences: Floats,
    shares: Floats,
    bounded: Bools,
    l2: float,
    weights: Floats,
    gradient: Floats,
    step: Floats,
    held: Bools,
) -> Floats | None:
    """The first point on the projected arc with enough descent (Armijo's rule), or None."""
    start = objective(differences, shares, weights, l2)
    length = 1.0
    while length > 1e-12:
        moved = weights - length * step
        moved[bounded] = np.maximum(moved[bounded], 0.0)
        promised = length * gradient[~held] @ step[~held]
        promised += gradient[held] @ (weights - moved)[held]
        gained = start - objective(differences, shares, moved, l2)
        if gained >= 1e-4 * promised - _ROUNDING:
            return moved
        length /= 2
    return None


def violation(weights: Floats, gradient: Floats, bounded: Bools) -> float:
    """How far the conditions of optimality (Karush, Kuhn, Tucker) are from holding: the gradient is
    0, or at a bound it may point outwards. The largest component of u - project(u - gradient)."""
    moved = weights - gradient
    moved[bounded] = np.maximum(moved[bounded], 0.0)
    return float(np.abs(weights - moved).max())


def log_loss(margins: Floats, counts: Floats) -> float:
    """Mean of -log sigmoid over margins [P] that count `counts` [P] times, in nats."""
    return float(np.average(np.logaddexp(0.0, -margins), weights=counts))


def objective(differences: Floats, shares: Floats, weights: Floats, l2: float) -> float:
    """What is minimised; `shares` [P] sum to 1."""
    return log_loss(differences @ weights, shares) + 0.5 * l2 * float(weights @ weights)


def _derivatives(
    differences: Floats, shares: Floats, weights: Floats, l2: float
) -> tuple[Floats, Floats]:
    """Gradient [R] and curvature [R, R] of the objective."""
    doubt = np.exp(-np.logaddexp(0.0, differences @ weights))  # 1 - probability of the label
    gradient = l2 * weights - differences.T @ (shares * doubt)
    bends = shares * doubt * (1.0 - doubt)
    curvature = (differences.T * bends) @ differences + l2 * np.eye(len(weights))
    return gradient, curvature
