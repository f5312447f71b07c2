"""Plain sentences about the comparison on real text: what the intervals show and do not show."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from experiments.reading import FEW_PROMPTS, verdict
from experiments.tasks import TASKS
from experiments.text_pools import LONGEST, SET
from smorm.evaluation.outcomes import Outcomes
from smorm.evaluation.result import Result

Summary = Mapping[str, Any]

ONE_SEED = (
    "One seed only: there is no interval over seeds, and what is said below to hold over prompts "
    "may be this seed's luck. Run the command with more seeds."
)
_SIDES = ("above", "below")
_NAMES = {name: task.title for name, task in TASKS.items()} | {SET: "AlpacaEval"}
_KINDS = {
    "pairs": "Pairs",
    "overall": "Rewards and the overall rating",
    "rated": "Attributes",
    "best-of-n": "Best-of-n",
}


def titles(suite: str) -> str:
    """What a reader is shown for a suite, or for a kind of suites."""
    kind, _, rest = suite.partition("/")
    if not rest:
        return _KINDS[kind]
    place, _, names = rest.partition("-")
    trained, _, measured = names.partition("-to-")
    if place == "ID":
        return f"{_NAMES[trained]} (ID)"
    return f"{_NAMES[measured]}, trained on {_NAMES[trained]} (OOD)"


def reading(summary: Summary, results: Sequence[Result]) -> list[str]:
    """Every sentence."""
    suites = summary["suites"]
    said = [_headline(suites) if len(summary["seeds"]) > 1 else ONE_SEED]
    for suite, found in suites.items():
        kind = suite.partition("/")[0]
        if kind == "pairs":
            said += _pairs(suite, found, summary, results)
        elif kind == "rated":
            said.append(_attributes(suite, found))
        elif kind == "best-of-n":
            said += _best_of_n(suite, found)
    return [*said, *_few(results)]


def _headline(suites: Summary) -> str:
    """How many of all differences to Single hold, on pairs and in best-of-n."""
    gaps = [
        row[name]["difference"]
        for suite, found in suites.items()
        for kind, name in (("pairs", "accuracy"), ("best-of-n", "gain"))
        if suite.startswith(f"{kind}/")
        for label, row in found.items()
        if label != LONGEST and "difference" in row[name]
    ]
    said = [verdict(gap) for gap in gaps]
    above, below = (said.count(f"{side} 0, over prompts and over seeds") for side in _SIDES)
    return (
        f"Of {len(gaps)} differences to Single (accuracy on pairs and gain in best-of-n, all "
        f"rewards and sets), {above} are above 0 over prompts and over seeds, {below} below 0, and "
        "the other ones do not hold over both."
    )


def _pairs(suite: str, found: Summary, summary: Summary, results: Sequence[Result]) -> list[str]:
    title = f"Pairs, {titles(suite)}"
    rows = {label: row["accuracy"] for label, row in found.items()}
    best = max(rows, key=lambda label: rows[label]["value"])
    one = next(r for r in results if r.suite == suite)
    rules = {"the longer response": one.metrics["length_only_accuracy"].value}
    tfidf = summary["baselines"].get(suite.partition("ID-")[2], {}).get("dev")
    if tfidf is not None:
        rules["TF-IDF with length"] = tfidf
    chance = [label for label, row in rows.items() if row["low"] <= 0.5 <= row["high"]]
    said = f"{title}: the most accurate is {best} with {rows[best]['value']:.3f}"
    said += "".join(f"; {rule} reaches {value:.3f}" for rule, value in rules.items()) + "."
    if chance:
        said += f" Not distinguishable from chance over prompts: {', '.join(chance)}."
    return [said, _differences(title, rows)]


def _differences(title: str, rows: Summary) -> str:
    """Which differences to the baseline hold over prompts and over seeds, and which only once."""
    shown: dict[str, list[str]] = {}
    for label, row in rows.items():
        gap = row.get("difference")
        if gap is not None:
            key = verdict(gap).partition(",")[0] if "distinguish" in verdict(gap) else verdict(gap)
            shown.setdefault(key, []).append(f"{label} ({gap['value']:+.3f})")
    parts = [f"{', '.join(labels)}: {said}" for said, labels in shown.items()]
    return f"{title}, difference to Single: {'; '.join(parts)}."


def _attributes(suite: str, found: Summary) -> str:
    gap = found["SMORM-attributes"]["spearman"]["difference"]
    return (
        f"Attributes, {titles(suite)}: SMORM's mean Spearman less Multi's is {gap['value']:+.3f}: "
        f"{verdict(gap)}."
    )


def _best_of_n(suite: str, found: Summary) -> list[str]:
    title = f"Best-of-n, {titles(suite)}"
    rows = {label: row["gain"] for label, row in found.items()}
    rule = rows.get(LONGEST)
    best = max((one for one in rows if one != LONGEST), key=lambda one: rows[one]["value"])
    up = [one for one, row in rows.items() if row["low"] > 0 and one != LONGEST]
    down = [one for one, row in rows.items() if row["high"] < 0 and one != LONGEST]
    said = f"{title}: gold gains most under {best} ({rows[best]['value']:+.3f})"
    said += f"; by taking the longest answer {rule['value']:+.3f}." if rule else "."
    said += f" Above a random answer over prompts: {', '.join(up) or 'none'}"
    said += f"; below it: {', '.join(down) or 'none'}."
    models = {label: row for label, row in rows.items() if label != LONGEST}
    return [said, _differences(title, models)]


def _few(results: Sequence[Result]) -> list[str]:
    """A warning for test sets of few prompts."""
    counts: dict[str, int] = {}
    for one in results:
        if one.suite.startswith("pairs/") and isinstance(one.outcomes, Outcomes):
            measured = one.suite.rpartition("-")[2]
            counts.setdefault(measured, len(set(one.outcomes.clusters)))
    return [
        f"{_NAMES[name]} has only {count} test prompts. A bootstrap over so few clusters is too "
        "narrow, so even an interval that is apart from 0 is weak evidence there."
        for name, count in counts.items()
        if count < FEW_PROMPTS
    ]
