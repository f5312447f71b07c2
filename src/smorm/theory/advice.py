"""Advice from the numbers: an interval that holds 0 is reported as undecided.

The sentences are in `advice.toml`; which of them applies depends on intervals alone.
"""

from __future__ import annotations

import math
import tomllib
from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import Any

from smorm.evaluation.metric_names import MetricName
from smorm.evaluation.metrics import Metric

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
    return [
        *_attributes(metrics, attributes),
        *_theorem_one(metrics),
        *_within_prompt(metrics),
        *_lemma(metrics),
        *_gradients(metrics),
        *_probes(metrics),
        *_theorem_two(metrics),
    ]


def _attributes(metrics: Metrics, attributes: Sequence[str]) -> list[str]:
    sentences = []
    for name in attributes:
        alpha = metrics.get(f"alpha/{name}")
        if alpha is not None:
            key = f"alpha/{_WORD[sign_of(alpha)]}"
            sentences.append(sentence(key, attribute=name, alpha=alpha))
    total = metrics.get("alpha_total")
    if total is not None:
        sentences.append(sentence(f"alpha_total/{_WORD[sign_of(total)]}", total=total))
    return sentences


def _theorem_one(metrics: Metrics) -> list[str]:
    sentences = []
    tightness = metrics.get("epsilon/projection/tightness")
    if tightness is not None:
        largest = metrics["epsilon/projection/largest_within_prompt"]
        key = "epsilon/informative" if tightness.value < 1 else "epsilon/vacuous"
        sentences.append(sentence(key, tightness=tightness.value, largest=largest.value))
    # The published c inverts Sigma_S, whose error grows with dimensions over pairs.
    size = metrics.get("spectrum/dimensions")
    if "c/formula" in metrics and size is not None and size.n < _PAIRS_PER_DIMENSION * size.value:
        sentences.append(sentence("few_pairs", pairs=size.n, dimensions=size.value))
    return sentences


def _within_prompt(metrics: Metrics) -> list[str]:
    inside = metrics.get("within_prompt/spearman")
    if inside is None:
        return []
    key = f"within_prompt/{_WORD[sign_of(inside)]}"
    sentences = [sentence(key, correlation=inside)]
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
        sentences.append(sentence(key, set=name.parts[0], correlation=metric))
    return sentences


def _lemma(metrics: Metrics) -> list[str]:
    if "lemma/preference_error" not in metrics:
        return []
    return [
        sentence(
            "lemma",
            error=metrics["lemma/preference_error"],
            sharp=metrics["lemma/sharp"],
            published=metrics["lemma/published_per_response"],
            percent=100 * metrics["lemma/fails/per_response"].value,
        )
    ]


def _gradients(metrics: Metrics) -> list[str]:
    cosine, ratio = metrics.get("gradient/cosine"), metrics.get("gradient/norm_ratio")
    if cosine is None:
        return []
    return [sentence(f"gradient/{_WORD[sign_of(cosine)]}", cosine=cosine, ratio=ratio)]


def _probes(metrics: Metrics) -> list[str]:
    sentences = []
    for name, metric in metrics.items():
        if not name.startswith("probe/spearman/"):
            continue
        attribute = name.rpartition("/")[2]
        gain = metrics.get(f"probe_minus_rows/spearman/{attribute}")
        # Without an attribute row there is nothing to compare: the probe itself is reported.
        if gain is None:
            key = "probe/linear" if sign_of(metric) > 0 else "probe/undecided"
            sentences.append(sentence(key, attribute=attribute, probe=metric))
        elif sign_of(gain) > 0:
            sentences.append(sentence("probe/refit", attribute=attribute, gain=gain))
    return sentences


def _theorem_two(metrics: Metrics) -> list[str]:
    sentences = []
    for text, metric in metrics.items():
        name = MetricName.parse(text)
        if name.name != "theorem_2" or name.base is None or name.over is not None:
            continue
        head, quantity, arm = name.parts
        seeds = metrics.get(f"{text} over seeds")
        # Less squared error is better, more accuracy is.
        better = sign_of(metric)
        if quantity == "mse":
            better = -better
        verdict = {1: "better", -1: "worse", 0: "undecided"}[better]
        # Prompts and seeds are two sources of chance; a gain should hold over each of them.
        if better:
            both = sign_of(seeds) == sign_of(metric)
            verdict += ", over prompts and over seeds" if both else ", over prompts only"
        sentences.append(
            sentence(
                f"theorem_2/{verdict}",
                arms=f"{arm} − {name.base}",
                quantity=_QUANTITY[quantity],
                head=head,
                difference=metric,
            )
        )
    return sentences
