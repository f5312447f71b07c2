r"""What follows for training and use: the weight of the regression term, and a view.

The weight: with mean Bradley–Terry loss plus $\lambda \sum_k mse_k$, the joint likelihood of both
sets has $\lambda_k = n_k / (2 \sigma_k^2 n_S)$ for $n_k$ ratings of noise $\sigma_k$ and $n_S$
pairs. The residual on held-out ratings is the noise plus the model's error, so the weight is
somewhat too low rather than too high.

Shapes: `P` pairs, `R` rated responses, `K` attributes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from smorm.arrays import Clusters, Floats
from smorm.evaluation.fitted_views import outcomes_of
from smorm.evaluation.metrics import Metric, mean_metric, share_metric
from smorm.model.views import PREFERENCE, View
from smorm.scoring.fit_views import fit_learned, held_out, held_out_values
from smorm.theory.intervals import of_means


@dataclass(frozen=True, slots=True)
class Counts:
    """Pairs and rated responses that a run trains on, and the source of the two numbers."""

    pairs: int
    rated: int
    source: str


def weights(residuals: Floats, counts: Counts, prompts: Clusters) -> dict[str, Metric]:
    """Regression weights of maximum likelihood.

    `residuals` are squared errors of held-out ratings on the training scale [R, K], NaN where not
    rated; the share of responses that rate an attribute is assumed as in training.
    Metrics: `sum`, one weight for all attributes under `reduction: sum`; `mean`, the same under
    `reduction: mean` (K times it).
    """
    shares = np.isfinite(residuals).mean(axis=0)
    # n_k / (2 n_S) for each attribute, to be divided by its residual variance.
    factors = counts.rated * shares / (2 * counts.pairs)
    total = of_means(list(residuals.T), prompts, lambda means: (factors / means).sum(axis=1))
    # `reduction: sum` adds K terms where `mean` averages them.
    each = 1.0 / residuals.shape[1]
    single = Metric(total.value * each, total.n, total.low * each, total.high * each)
    return {"sum": single, "mean": total}


@dataclass(frozen=True, slots=True)
class Suggested:
    """The view that the pairs support, and its metrics."""

    view: View
    metrics: dict[str, Metric]
    decided: bool  # whether it clearly beats the default


def suggest_view(
    rows: Floats, prompts: Sequence[str], attributes: Sequence[str], default: View
) -> Suggested:
    """Weights learned on pairs, if on unseen pairs they beat the default view; else the default.

    `rows` [2P, 1 + K] are on the attributes' own scale, preference first, of responses 2i (chosen)
    and 2i + 1 (rejected) of pair i.
    Metrics: `accuracy/learned` (each pair by weights learned without its prompt),
    `accuracy/DEFAULT`, `accuracy/learned − DEFAULT`; and `weight/ROW` of the view suggested.

    Raises:
        DataError: too few prompts, or no row favours the chosen responses.
    """
    names = (PREFERENCE, *attributes)
    data = held_out(rows, names, np.repeat(prompts, 2), paired=True)
    learned = outcomes_of(held_out_values(data, partial(fit_learned, rows=names)))
    before = outcomes_of(data.values(default))
    gain = mean_metric(learned - before, prompts)
    # The default needs no fit, so only a clear gain on unseen prompts replaces it.
    decided, view = bool(gain.low > 0), default
    if decided:
        view = fit_learned(data, data.everything, rows=names)
    metrics = {
        "accuracy/learned": share_metric(learned, prompts),
        f"accuracy/{default.name}": share_metric(before, prompts),
        f"accuracy/learned − {default.name}": gain,
    }
    for row, weight in view.weights.items():
        metrics[f"weight/{row}"] = Metric(weight, len(learned))
    return Suggested(view, metrics, decided)
