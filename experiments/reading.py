"""Plain sentences about a summary: what the numbers show, and what they do not."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Summary = Mapping[str, Any]
FEW_PROMPTS = 10


def verdict(row: Summary) -> str:
    """What a difference shows: over prompts, over seeds, over both or over neither."""
    if row["low"] is None:
        return "no interval, so nothing is shown"
    prompts = _side(row["low"], row["high"])
    seeds = _side(row["seeds_low"], row["seeds_high"])
    if prompts and prompts == seeds:
        return f"{prompts} 0, over prompts and over seeds"
    if prompts:
        return f"{prompts} 0 over prompts for the mean of these seeds, but not over seeds"
    signs = {(value > 0) - (value < 0) for value in row["seeds"]}
    agree = len(signs) == 1 and signs != {0}
    return "not distinguishable from 0" + (", with the same sign in every seed" if agree else "")


def _side(low: float | None, high: float | None) -> str:
    """Where an interval lies that does not hold 0; nothing where it does or there is none."""
    if low is None or high is None:
        return ""
    return "above" if low > 0 else "below" if high < 0 else ""


def reading(summary: Summary, baseline: Mapping[str, float]) -> list[str]:
    """Sentences for one task."""
    accuracy = summary["accuracy"]
    best = max(accuracy, key=lambda label: accuracy[label]["value"])
    said = [
        f"{name}: {_points(row['value'])} [{_points(row['low'])}, {_points(row['high'])}] points: "
        f"{verdict(row)}."
        for name, row in summary["differences"].items()
    ]
    value = accuracy[best]["value"]
    said.append(f"The most accurate row is {best} with {value:.3f}.")
    said += _against(summary, baseline)
    gap = summary["spearman"]["SMORM − Multi"]["mean"]
    said.append(
        f"On the ratings, SMORM's mean Spearman differs from Multi's by {gap['value']:+.3f} "
        f"[{gap['low']:+.3f}, {gap['high']:+.3f}]: {verdict(gap)}."
    )
    said += _errors(summary)
    if summary["prompts"] < FEW_PROMPTS:
        said.append(
            f"There are only {summary['prompts']} prompts here. A bootstrap over so few clusters "
            "is too narrow, so even an interval that is apart from 0 is weak evidence."
        )
    return said


def _against(summary: Summary, baseline: Mapping[str, float]) -> list[str]:
    """Which rows fail to beat the simple rules; nothing is said of a rule without a figure."""
    rules = {
        "the longer response wins": summary["length_only"]["value"],
        "words and length in a linear model (TF-IDF, the data's README)": baseline.get("dev"),
    }
    said = []
    for rule, figure in rules.items():
        if figure is None:
            continue
        below = [label for label, row in summary["accuracy"].items() if row["value"] <= figure]
        names = f"not beaten by {', '.join(below)}" if below else "beaten by every row"
        said.append(f"The rule “{rule}” reaches {figure:.3f}: {names}.")
    return said


def _errors(summary: Summary) -> list[str]:
    """Methods whose squared error is not below that of a constant."""
    constant = summary["mse_of_mean"]["mean"]["value"]
    worse = [
        label for label in ("Multi", "SMORM") if summary["mse"][label]["mean"]["value"] >= constant
    ]
    if not worse:
        return []
    return [
        f"In squared error {' and '.join(worse)} {'is' if len(worse) == 1 else 'are'} no better "
        f"than predicting training's mean rating ({constant:.4f})."
    ]


def _points(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:+.1f}"
