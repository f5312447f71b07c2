"""Theorem 1's floor as the features get wider: true always, and soon about nothing.

Inputs x ~ N(0, I_20), features f = tanh(Θx) with random Θ, a Bradley–Terry row and least-squares
attribute rows, all with weight decay, which keeps their norms and so the bound's epsilon small.
Attributes and preference are linear in x and aligned.

Shapes: P pairs, N responses, D features, K attributes."""

from __future__ import annotations

import numpy as np
import torch

from experiments.linear_fits import INPUTS, K
from smorm.arrays import Floats
from smorm.evaluation.correlation import pearson
from smorm.theory import implicit_effect as effect

DIMENSIONS = (4, 16, 64, 256, 512)
# max(c r_s) − ε of an earlier check of the theorem.
EARLIER_FLOOR = {4: 0.43, 64: -0.41, 256: -2.8, 512: -5.2}
# Almost 8 times the widest features: both heads are estimated, and fit no noise exactly.
PAIRS, RATED, TESTED = 4000, 4000, 2000
SEEDS = 5
# Without it the rows' norms, and with them epsilon, grow with the features.
DECAY = 1e-2


def measure(dimension: int, seeds: int = SEEDS) -> dict[str, float]:
    """Mean over seeds of the numbers of `measure_once`."""
    totals: dict[str, float] = {}
    for seed in range(seeds):
        for name, value in measure_once(dimension, seed).items():
            totals[name] = totals.get(name, 0.0) + value
    return {name: total / seeds for name, total in totals.items()}


def measure_once(dimension: int, seed: int) -> dict[str, float]:
    """Fit both heads and measure the bound on fresh responses."""
    # The dimension is part of the seed: two widths have no draw in common.
    rng = np.random.default_rng([seed, dimension])
    theta = rng.standard_normal((INPUTS, dimension)) / np.sqrt(INPUTS)
    preference = rng.standard_normal(INPUTS) / np.sqrt(INPUTS)
    independent = rng.standard_normal((INPUTS, K)) / np.sqrt(INPUTS)
    attributes = preference[:, None] + 0.5 * independent

    first = rng.standard_normal((PAIRS, INPUTS))
    second = rng.standard_normal((PAIRS, INPUTS))
    wins = rng.random(PAIRS) < 1 / (1 + np.exp(-2 * (first - second) @ preference))
    deltas = np.tanh(first @ theta) - np.tanh(second @ theta)
    deltas = np.where(wins[:, None], deltas, -deltas)
    inputs = rng.standard_normal((RATED, INPUTS))
    ratings = inputs @ attributes + 0.5 * rng.standard_normal((RATED, K))
    rows = _least_squares(np.tanh(inputs @ theta), ratings)
    row = decayed_preference(deltas)

    tested = np.tanh(rng.standard_normal((TESTED, INPUTS)) @ theta)
    prompts = list(range(TESTED))
    pairs = list(range(TESTED // 2))
    # Neighbours as pairs: all responses are independent, so any pairing is random.
    held = tested[0::2] - tested[1::2]
    held *= np.where(held @ row > 0, 1.0, -1.0)[:, None]  # the order that preference gives
    responses = effect.Responses(tested, row, rows.mean(axis=1), prompts)
    numbers = list(range(PAIRS))
    (solved,) = effect.solve(deltas, 0.0)
    margins = effect.PairMargins(
        deltas @ row, deltas @ responses.mean_row, deltas @ solved.direction, solved
    )
    c = effect.projection(margins, numbers)
    bound = effect.bound(responses, c, held, pairs)
    scaled = c.value * responses.preference
    return {
        "dimension": float(dimension),
        "correlation": pearson(responses.preference, responses.mean_attribute),
        "floor": float(scaled.max()) - bound["cauchy_schwarz"].value,
        "lowest": float(responses.mean_attribute.min()),
        "guaranteed": bound["order_guaranteed"].value,
        "shortfall": bound["largest"].value,
        "violations": bound["violations"].value,
        "c_ratio": effect.formula(margins, numbers).value / c.value,
    }


def _least_squares(features: Floats, ratings: Floats) -> Floats:
    """Attribute rows [D, K] with the same weight decay beside their mean squared error."""
    moment = features.T @ features / len(features) + DECAY * np.eye(features.shape[1])
    return np.asarray(np.linalg.solve(moment, features.T @ ratings / len(features)))


def decayed_preference(deltas: Floats, decay: float = DECAY) -> Floats:
    """Bradley–Terry's row [D] with weight decay, by L-BFGS."""
    row = torch.zeros(deltas.shape[1], dtype=torch.float64, requires_grad=True)
    gaps = torch.from_numpy(deltas)
    optimizer = torch.optim.LBFGS(
        [row], max_iter=500, tolerance_grad=1e-8, line_search_fn="strong_wolfe"
    )

    def objective() -> torch.Tensor:
        optimizer.zero_grad()
        loss = torch.nn.functional.softplus(-(gaps @ row)).mean() + decay * row.square().sum()
        loss.backward()
        return loss

    optimizer.step(objective)
    return np.asarray(row.detach().numpy())
