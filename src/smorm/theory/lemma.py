r"""Lemma 1 (preference error is bounded by squared error), against a gold reward.

Published (SMORM, Lemma 1): $E|P(A \succ B) - P^*(A \succ B)| \le \tfrac14 E\sqrt{2\,MSE(r_s)}$.
With $e = r_s - g$ and because the logistic function is ¼-Lipschitz, the left side is at most
$\tfrac14 E|e_A - e_B|$. From there:

- pair sum: $|e_A - e_B| \le \sqrt{2 (e_A^2 + e_B^2)}$: the bound holds if "MSE" is the pair's sum;
- per response, as published: $\sqrt{2 e^2}$ of one response. It fails where the two errors have
  opposite signs, as they do after the best shift of each prompt;
- sharp, by Jensen: $\tfrac14\sqrt{2\,MSE\,(1 - \rho)}$ with $\rho = E[e_A e_B] / MSE$.

Shapes: `P` pairs; columns are chosen, rejected."""

import math

import numpy as np

from smorm.arrays import Clusters, Floats
from smorm.errors import DataError
from smorm.evaluation import metrics
from smorm.evaluation.correlation import centred
from smorm.evaluation.metrics import Metric, mean_metric
from smorm.theory.intervals import of_means

_ROUNDING = 1e-11


def lemma(reward: Floats, gold: Floats, prompts: Clusters) -> dict[str, Metric]:
    """Both sides of the lemma in every reading, from r_s and the gold (in units of its own) [P, 2].

    Metrics: `preference_error` (the left side), `quarter_gap` (¼E|Δe|, never below it),
    `published_pair_sum`, `published_per_response`, `sharp`, `mse` (of e, in squared units of the
    reward), `error_correlation` (rho), and the shares of single pairs where a reading fails:
    `fails/quarter_gap`, `fails/pair_sum` (both must be 0) and `fails/per_response`.

    Raises:
        DataError: shapes differ, a number is not finite, or the gold is constant in every pair."""
    reward = metrics.as_floats("rewards", reward, None, 2)
    gold = metrics.as_floats("gold", gold, len(reward), 2)
    metrics.require_finite("gold", gold)
    margins, gold_margins = reward[:, 0] - reward[:, 1], gold[:, 0] - gold[:, 1]
    size = math.sqrt(float((gold_margins**2).mean()))
    if size == 0.0:
        raise DataError("gold: both responses of every pair have the same gold: nothing to compare")
    # The gold's units are arbitrary, and Bradley–Terry's probabilities depend on the scale: the
    # margins of both get one root mean square.
    scaled = math.sqrt(float((margins**2).mean())) / size * gold
    # A prompt's offset cancels in every comparison, so the best one (of least squares) is granted.
    codes = np.repeat(metrics.cluster_codes(prompts, len(reward))[0], 2)
    errors = centred((reward - scaled).reshape(-1), codes).reshape(-1, 2)
    observed = preference_errors(reward, scaled)
    sides = readings(errors)
    squares, gaps = (errors**2).mean(axis=1), errors[:, 0] - errors[:, 1]
    products = [errors[:, 0] * errors[:, 1], squares]
    measured = {
        "preference_error": mean_metric(observed, prompts),
        "quarter_gap": mean_metric(sides["quarter_gap"], prompts),
        "published_pair_sum": mean_metric(sides["pair_sum"], prompts),
        "published_per_response": mean_metric(sides["per_response"], prompts),
        "sharp": of_means([gaps**2], prompts, lambda m: np.sqrt(m[:, 0]) / 4),
        "mse": mean_metric(squares, prompts),
        "error_correlation": of_means(products, prompts, lambda m: m[:, 0] / m[:, 1]),
    }
    # Rounding may exceed a bound that holds with equality.
    slack = _ROUNDING * max(1.0, float(np.abs(errors).max()))
    for name, side in sides.items():
        exceeds = (observed > side + slack).astype(np.float64)
        measured[f"fails/{name}"] = metrics.share_metric(exceeds, prompts)
    return measured


def preference_errors(reward: Floats, gold: Floats) -> Floats:
    """|P(A ≻ B) − P*(A ≻ B)| of pairs [P], from rewards and gold on one scale [P, 2]."""
    # By logaddexp: no overflow for large margins.
    wins, gold_wins = (
        np.exp(-np.logaddexp(0.0, rewards[:, 1] - rewards[:, 0])) for rewards in (reward, gold)
    )
    return np.asarray(np.abs(wins - gold_wins))


def readings(errors: Floats) -> dict[str, Floats]:
    """Right sides of single pairs [P] from reward − gold [P, 2]: the Lipschitz step, and "MSE" read
    as the pair's sum and as that of each response (mean of the two)."""
    squares = errors**2
    return {
        "quarter_gap": np.abs(errors[:, 0] - errors[:, 1]) / 4,
        "pair_sum": np.sqrt(2 * squares.sum(axis=1)) / 4,
        "per_response": np.sqrt(2 * squares).mean(axis=1) / 4,
    }
