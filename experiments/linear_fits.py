r"""Linear problems with a known truth, and the models that both losses give on them.

Inputs x ~ N(0, I_20), features f = Θx in R^d, a preference row and K = 5 attribute rows. So a model
is a matrix M = Θᵀ[w_S, W_M] of rank at most d, and a reward's mean squared error to the truth is
the squared distance of its column from the true one. The objective is

    mean BT + λ · mean ‖W_Mᵀ f − r‖² + ρ (‖Θ‖² + ‖w_S‖² + ‖W_M‖²).

Where the rank does not bind (d > K) and ρ = 0, and for each head alone, the solution is found in
closed form or by Newton's method; otherwise by L-BFGS, in float64.

Shapes: P pairs, R rated responses, X = 20 inputs, K attributes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch

from smorm.arrays import Floats

INPUTS, K = 20, 5
Relation = Literal["aligned", "apart", "opposed"]


@dataclass(frozen=True, slots=True)
class Case:
    """One row of the table.

    Attributes:
        rank: d, the features' dimension.
        pairs, rated: sizes of the two training sets.
        noise: standard deviation of a rating's error.
        weight: λ.
        ridge: ρ on all weights of every model compared.
        relation: preference inside the attributes' two dimensions, orthogonal to them, or the
            negative of their mean."""

    name: str
    rank: int = 2
    pairs: int = 400
    rated: int = 400
    noise: float = 1.0
    weight: float = 1.0
    ridge: float = 0.0
    relation: Relation = "aligned"


@dataclass(frozen=True, slots=True)
class Problem:
    """Training data and the truth: deltas [P, X] of pairs, chosen less rejected; inputs [R, X] and
    ratings [R, K]; true preference [X] and attributes [X, K]."""

    deltas: Floats
    inputs: Floats
    ratings: Floats
    preference: Floats
    attributes: Floats


def make_problem(case: Case, seed: int) -> Problem:
    """Draw the truth and the data.

    The attributes lie in two random dimensions of the inputs, with weights N(0, 1). Preference is
    their sum over √K (so that it, too, has weights N(0, 1) there), its negative, or as long a
    vector orthogonal to them."""
    rng = np.random.default_rng([seed, 2])
    basis = np.linalg.qr(rng.standard_normal((INPUTS, 3)))[0]
    mix = rng.standard_normal((2, K))
    attributes = basis[:, :2] @ mix
    total = attributes.sum(axis=1) / np.sqrt(K)
    preference = {
        "aligned": total,
        "opposed": -total,
        "apart": basis[:, 2] * np.linalg.norm(total),
    }[case.relation]
    # A difference of two inputs from N(0, I) has the variance 2.
    deltas = rng.standard_normal((case.pairs, INPUTS)) * np.sqrt(2)
    # Labels as Bradley–Terry has them: no error comes from a wrong model of the noise.
    wins = rng.random(case.pairs) < 1 / (1 + np.exp(-deltas @ preference))
    inputs = rng.standard_normal((case.rated, INPUTS))
    ratings = inputs @ attributes + case.noise * rng.standard_normal((case.rated, K))
    return Problem(
        np.where(wins[:, None], deltas, -deltas), inputs, ratings, preference, attributes
    )


def bradley_terry_alone(deltas: Floats) -> Floats:
    """The maximum-likelihood preference [X], by Newton's method with halved steps."""
    row = np.zeros(deltas.shape[1])
    for _ in range(100):
        wrong = 1 / (1 + np.exp(deltas @ row))  # the modelled probability of the rejected
        gradient = -deltas.T @ wrong
        curvature = (deltas * (wrong * (1 - wrong))[:, None]).T @ deltas
        step = np.linalg.solve(curvature, gradient)
        # A full Newton step can overshoot where the likelihood is nearly flat.
        size = 1.0
        while _loss(deltas, row - size * step) > _loss(deltas, row) and size > 1e-9:
            size /= 2
        row = row - size * step
        if np.abs(gradient).max() < 1e-9 * len(deltas):
            break
    return row


def _loss(deltas: Floats, preference: Floats) -> float:
    return float(np.logaddexp(0.0, -deltas @ preference).mean())


