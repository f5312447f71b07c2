"""`results/real/README.md`: the table, how it was made, what was tried, and how to read it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from experiments.reading import reading
from experiments.tasks import TASKS

Summary = Mapping[str, Any]

LABELS = ("Single", "Multi", "SMORM-F", "SMORM-L", "SMORM-M")

HEADER = """\
# Real data: Single, Multi and SMORM from scratch

Written by `python -m experiments.real`; do not edit. `results.json` has every result of every
seed, `summary.json` the numbers below, `scores.jsonl.gz` the score of every item, `report.html`
the same as a page with figures.

**What is compared.** Small Llama decoders from random weights ({parameters:.1f} million
parameters), trained on one CPU core in minutes. Single reads pairs alone, Multi ratings alone,
SMORM both. With the same seed all three begin with the same weights; all share one tokenizer,
trained on the training texts of both sets; Single and SMORM read the pairs in the same order. F is
the preference row, L the mean of the attribute rows, M the mean of F and L, which are not on a
common scale. Seeds: {seeds}.

**How it is measured.** On `dev`, by which nothing was chosen: prompts (UKP: debates) that are in
no training file. An item's outcome is averaged over the seeds, then whole prompts are resampled
(bootstrap, 95 %): these intervals are about which prompts were sampled. What another seed would do
is seen in the seeds' own values beside them, and for differences in Student's t interval over the
seeds, which is wide with few of them. Differences are paired: same items, same seed.

These models are far smaller than published ones and know no language beforehand, so this is a
test of the method where everything can be repeated, not of the published numbers. Nothing about a
method was adapted to make it look well: the weight of the regression term is the official code's,
and was not tuned. SMORM has read more data than Single and than Multi: that is the method, but it
also means that a difference does not tell the joint training from the added data.
"""


def readme(
    summaries: Mapping[str, Summary],
    baselines: Mapping[str, Mapping[str, float]],
    tuning: Summary,
) -> str:
    """The whole text."""
    first = next(iter(summaries.values()))
    parts = [
        HEADER.format(
            parameters=first["cost"]["SMORM"]["parameters"] / 1e6,
            seeds=", ".join(map(str, first["seeds"])),
        )
    ]
    for name, summary in summaries.items():
        parts.append(_task(name, summary, baselines[name]))
    return "\n".join([*parts, _tuning(tuning, list(summaries))])


def _task(name: str, summary: Summary, baseline: Mapping[str, float]) -> str:
    said = "\n".join(f"- {sentence}" for sentence in reading(summary, baseline))
    return f"""\
## {TASKS[name].title}

{summary["pairs"]:,} pairs and {summary["rated"]:,} rated responses of `dev`, over \
{summary["prompts"]} prompts.

{_accuracy(summary, baseline)}

{_differences(summary)}

{_attributes(summary)}

{_cost(summary)}

**Reading it.**

