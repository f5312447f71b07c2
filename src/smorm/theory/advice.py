"""Plain advice from the numbers: only what an interval settles is said, the rest is undecided."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from smorm.evaluation.metrics import Metric

Metrics = Mapping[str, Metric]
_QUANTITY = {"mse": "squared error", "accuracy": "accuracy"}
_TRUST = 10
"""Pairs for each dimension below which Sigma_S is told to be poorly known."""


def side(metric: Metric | None) -> int:
    """1 where the interval lies above 0, −1 below, 0 where it holds 0 or there is none."""
    if metric is None or math.isnan(metric.low):
        return 0
    return int(metric.low > 0) - int(metric.high < 0)


def shown(metric: Metric) -> str:
    """`0.31 [0.22, 0.40]`."""
    if math.isnan(metric.low):
        return f"{metric.value:.3g}"
    return f"{metric.value:.3g} [{metric.low:.3g}, {metric.high:.3g}]"


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
    told = []
    for name in attributes:
        alpha = metrics.get(f"alpha/{name}")
        if alpha is None:
            continue
        told.append(
            {
                1: f"{name} goes with preference (alpha {shown(alpha)}).",
                -1: f"{name} conflicts with preference (alpha {shown(alpha)}): chosen responses "
                "have less of it. A mean of attributes that counts it as good works against "
                "preference: give it weight 0 or a negative one in a view.",
                0: f"{name}: undecided (alpha {shown(alpha)} holds 0): more pairs would tell.",
            }[side(alpha)]
        )
    total = metrics.get("alpha_total")
    if total is not None:
        told.append(
            {
                1: f"Theorem 1's assumption holds here: the alphas sum to {shown(total)}.",
                -1: f"Theorem 1's assumption fails here: the alphas sum to {shown(total)}, so the "
                "published c is negative: a higher preference lowers the floor.",
                0: f"Theorem 1's assumption is undecided: the alphas sum to {shown(total)}.",
            }[side(total)]
        )
    return told


def _theorem_one(metrics: Metrics) -> list[str]:
    told = []
    tightness = metrics.get("epsilon/projection/tightness")
    if tightness is not None:
        largest = metrics["epsilon/projection/largest_within_prompt"]
        says = (
            "even the best response's floor lies below that range, so it says nothing"
            if not tightness.value < 1
            else "the guaranteed floor says something for the best responses only"
        )
        told.append(
            f"Theorem 1's epsilon is {tightness.value:.3g} times the range of c·r_s: {says}. The "
            f"largest shortfall seen within a prompt is {largest.value:.3g}."
        )
    size = metrics.get("spectrum/dimensions")
    if "c/formula" in metrics and size is not None and size.n < _TRUST * size.value:
        told.append(
            f"{size.n} pairs for {size.value:.0f} dimensions: Sigma_S is poorly known, and the "
            "published c rests on its inverse. Read c by projection instead."
        )
    return told


def _within_prompt(metrics: Metrics) -> list[str]:
    inside = metrics.get("within_prompt/spearman")
    if inside is None:
        return []
    told = [
        {
            1: f"Within a prompt, preference and mean attribute rank alike ({shown(inside)}).",
            -1: f"Within a prompt, preference and mean attribute rank against each other "
            f"({shown(inside)}).",
            0: f"Within a prompt, whether preference and mean attribute agree is undecided "
            f"({shown(inside)}).",
        }[side(inside)]
    ]
    for name, metric in metrics.items():
        if name.startswith("ood/") and name.endswith("/spearman"):
            place = name.split("/")[1]
            if metric.high < inside.low:
                told.append(
                    f"On {place} they agree less ({shown(metric)}): the relation weakens out of "
                    "distribution. Watch their disagreement under optimisation."
                )
            elif metric.low > inside.high:
                told.append(f"On {place} they agree more ({shown(metric)}).")
            else:
                told.append(f"On {place}: no difference is shown ({shown(metric)}).")
    return told


def _lemma(metrics: Metrics) -> list[str]:
    left, published = (
        metrics.get("lemma/preference_error"),
        metrics.get("lemma/published_per_response"),
    )
    if left is None or published is None:
        return []
    share = metrics["lemma/fails/per_response"]
    return [
        f"Against the gold, preference probabilities are off by {shown(left)}; the sharp bound "
        f"gives {shown(metrics['lemma/sharp'])}, Lemma 1 as published {shown(published)}: "
        f"{100 * share.value:.1f} % of the single pairs exceed it."
    ]


def _gradients(metrics: Metrics) -> list[str]:
    cosine, ratio = metrics.get("gradient/cosine"), metrics.get("gradient/norm_ratio")
    if cosine is None or ratio is None:
        return []
    says = {
        1: "pull the trunk in one direction",
        -1: "pull the trunk apart: try a smaller or a learned weight",
        0: "neither help nor hinder each other for certain",
    }[side(cosine)]
    return [
        f"The two losses {says} (gradient cosine {shown(cosine)}, norm of preference over "
        f"regression {shown(ratio)})."
    ]


def _probes(metrics: Metrics) -> list[str]:
    told = []
    for name, metric in metrics.items():
        if not name.startswith("probe/spearman/"):
            continue
        attribute = name.rpartition("/")[2]
        own = metrics.get(f"probe_minus_rows/spearman/{attribute}")
        if own is None:
            found = "holds" if side(metric) > 0 else "is not shown to hold"
            told.append(
                f"The hidden state {found} {attribute} linearly (probe's rank correlation with "
                f"ratings {shown(metric)})."
            )
        elif side(own) > 0:
            told.append(
                f"The hidden state holds more of {attribute} than its row reads (by "
                f"{shown(own)} of rank correlation): the row could be fitted again."
            )
    return told


def _theorem_two(metrics: Metrics) -> list[str]:
    told = []
    for name, metric in metrics.items():
        if not name.startswith("theorem_2/") or " − " not in name or "over seeds" in name:
            continue
        _, head, quantity, arms = name.split("/", 3)
        seeds = metrics.get(f"{name} over seeds")
        better = side(metric) * (-1 if quantity == "mse" else 1)
        both = side(seeds) == side(metric)
        says = {1: "better", -1: "worse", 0: "not distinguishable"}[better]
        over = ", over prompts and over seeds" if both else ", over prompts but not over seeds"
        told.append(
            f"{arms}, {_QUANTITY[quantity]} of {head}: {says} ({shown(metric)}"
            f"{over if better else ''})."
        )
    return told