def regression_alone(inputs: Floats, ratings: Floats, rank: int) -> Floats:
    """Least squares [X, K] of at most this rank (reduced-rank regression; Izenman, 1975)."""
    full = np.linalg.lstsq(inputs, ratings, rcond=None)[0]
    _, _, basis = np.linalg.svd(inputs @ full, full_matrices=False)
    leading = basis[:rank]
    return np.asarray(full @ leading.T @ leading)


def minimise(
    problem: Problem, case: Case, start: Floats, *, pairs: bool = True, rated: bool = True
) -> Floats:
    """M [X, 1 + K] at the minimum over Θ and all rows, by L-BFGS from `start`'s balanced factors.

    Args:
        start: [X, 1 + K], e.g. the two heads fitted alone.
        pairs, rated: which of the two losses count."""
    left_vectors, singular, right_vectors = np.linalg.svd(start, full_matrices=False)
    # The square root on both sides: factors of equal norm are where weight decay is least.
    root = np.sqrt(singular[: case.rank])
    # Always the same, so that two fits differ only by what they are fitted to.
    rng = np.random.default_rng(0)
    theta = np.zeros((INPUTS, case.rank))
    heads = np.zeros((case.rank, 1 + K))
    used = min(case.rank, 1 + K)
    theta[:, :used] = left_vectors[:, :used] * root[:used]
    heads[:used] = root[:used, None] * right_vectors[:used]
    # No entry may start at exactly 0: two factors that are both 0 have no gradient.
    theta += 1e-3 * rng.standard_normal(theta.shape)
    heads += 1e-3 * rng.standard_normal(heads.shape)
    factors = [torch.tensor(theta, requires_grad=True), torch.tensor(heads, requires_grad=True)]
    deltas, inputs = torch.from_numpy(problem.deltas), torch.from_numpy(problem.inputs)
    ratings = torch.from_numpy(problem.ratings)
    optimizer = torch.optim.LBFGS(
        factors, max_iter=3000, tolerance_grad=1e-9, tolerance_change=1e-14, history_size=20,
        line_search_fn="strong_wolfe",
    )  # fmt: skip

    def objective() -> torch.Tensor:
        optimizer.zero_grad()
        model = factors[0] @ factors[1]
        loss = case.ridge * (factors[0].square().sum() + factors[1].square().sum())
        if pairs:
            loss = loss + torch.nn.functional.softplus(-(deltas @ model[:, 0])).mean()
        if rated:
            errors = inputs @ model[:, 1:] - ratings
            loss = loss + case.weight * errors.square().sum(dim=1).mean()
        loss.backward()
        return loss

    optimizer.step(objective)
    return np.asarray((factors[0] @ factors[1]).detach().numpy())


@dataclass(frozen=True, slots=True)
class Errors:
    """Mean squared errors to the truth: preference alone and joint, attributes (their mean) alone
    and joint."""

    single: float
    joint_preference: float
    multi: float
    joint_attributes: float


def solve(case: Case, seed: int) -> Errors:
    """Train all three on one draw and measure them."""
    # One draw for all three, so that their differences are paired.
    problem = make_problem(case, seed)
    preference = bradley_terry_alone(problem.deltas)
    attributes = regression_alone(problem.inputs, problem.ratings, case.rank)
    separate = np.column_stack([preference, attributes])
    single, multi, joint = separate, separate, separate
    # Closed forms hold without weight decay, and jointly only where the rank does not bind.
    if case.ridge:
        single = minimise(problem, case, separate, rated=False)
        multi = minimise(problem, case, separate, pairs=False)
    if case.ridge or case.rank <= K:
        joint = minimise(problem, case, separate)
    return Errors(
        _preference_error(single, problem),
        _preference_error(joint, problem),
        _attribute_error(multi, problem),
        _attribute_error(joint, problem),
    )


def _preference_error(model: Floats, problem: Problem) -> float:
    return float(((model[:, 0] - problem.preference) ** 2).sum())


def _attribute_error(model: Floats, problem: Problem) -> float:
    return float(((model[:, 1:] - problem.attributes) ** 2).sum() / K)
