r"""Theorem 1 (implicit multi-attribute effect): how preference implies the mean attribute.

Published (SMORM, Theorem 1): with $c = 1^\top\alpha / (K \mu_S^\top \Sigma_S^{-1} \mu_S)$, for
every response $r_m \ge c\,r_s - \epsilon$. $\mu_S$ and $\Sigma_S$ are the mean and second moment
of the pairs' differences of hidden states, chosen less rejected. The inequality holds for any two
vectors and any c; docs/diagnose.md has fitting definitions, and what is informative instead.

Shapes: `P` pairs, `N` responses, `D` hidden size, `K` attributes."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from smorm.arrays import Clusters, Floats
from smorm.evaluation.correlation import centred
from smorm.evaluation.metrics import Metric, mean_metric, pair_outcomes, share_metric
from smorm.theory.intervals import of_means, quantile_metric, ratio

RIDGE = 1e-2  # ridge level, in units of the mean eigenvalue of the second moment
_ROUNDING = 1e-9
_SINGULAR = 1e-14  # times D: eigenvalues below this share of the largest are rounding


@dataclass(frozen=True, slots=True)
class Solved:
    """The linearised Bradley–Terry direction and the spectrum of the second moment."""

    # $(\Sigma_S + \rho I)^{-1} \mu_S$ [D]; of the pseudo-inverse where ridge is 0
    direction: Floats
    eigenvalues: Floats  # of the second moment, the largest first [min(P, D)]
    dimensions: int  # D; eigenvalues that are not listed are 0
    ridge: float  # rho, in squared units of the hidden state

    @property
    def effective_rank(self) -> float:
        """exp of the entropy of the normalised eigenvalues (Roy and Vetterli, 2007)."""
        shares = self.eigenvalues / self.eigenvalues.sum()
        shares = shares[shares > 0]
        return float(np.exp(-(shares * np.log(shares)).sum()))

    @property
    def rank(self) -> int:
        """Eigenvalues above rounding."""
        return int((self.eigenvalues > self.eigenvalues[0] * self.dimensions * _SINGULAR).sum())

    def condition(self, ridge: float = 0.0) -> float:
        """Largest eigenvalue over the smallest, each plus `ridge`; infinite where singular."""
        # Eigenvalues at rounding are 0: their ratio would only be noise.
        smallest = ridge
        if self.rank == self.dimensions:
            smallest += self.eigenvalues[-1]
        if smallest <= 0:
            return math.inf
        return float((self.eigenvalues[0] + ridge) / smallest)


def solve(deltas: Floats, *relative_ridges: float) -> list[Solved]:
    """The minimiser of the quadratic approximation of Bradley–Terry's loss at 0 (up to a factor of
    2) over differences [P, D], not all zero, for each ridge level in units of the mean eigenvalue;
    0 takes the pseudo-inverse."""
    count, dimensions = deltas.shape
    # The second moment, not the covariance: its range has the mean, so a pseudo-inverse is enough.
    # By the SVD of the differences: the moment itself would square the condition number.
    _, singular, basis = np.linalg.svd(deltas / math.sqrt(count), full_matrices=False)
    eigenvalues = singular**2
    coordinates = basis @ deltas.mean(axis=0)
    # Directions without any difference are left out, also under a ridge.
    used = eigenvalues > eigenvalues[0] * dimensions * _SINGULAR
    solutions = []
    for relative in relative_ridges:
        ridge = relative * float(eigenvalues.sum()) / dimensions
        inverse = np.where(used, 1.0, 0.0) / np.where(used, eigenvalues + ridge, 1.0)
        direction = basis.T @ (inverse * coordinates)
        solutions.append(Solved(direction, eigenvalues, dimensions, ridge))
    return solutions


def alphas(margins: Floats, names: Sequence[str], prompts: Clusters) -> dict[str, Metric]:
    """The coupling of each attribute with preference, from attribute margins [P, K].

    Metrics: `alpha/NAME`, the mean margin of the attribute between chosen and rejected (on the
    margins' scale); `alpha_accuracy/NAME`, the share of pairs whose chosen response has more of it
    (ties count half); `alpha_total`, their sum, which Theorem 1 assumes to be at least 0."""
    metrics = {}
    for name, column in zip(names, margins.T, strict=True):
        metrics[f"alpha/{name}"] = mean_metric(column, prompts)
        # A share needs no scale, so it compares attributes in different units.
        outcomes, _ = pair_outcomes(column, np.zeros_like(column))
        metrics[f"alpha_accuracy/{name}"] = share_metric(outcomes, prompts)
    metrics["alpha_total"] = mean_metric(margins.sum(axis=1), prompts)
    return metrics


@dataclass(frozen=True, slots=True)
class PairMargins:
    """Margins of pairs [P] along the three directions: preference, mean attribute, linearised."""

    preference: Floats
    mean_attribute: Floats
    linearised: Floats
    solved: Solved

    def separability(self, means: Floats) -> Floats:
        """q [R] from means [R, 2] of the linearised margins and their squares."""
        penalty = self.solved.ridge * float(self.solved.direction @ self.solved.direction)
        return np.asarray(2 * means[:, 0] - means[:, 1] - penalty)


def strength(pairs: PairMargins, prompts: Clusters) -> dict[str, Metric]:
    r"""Separability by a linear preference: $q = \mu^\top(\Sigma + \rho I)^{-1}\mu$, in 0..1, and
    the correlation of the preference row's margins with the linearised direction's.

    q resampled is $2 v^\top\mu - v^\top(\Sigma + \rho I) v$ at the direction v of all pairs, of
    which q is the maximum over v: correct to first order."""
    s, z = pairs.preference, pairs.linearised
    products = [s * z, s * s, z * z]
    like = of_means(products, prompts, lambda m: m[:, 0] / np.sqrt(m[:, 1] * m[:, 2]))
    separability = of_means([z, z * z], prompts, pairs.separability)
    return {"mu_sigma_mu": separability, "like_linearised": like}


def formula(pairs: PairMargins, prompts: Clusters) -> Metric:
    """c as published: mean attribute margin over q."""
    m, z = pairs.mean_attribute, pairs.linearised
    return of_means([m, z, z * z], prompts, lambda t: t[:, 0] / pairs.separability(t[:, 1:]))


def projection(pairs: PairMargins, prompts: Clusters) -> Metric:
    """c as the projection of the mean attribute row on the preference row in Sigma_S."""
    s, m = pairs.preference, pairs.mean_attribute
    return ratio(m * s, s * s, prompts)


def regression(preference: Floats, mean_attribute: Floats, prompts: Clusters) -> Metric:
    """c as the slope of mean attribute on preference over responses [N], both centred within their
    prompt. With one pair a prompt and nothing else it is the projection."""
    s, m = centred(preference, prompts), centred(mean_attribute, prompts)
    return ratio(m * s, s * s, prompts)


@dataclass(frozen=True, slots=True)
class Responses:
    """Hidden states [N, D] of responses, the two rows [D], and each response's prompt [N]."""

    hidden: Floats
    preference_row: Floats
    mean_row: Floats
    prompts: Clusters

    @property
    def preference(self) -> Floats:
        """r_s without any offset [N]."""
        return np.asarray(self.hidden @ self.preference_row)

    @property
    def mean_attribute(self) -> Floats:
        """r_m without any offset [N]."""
        return np.asarray(self.hidden @ self.mean_row)


def bound(responses: Responses, c: Metric, deltas: Floats, pairs: Clusters) -> dict[str, Metric]:
    """How informative the inequality is with one c, over all responses.

    `deltas` are the pairs' differences of hidden states [P, D] and `pairs` their prompts [P]. The
    interval of c gives that of the Cauchy–Schwarz epsilon, at the same B.
    Metrics: `cauchy_schwarz`, the epsilon of the proof; `largest`, the largest observed shortfall
    (c r_s − r_m)₊; `q95`, what 95 % of the responses do not exceed; `largest_within_prompt`, the
    largest when both rewards are centred within their prompt; `tightness`, Cauchy–Schwarz over the
    range of c r_s (above 1 the floor lies below every response); `violations`, the number of
    responses below the proof's floor, which must be 0; `order_guaranteed`, the share of pairs whose
    order by r_m follows from the bound. A largest value has no bootstrap interval."""
    r_s, r_m = responses.preference, responses.mean_attribute
    residual_row = responses.mean_row - c.value * responses.preference_row
    max_norm = float(np.linalg.norm(responses.hidden, axis=1).max())
    residual_norm = float(np.linalg.norm(residual_row))
    epsilon = max_norm * residual_norm
    shortfall = np.maximum(c.value * r_s - r_m, 0.0)
    centred_shortfall = centred(c.value * r_s - r_m, responses.prompts)
    low, high = _epsilon_interval(responses, c, max_norm)
    score_range = abs(c.value) * float(np.ptp(r_s))
    # All scores equal: any floor lies below the range.
    tightness = epsilon / score_range if score_range else math.inf
    # Rounding of sums over D terms must not count as a violation.
    slack = _ROUNDING * max(1.0, epsilon, float(np.abs(r_m).max()))
    # r_m(a) - r_m(b) >= c (r_s(a) - r_s(b)) - |residual| |f(a) - f(b)|, so a larger gap decides.
    gaps = c.value * (deltas @ responses.preference_row)
    guaranteed = gaps > residual_norm * np.linalg.norm(deltas, axis=1)
    count = len(r_s)
    return {
        "cauchy_schwarz": Metric(epsilon, count, low, high),
        "largest": Metric(float(shortfall.max()), count),
        "q95": quantile_metric(shortfall, 0.95, responses.prompts),
        "largest_within_prompt": Metric(max(0.0, float(centred_shortfall.max())), count),
        "tightness": Metric(tightness, count),
        "violations": Metric(float((shortfall > epsilon + slack).sum()), count),
        "order_guaranteed": share_metric(guaranteed.astype(np.float64), pairs),
    }


def _epsilon_interval(responses: Responses, c: Metric, max_norm: float) -> tuple[float, float]:
    """Epsilon over the interval of c: convex in c, so its least value may lie inside."""
    if not (math.isfinite(c.low) and math.isfinite(c.high)):
        return math.nan, math.nan
    w, m = responses.preference_row, responses.mean_row
    minimiser = c.value
    if w.any():
        minimiser = float(w @ m) / float(w @ w)
    # A convex function has its extremes at the ends and at the minimiser inside.
    constants = np.array([c.low, c.high, min(max(minimiser, c.low), c.high), c.value])
    sizes = max_norm * np.linalg.norm(m - constants[:, None] * w, axis=1)
    return float(sizes.min()), float(sizes.max())