{said}
"""


def table(heading: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [heading, ["---"] * len(heading), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _accuracy(summary: Summary, baseline: Mapping[str, float]) -> str:
    found = summary["accuracy"]
    rows = [
        [
            label,
            f"{found[label]['value']:.3f}",
            span(found[label]),
            each(found[label]),
            f"{summary['length_correlation'][label]:+.2f}",
        ]
        for label in LABELS
    ]
    longer = summary["length_only"]
    rows.append(
        ["the longer response (words), ours", f"{longer['value']:.3f}", span(longer), "", ""]
    )
    quoted = {"dev_longer": "the longer response, README's", "dev": "TF-IDF + length, README's"}
    rows += [
        [label, f"{baseline[key]:.3f}", "", "quoted from the data's README, not run here", ""]
        for key, label in quoted.items()
        if key in baseline
    ]
    heading = ["pairs", "accuracy", "95 % over prompts", "each seed", "Spearman with length"]
    note = "Spearman with length: of score and words within each prompt, a mean over seeds."
    return table(heading, rows) + "\n\n" + note


def _differences(summary: Summary) -> str:
    rows = [
        [
            name,
            f"{row['value']:+.3f}",
            span(row, "+.3f"),
            over_seeds(row, "+.3f"),
            each(row, "+.3f"),
        ]
        for name, row in summary["differences"].items()
    ]
    heading = ["paired difference", "accuracy", "95 % over prompts", "95 % over seeds", "each seed"]
    return table(heading, rows)


def _attributes(summary: Summary) -> str:
    names = list(summary["spearman"]["Multi"])
    rows = []
    for name in names:
        cells = [name]
        for family, form in (("spearman", ".3f"), ("mse", ".4f")):
            for label in ("Multi", "SMORM"):
                row = summary[family][label][name]
                cells.append(f"{_number(row['value'], form)} {span(row, form)}")
        cells.append(_number(summary["mse_of_mean"].get(name, {}).get("value"), ".4f"))
        rows.append(cells)
    heading = [
        "ratings", "Spearman, Multi", "Spearman, SMORM", "MSE, Multi", "MSE, SMORM",
        "MSE of training's mean",
    ]  # fmt: skip
    gaps = [
        f"SMORM − Multi, mean {label}: {row['value']:{form}}, over prompts {span(row, form)}, "
        f"over seeds {over_seeds(row, form)}; each seed {each(row, form)}."
        for family, label, form in (("spearman", "Spearman", "+.3f"), ("mse", "MSE", "+.4f"))
        for row in [summary[family]["SMORM − Multi"]["mean"]]
    ]
    return table(heading, rows) + "\n\n" + "\n\n".join(gaps)


def _cost(summary: Summary) -> str:
    heading = ["cost", "parameters", "steps", "pairs read", "ratings read", "tokens", "minutes"]
    rows = []
    for method, cost in summary["cost"].items():
        pairs = _passes(cost["pair_passes"], cost["training_pairs"])
        rated = _passes(cost["rated_passes"], cost["training_rated"])
        rows.append(
            [
                method,
                f"{cost['parameters']:,.0f}",
                f"{cost['steps']:,.0f}",
                pairs,
                rated,
                f"{cost['tokens']:,.0f}",
                f"{cost['minutes']:.1f}",
            ]
        )
    note = (
        "Tokens are those computed: what conversations of a batch share is computed once. Minutes "
        "are of one core of a shared machine, a mean over seeds, for orientation only."
    )
    return table(heading, rows) + "\n\n" + note


def _passes(read: float, size: float) -> str:
    return f"{read:,.0f} ({read / size:.1f} times {size:,.0f})" if read and size else "–"


def _tuning(tuning: Summary, tasks: Sequence[str]) -> str:
    rows = []
    for task in tasks:
        for method, tries in tuning["tried"][task].items():
            chosen = tuning["chosen"][task][method]
            for one in tries:
                is_chosen = all(one[key] == value for key, value in chosen.items())
                accuracy = ", ".join(f"{v} {a:.3f}" for v, a in one["accuracy"].items())
                rows.append(
                    [
                        TASKS[task].title,
                        method,
                        f"{one['training.learning_rate']:g}",
                        f"{one['training.epochs']:g}",
                        accuracy,
                        f"{one['criterion']:.3f}" + (" **chosen**" if is_chosen else ""),
                    ]
                )
    edges = _at_the_edge(tuning, tasks)
    heading = ["data", "method", "learning rate", "epochs", "validation accuracy", "criterion"]
    return f"""\
## What was tried

Every configuration that was tried, one run each (seed {tuning["seed"]}, none of the seeds above),
on groups of prompts (UKP: debates) split off the training file; `dev` had no part in it. As many
tries for each method. Criterion: {tuning["criterion"]}.

Epochs are of the pairs for Single and
SMORM, of the ratings for Multi. Model size, batch size (32), warm-up, weight decay, scaling of the
ratings (z-scores) and one rating per pair were set once for all methods, and not tuned.

{edges}

{table(heading, rows)}
"""


def _at_the_edge(tuning: Summary, tasks: Sequence[str]) -> str:
    """Which choices are at the end of what was tried, where a wider search might do better."""
    found = []
    for task in tasks:
        for method, tries in tuning["tried"][task].items():
            for key, value in tuning["chosen"][task][method].items():
                values = [one[key] for one in tries]
                if value in (min(values), max(values)):
                    name = key.partition(".")[2].replace("_", " ")
                    found.append(f"{TASKS[task].title} {method} ({name} {value:g})")
    if not found:
        return "No choice is at the edge of what was tried."
    return (
        "The search is small. At the edge of what was tried, so that a wider one might do better: "
        f"{', '.join(found)}."
    )


def span(row: Summary, form: str = ".3f") -> str:
    """`[0.712, 0.769]`, or nothing where there is no interval."""
    if row.get("low") is None:
        return ""
    return f"[{row['low']:{form}}, {row['high']:{form}}]"


def over_seeds(row: Summary, form: str) -> str:
    """The interval over seeds."""
    return span({"low": row["seeds_low"], "high": row["seeds_high"]}, form)


def each(row: Summary, form: str = ".3f") -> str:
    """The seeds' own values."""
    return ", ".join(_number(value, form) for value in row["seeds"])


def _number(value: float | None, form: str) -> str:
    return "–" if value is None else f"{value:{form}}"
