"""The page of a study in the lab, made of its numbers.

python -m experiments.lab.account results/lab/numbers.csv --output results/lab/README.md"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import yaml

from experiments.lab.claims import claim_counts, claim_sections
from experiments.lab.numbers import Numbers, gold_at
from experiments.tables import DASH, excludes_zero, plus_minus, table
from smorm.evaluation.metric_names import MetricName
from smorm.files import write_text

PAGE = """\
# The lab: all methods, in and out of distribution

`make lab` made this page: `smorm lab experiments/lab/grid.yaml`, then `python -m \
experiments.lab.account`. {seeds} seeds, each with its own data ({pairs} pairs, {rated} rated \
answers), prompts and order; best-of-n picks from {answers} answers to {prompts} prompts a regime \
by the unbiased estimator. `±` is half a 95 % interval, Student's t over seeds; **bold** \
differences exclude 0. Epochs were chosen on development pairs of other seeds \
(`experiments/lab/tuning.yaml`, [tuning](tuning/README.md)). With this many comparisons a few of \
the bold ones are expected by chance. All numbers: `numbers.csv`.

## In short

The paper's four claims, here:

{claim_counts}

Over-optimisation: from best-of-{few} to best-of-{many} mean gold falls in {lower} of {cases} \
cases (a reward in a regime), in {decided} by more than its interval.

![Gold and proxy against KL](figures/best-of-n-gold-and-proxy-by-kl.png)

One knob at a time (weight, ratings, noise, style, epochs): [sweeps](sweeps/README.md). The search \
for a better one-pass model: [search](search/README.md). Policies optimised by PPO and GRPO: \
[rl](rl/README.md).

## All methods

{methods}

## The paper's four claims

A claim holds where the interval of its difference lies on the claimed side of 0, is contradicted \
where it lies on the other, and is undecided otherwise; `F is about M` holds where the whole \
interval lies within ±0.01 of gold or accuracy. Differences are paired by seed.

{claims}

## Everything against Single

{against_single}

## Everything against SM, the naive ensemble of two passes

{against_ensemble}

## Does the disagreement of the two heads detect their exploitation?

Area under the ROC with which the standardised disagreement of the preference row and the mean \
attribute separates picks that are worse than a random answer (truly over-optimised) from others. \
0.5 is no detection.

{detection}

## Cost

{costs}
"""
COSTS = ("passes_per_score", "parameters", "training_passes", "training_tokens")


def account(path: Path) -> str:
    """Markdown: the setting, all methods, the four claims, rivals and controls, cost."""
    numbers = Numbers.read(path)
    config = yaml.safe_load((path.parent / "config.yaml").read_text(encoding="utf-8"))
    regimes = config["regimes"]
    # Both sizes are fixed beforehand: a fall from the best size would be found in noise too.
    few, many = numbers.sizes[-3], numbers.sizes[-1]
    changes = []
    for regime in regimes:
        suite = f"best-of-n/{regime}"
        golds = (gold_at(few), gold_at(many))
        changes += [numbers.change(suite, label, *golds) for label in numbers.labels(suite)]
    falls = [change for change in changes if change.value < 0]
    return PAGE.format(
        seeds=numbers.seeds,
        pairs=config["data"]["pairs"],
        rated=config["data"]["rated"],
        answers=config["pools"]["answers"],
        prompts=config["pools"]["prompts"],
        claim_counts=claim_counts(numbers, regimes),
        few=few,
        many=many,
        lower=len(falls),
        cases=len(changes),
        decided=sum(map(excludes_zero, falls)),
        methods="\n\n".join(_methods(numbers, regime) for regime in regimes),
        claims=claim_sections(numbers, regimes),
        against_single=_against(numbers, regimes, "Single"),
        against_ensemble=_against(numbers, regimes, "SM"),
        detection=_detection(numbers, regimes),
        costs=_costs(numbers),
    )


def _methods(numbers: Numbers, regime: str) -> str:
    sizes = numbers.sizes
    golds = [gold_at(size) for size in (sizes[0], sizes[4], sizes[-3], sizes[-1])]
    suite = f"best-of-n/{regime}"
    rows = []
    for label in numbers.labels(suite):
        cells = [label, plus_minus(numbers.mean(f"pairs/{regime}", label, "accuracy"))]
        cells += [plus_minus(numbers.mean(suite, label, name)) for name in (*golds, "fall")]
        cells.append(plus_minus(numbers.mean(suite, label, "slope/length"), digits=2))
        rows.append(cells)
    return f"### {regime}\n\n{table(['method', 'accuracy', *golds, 'fall', 'length slope'], rows)}"


def _against(numbers: Numbers, regimes: Sequence[str], base: str) -> str:
    headings = ["method"]
    for regime in regimes:
        headings += [f"{regime}: accuracy", numbers.middle_gold, numbers.largest_gold]
    rows = []
    for label in numbers.labels(f"best-of-n/{regimes[0]}"):
        if label != base:
            cells = [label]
            for regime in regimes:
                for suite, metric in numbers.comparisons(regime):
                    gain = numbers.gain(suite, label, base, metric)
                    cells.append(plus_minus(gain, signed=True))
            rows.append(cells)
    return table(headings, rows)


def _detection(numbers: Numbers, regimes: Sequence[str]) -> str:
    """The area under the ROC of the heads' disagreement, at a few sizes."""
    # Not of one answer, which no reward picks.
    sizes = numbers.sizes[2::2]
    rows = []
    for regime in regimes:
        suite = f"best-of-n/{regime}"
        for label in numbers.labels(suite):
            means = []
            for size in sizes:
                name = str(MetricName("disagreement_auc", size))
                means.append(numbers.mean(suite, label, name))
            # Only rewards of two heads have a disagreement.
            if any(means):
                rows.append([regime, label, *map(plus_minus, means)])
    return table(["prompts", "picks of", *(f"n = {size}" for size in sizes)], rows)


def _costs(numbers: Numbers) -> str:
    rows = []
    for label in numbers.labels("cost"):
        cells = [label]
        for name in COSTS:
            mean = numbers.mean("cost", label, name)
            cells.append(DASH if mean is None else f"{mean.value:,.0f}")
        rows.append(cells)
    return table(["method", *(name.replace("_", " ") for name in COSTS)], rows)


def main() -> None:
    """Write the page."""
    parser = argparse.ArgumentParser(prog="python -m experiments.lab.account")
    parser.add_argument("numbers", type=Path)
    parser.add_argument("--output", type=Path, required=True)
    options = parser.parse_args()
    write_text(options.output, account(options.numbers))
    print(f"written: {options.output}")


if __name__ == "__main__":
    main()
