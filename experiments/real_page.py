"""`results/real/README.md`: what was compared, the tables of each task, and what was tried."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from experiments.tables import (
    FEW_PROMPTS,
    difference_cells,
    each_seed,
    highest,
    number,
    over_prompts,
    over_seeds,
    table,
    verdict_of,
)
from experiments.tasks import TASKS

Summary = Mapping[str, Any]

LABELS = ("Single", "Multi", "SMORM-F", "SMORM-L", "SMORM-M")
# Keys of the figures that the data's own READMEs have.
TFIDF, LONGER = "dev", "dev_longer"

HEADER = """\
# Real data: Single, Multi and SMORM from scratch

Written by `python -m experiments.real`; do not edit. `results.json` has every result of every
seed, `summary.json` the numbers below, `scores.jsonl.gz` the score of every item, `report.html`
the same as a page with figures.

**What is compared.** Small Llama decoders from random weights ({parameters:.1f} million
parameters), trained on one CPU core in minutes. Single reads only pairs, Multi only ratings,
SMORM both. With the same seed all three begin with the same weights; all share one tokenizer,
trained on the training texts of both sets; Single and SMORM read the pairs in the same order. F is
the preference row, L the mean of the attribute rows, M the mean of F and L, which are not on a
common scale. Seeds: {seeds}.

**How it is measured.** On `dev`, which was used for no choice: prompts (UKP: debates) that are in
no training file. An item's outcome is averaged over the seeds, then whole prompts are resampled
(bootstrap, 95 %): these intervals cover the sampling of prompts. The variation between seeds shows
in the value of each seed, and for differences in Student's t interval over the seeds, which is wide
with few of them. Differences are paired: same items, same seed.

These models are far smaller than published ones and are not pretrained, so this is a test of the
method where everything can be repeated, not of the published numbers. No method was adapted to look
better: the weight of the regression term is the official code's, and was not tuned. SMORM has read
more data than Single and than Multi: that is the method, but it also means that a difference does
not separate joint training from the added data.
"""

TASK = """\
## {title}

{pairs:,} pairs and {rated:,} rated responses of `dev`, over {prompts} prompts.

{accuracy}

{differences}

{attributes}

{cost}

**Reading it.**

{reading}
"""

TRIED = """\
## What was tried

Every configuration that was tried, one run each (seed {seed}, none of the seeds above), on groups
of prompts (UKP: debates) split off the training file; `dev` was not used. Each method has the same
number of tries. Criterion: {criterion}.

Epochs are of the pairs for Single and SMORM, of the ratings for Multi. Model size, batch size (32),
warm-up, weight decay, scaling of the ratings (z-scores) and one rating per pair were set once for
all methods, and not tuned.

{edges}

