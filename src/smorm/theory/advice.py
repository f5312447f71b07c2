"""What follows from the numbers: sentences, the weight of the regression term, and a view.
The sentences are in `advice.toml`; which of them applies depends on intervals alone: one that holds
0 is reported as undecided. Shapes: `P` pairs, `R` rated responses, `K` attributes."""

import math
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.resources import files
from typing import Any

import numpy as np

from smorm.arrays import Clusters, Floats
from smorm.evaluation.fitted_views import outcomes_of
from smorm.evaluation.metric_names import MetricName
from smorm.evaluation.metrics import Metric, mean_metric, share_metric
from smorm.model.views import PREFERENCE, View
from smorm.scoring.fit_views import fit_learned, held_out, held_out_values
from smorm.theory.intervals import of_means

Metrics = Mapping[str, Metric]
SENTENCES: dict[str, str] = tomllib.loads(
    files("smorm.theory").joinpath("advice.toml").read_text(encoding="utf-8")
)
_QUANTITY = {"mse": "squared error", "accuracy": "accuracy"}
_PAIRS_PER_DIMENSION = 10  # pairs for each dimension below which Sigma_S is called poorly estimated
_WORD = {1: "above", -1: "below", 0: "undecided"}


def sign_of(metric: Metric | None) -> int:
    """1 where the interval lies above 0, −1 below, 0 where it holds 0 or there is none."""
    if metric is None or math.isnan(metric.low):
        return 0
    return int(metric.low > 0) - int(metric.high < 0)


def sentence(key: str, **values: Any) -> str:
    """One of `SENTENCES` with its values; metrics are written with their intervals."""
    return SENTENCES[key].format(**values)


def advise(metrics: Metrics, attributes: Sequence[str]) -> list[str]:
    """Sentences in the order in which a user would act on them."""
    sentences = list(_attributes(metrics, attributes))
    for section in (_theorem_one, _within_prompt, _lemma_and_gradients, _probes, _theorem_two):
        sentences += section(metrics)
    return sentences


def _attributes(metrics: Metrics, attributes: Sequence[str]) -> Iterator[str]:
    for name in attributes:
        alpha = metrics.get(f"alpha/{name}")
        if alpha is not None:
            yield sentence(f"alpha/{_WORD[sign_of(alpha)]}", attribute=name, alpha=alpha)
    total = metrics.get("alpha_total")
    if total is not None:
        yield sentence(f"alpha_total/{_WORD[sign_of(total)]}", total=total)


def _theorem_one(metrics: Metrics) -> Iterator[str]:
    tightness = metrics.get("epsilon/projection/tightness")
    if tightness is not None:
        largest = metrics["epsilon/projection/largest_within_prompt"]
        key = "epsilon/informative" if tightness.value < 1 else "epsilon/vacuous"
        yield sentence(key, tightness=tightness.value, largest=largest.value)
    # The published c inverts Sigma_S, whose error grows with dimensions over pairs.
    size = metrics.get("spectrum/dimensions")
    if "c/formula" in metrics and size is not None and size.n < _PAIRS_PER_DIMENSION * size.value:
        yield sentence("few_pairs", pairs=size.n, dimensions=size.value)


def _within_prompt(metrics: Metrics) -> Iterator[str]:
    inside = metrics.get("within_prompt/spearman")
    if inside is None:
        return
    yield sentence(f"within_prompt/{_WORD[sign_of(inside)]}", correlation=inside)
    for text, metric in metrics.items():
        name = MetricName.parse(text)
        if name.name != "ood" or name.parts[-1] != "spearman":
            continue
        # Overlapping intervals decide nothing, so only disjoint ones count as a change.
        key = "ood/same"
        if metric.high < inside.low:
            key = "ood/less"
        elif metric.low > inside.high:
            key = "ood/more"
        yield sentence(key, set=name.parts[0], correlation=metric)


def _lemma_and_gradients(metrics: Metrics) -> Iterator[str]:
    if "lemma/preference_error" in metrics:
        error, sharp = metrics["lemma/preference_error"], metrics["lemma/sharp"]
        published = metrics["lemma/published_per_response"]
        percent = 100 * metrics["lemma/fails/per_response"].value
        yield sentence("lemma", error=error, sharp=sharp, published=published, percent=percent)
    cosine, ratio = metrics.get("gradient/cosine"), metrics.get("gradient/norm_ratio")
    if cosine is not None:
        yield sentence(f"gradient/{_WORD[sign_of(cosine)]}", cosine=cosine, ratio=ratio)


def _probes(metrics: Metrics) -> Iterator[str]:
    for name, metric in metrics.items():
        if not name.startswith("probe/spearman/"):
            continue
        attribute = name.rpartition("/")[2]
        gain = metrics.get(f"probe_minus_rows/spearman/{attribute}")
        # Without an attribute row there is nothing to compare: the probe itself is reported.
        if gain is None:
            key = "probe/linear" if sign_of(metric) > 0 else "probe/undecided"
            yield sentence(key, attribute=attribute, probe=metric)
        elif sign_of(gain) > 0:
            yield sentence("probe/refit", attribute=attribute, gain=gain)


def _theorem_two(metrics: Metrics) -> Iterator[str]:
    for text, metric in metrics.items():
        name = MetricName.parse(text)
        if name.name != "theorem_2" or name.base is None or name.over is not None:
            continue
        head, quantity, arm = name.parts
        # Less squared error is better, more accuracy is.
        better = sign_of(metric)
        if quantity == "mse":
            better = -better
        key = "theorem_2/" + {1: "better", -1: "worse", 0: "undecided"}[better]
        # Prompts and seeds are two sources of chance; a gain should hold over each of them.
        if better:
            over_seeds = sign_of(metrics.get(f"{text} over seeds")) == sign_of(metric)
            key += ", over prompts and over seeds" if over_seeds else ", over prompts only"
        arms, quantity = f"{arm} − {name.base}", _QUANTITY[quantity]
        yield sentence(key, arms=arms, quantity=quantity, head=head, difference=metric)


@dataclass(frozen=True, slots=True)
class Counts:
    """Pairs and rated responses that a run trains on, and the source of the two numbers."""

    pairs: int
    rated: int
    source: str


def weights(residuals: Floats, counts: Counts, prompts: Clusters) -> dict[str, Metric]:
    r"""Regression weights of maximum likelihood.

    With mean Bradley–Terry loss plus $\lambda \sum_k mse_k$, the joint likelihood of both sets has
    $\lambda_k = n_k / (2 \sigma_k^2 n_S)$ for $n_k$ ratings of noise $\sigma_k$ and $n_S$ pairs.
    The residual on held-out ratings is the noise plus the model's error, so the weight is rather
    too low than too high.

    `residuals` are squared errors of held-out ratings on the training scale [R, K], NaN where not
    rated; the share of responses that rate an attribute is assumed as in training.
    Metrics: `sum`, one weight for all attributes under `reduction: sum`; `mean`, the same under
    `reduction: mean` (K times it)."""
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
        DataError: too few prompts, or no row favours the chosen responses."""
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