{table}
"""


def page(summaries: Mapping[str, Summary], tuning: Summary) -> str:
    """The README, from `summary.json` and `tuning.json`."""
    first = next(iter(summaries.values()))
    header = HEADER.format(
        parameters=first["cost"]["SMORM"]["parameters"] / 1e6,
        seeds=", ".join(map(str, first["seeds"])),
    )
    sections = [_task(TASKS[name].title, summary) for name, summary in summaries.items()]
    return "\n".join([header, *sections, _tried(tuning, list(summaries))])


def _task(title: str, summary: Summary) -> str:
    return TASK.format(
        title=title,
        pairs=summary["pairs"],
        rated=summary["rated"],
        prompts=summary["prompts"],
        accuracy=_accuracy(summary),
        differences=_differences(summary),
        attributes=_attributes(summary),
        cost=_cost(summary),
        reading=_reading(summary),
    )


def _accuracy(summary: Summary) -> str:
    rows = []
    for label in LABELS:
        accuracy = summary["accuracy"][label]
        cells = [number(accuracy["value"]), over_prompts(accuracy), each_seed(accuracy)]
        rows.append([label, *cells, number(summary["length_correlation"][label], "+.2f")])
    longer = summary["length_only"]
    ours = [number(longer["value"]), over_prompts(longer)]
    rows.append(["the longer response (words), ours", *ours, "", ""])
    # The README's figure of the same rule stands beside ours: another count of words would show.
    quoted = {LONGER: "the longer response, README's", TFIDF: "TF-IDF + length, README's"}
    for key, label in quoted.items():
        if key in summary["baseline"]:
            source = "quoted from the data's README, not run here"
            rows.append([label, number(summary["baseline"][key]), "", source, ""])
    headings = ["pairs", "accuracy", "95 % over prompts", "each seed", "Spearman with length"]
    note = "Spearman with length: of score and words within each prompt, a mean over seeds."
    return f"{table(headings, rows)}\n\n{note}"


def _differences(summary: Summary) -> str:
    rows = []
    for name, row in summary["differences"].items():
        rows.append([name, *difference_cells(row), each_seed(row, "+.3f")])
    headings = ["paired difference", "accuracy", "95 % over prompts", "95 % over seeds"]
    return table([*headings, "each seed"], rows)


def _attributes(summary: Summary) -> str:
    rows = []
    for name in summary["spearman"]["Multi"]:
        cells = [name]
        for family, form in (("spearman", ".3f"), ("mse", ".4f")):
            for label in ("Multi", "SMORM"):
                row = summary[family][label][name]
                cells.append(f"{number(row['value'], form)} {over_prompts(row, form)}")
        constant = summary["mse_of_mean"].get(name, {})
        rows.append([*cells, number(constant.get("value"), ".4f")])
    headings = [
        "ratings", "Spearman, Multi", "Spearman, SMORM", "MSE, Multi", "MSE, SMORM",
        "MSE of training's mean",
    ]  # fmt: skip
    gaps = []
    for family, name, form in (("spearman", "Spearman", "+.3f"), ("mse", "MSE", "+.4f")):
        gap = summary[family]["SMORM − Multi"]["mean"]
        gaps.append(
            f"SMORM − Multi, mean {name}: {gap['value']:{form}}, over prompts "
            f"{over_prompts(gap, form)}, over seeds {over_seeds(gap, form)}; each seed "
            f"{each_seed(gap, form)}."
        )
    return "\n\n".join([table(headings, rows), *gaps])


def _cost(summary: Summary) -> str:
    rows = []
    for method, cost in summary["cost"].items():
        passes = [
            _passes(cost["pair_passes"], cost["training_pairs"]),
            _passes(cost["rated_passes"], cost["training_rated"]),
        ]
        sizes = [f"{cost['parameters']:,.0f}", f"{cost['steps']:,.0f}"]
        rows.append(
            [method, *sizes, *passes, f"{cost['tokens']:,.0f}", number(cost["minutes"], ".1f")]
        )
    headings = ["cost", "parameters", "steps", "pairs read", "ratings read", "tokens", "minutes"]
    note = (
        "Tokens are those computed: what conversations of a batch share is computed once. Minutes "
        "are of one core of a shared machine, a mean over seeds, for orientation only."
    )
    return f"{table(headings, rows)}\n\n{note}"


def _passes(read: float, size: float) -> str:
    return f"{read:,.0f} ({read / size:.1f} times {size:,.0f})" if read and size else "–"


def _reading(summary: Summary) -> str:
    """What the intervals show, and which simple rules are not beaten."""
    accuracy = summary["accuracy"]
    best = highest(accuracy)
    blocks = [
        _verdicts(summary),
        f"The most accurate row is {best} with {accuracy[best]['value']:.3f}.",
        _rules(summary),
    ]
    constant = summary["mse_of_mean"]["mean"]["value"]
    labels = ("Multi", "SMORM")
    # A constant needs no model, so that an equal error is no success.
    worse = [label for label in labels if summary["mse"][label]["mean"]["value"] >= constant]
    if worse:
        blocks.append(
            f"Squared error not below that of training's mean rating ({constant:.4f}): "
            f"{', '.join(worse)}."
        )
    if summary["prompts"] < FEW_PROMPTS:
        blocks.append(
            f"There are only {summary['prompts']} prompts here. A bootstrap over so few clusters "
            "is too narrow: an interval that excludes 0 is weak evidence."
        )
    return "\n\n".join(blocks)


def _verdicts(summary: Summary) -> str:
    rows = []
    for name, row in summary["differences"].items():
        points = [f"{100 * row[key]:+.1f}" for key in ("value", "low", "high")]
        rows.append([name, f"{points[0]} [{points[1]}, {points[2]}] points", verdict_of(row).value])
    gap = summary["spearman"]["SMORM − Multi"]["mean"]
    cells = f"{gap['value']:+.3f} {over_prompts(gap, '+.3f')}"
    rows.append(["SMORM − Multi, mean Spearman", cells, verdict_of(gap).value])
    return table(["difference", "value", "it is"], rows)


def _rules(summary: Summary) -> str:
    """Which rows are not above the accuracy of each simple rule."""
    rules = {"the longer response wins": summary["length_only"]["value"]}
    if TFIDF in summary["baseline"]:
        rules["a linear model over TF-IDF and length (the data's README)"] = summary["baseline"][
            TFIDF
        ]
    rows = []
    for rule, value in rules.items():
        # An equal accuracy does not beat the rule.
        below = [label for label, row in summary["accuracy"].items() if row["value"] <= value]
        rows.append([rule, number(value), ", ".join(below) or "none"])
    return table(["simple rule", "accuracy", "rows that do not beat it"], rows)


def _tried(tuning: Summary, tasks: Sequence[str]) -> str:
    rows, edges = [], []
    for task in tasks:
        title = TASKS[task].title
        for method, tries in tuning["tried"][task].items():
            chosen = tuning["chosen"][task][method]
            rows += [_try_row(title, method, row, chosen) for row in tries]
            edges += _edges(f"{title} {method}", tries, chosen)
    headings = ["data", "method", "learning rate", "epochs", "validation accuracy", "criterion"]
    return TRIED.format(
        seed=tuning["seed"],
        criterion=tuning["criterion"],
        edges="The search is small. Choices at the edge of the values that were tried, where a "
        f"wider search might do better: {', '.join(edges) or 'none'}.",
        table=table(headings, rows),
    )


def _try_row(title: str, method: str, row: Summary, chosen: Summary) -> list[str]:
    accuracies = [f"{view} {value:.3f}" for view, value in row["accuracy"].items()]
    criterion = number(row["criterion"])
    if chosen.items() <= row.items():
        criterion += " **chosen**"
    settings = [f"{row['training.learning_rate']:g}", f"{row['training.epochs']:g}"]
    return [title, method, *settings, ", ".join(accuracies), criterion]


def _edges(title: str, tries: Sequence[Summary], chosen: Summary) -> list[str]:
    """The chosen settings that are the lowest or highest of those tried."""
    edges = []
    for key, value in chosen.items():
        # At an edge the best value may lie outside of what was tried.
        values = [row[key] for row in tries]
        if value in (min(values), max(values)):
            name = key.partition(".")[2].replace("_", " ")
            edges.append(f"{title} ({name} {value:g})")
    return edges
