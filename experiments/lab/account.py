"""The written account of a study in the lab, made of its numbers.

python -m experiments.lab.account results/lab/numbers.csv --output results/lab/README.md
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import yaml

from experiments.lab.claims import account_of_claims, in_short, largest, middle, sizes
from experiments.lab.numbers import Numbers, holds, shown, table
from smorm.files import write_text

COMMAND = "make lab"


def account(path: Path) -> str:
    """Markdown: what was run, all methods, the four claims, rivals and controls, cost."""
    numbers = Numbers.read(path)
    config = yaml.safe_load((path.parent / "config.yaml").read_text(encoding="utf-8"))
    regimes = config["regimes"]
    parts = [
        "# The lab: all methods, in and out of distribution",
        _what(config, numbers),
        "## In short",
        "The paper's four claims, here:\n\n" + in_short(numbers, regimes),
        _falls(numbers, regimes),
        "![Gold and proxy against KL](figures/best-of-n-gold-and-proxy-by-kl.png)",
        "One knob at a time (weight, ratings, noise, style, epochs): [sweeps](sweeps/README.md). "
        "The search for a better one-pass model: [search](search/README.md). Policies optimised by "
        "PPO and GRPO: [rl](rl/README.md).",
        "## All methods",
        *(_methods(numbers, regime) for regime in regimes),
        "## The paper's four claims",
        "A claim holds where the interval of its difference lies on the claimed side of 0, is "
        "contradicted where it lies on the other, and is undecided otherwise; `F is about M` holds "
        "where the whole interval lies within ±0.01 of gold or accuracy. Differences are paired by "
        "seed.",
        account_of_claims(numbers, regimes),
        "## Everything against Single",
        _against(numbers, regimes, "Single"),
        "## Everything against SM, the naive ensemble of two passes",
        _against(numbers, regimes, "SM"),
        "## Do the two heads tell when they are exploited?",
        _detection(numbers, regimes),
        "## Cost",
        _costs(numbers),
    ]
    return "\n\n".join(parts) + "\n"


def _what(config: dict[str, object], numbers: Numbers) -> str:
    data, pools = config["data"], config["pools"]
    assert isinstance(data, dict)
    assert isinstance(pools, dict)
    return (
        f"`{COMMAND}` made this page: `smorm lab experiments/lab/grid.yaml`, then `python -m "
        f"experiments.lab.account`. {numbers.seeds} seeds, each with its own data "
        f"({data['pairs']} pairs, {data['rated']} rated answers), prompts and order; "
        f"best-of-n picks from {pools['answers']} answers to {pools['prompts']} prompts a regime "
        "by the unbiased estimator. `±` is half a 95 % interval, Student's t over seeds; **bold** "
        "differences leave 0 out. Epochs were chosen on development pairs of other seeds "
        "(`experiments/lab/tuning.yaml`, [tuning](tuning/README.md)). With this many comparisons a "
        "few of the bold ones are expected to be chance. All numbers: `numbers.csv`."
    )


def _falls(numbers: Numbers, regimes: Sequence[str]) -> str:
    """How often gold is lower where a reward chose from more answers, both sizes set beforehand."""
    known = sizes(numbers)
    few, many = known[-3], known[-1]
    changes = [
        numbers.change(f"best-of-n/{regime}", label, f"gold@{few}", f"gold@{many}")
        for regime in regimes
        for label in numbers.labels(f"best-of-n/{regime}")
    ]
    lower = sum(one.value < 0 for one in changes)
    apart = sum(one.value < 0 and holds(one) for one in changes)
    return (
        f"Over-optimisation: from best-of-{few} to best-of-{many} mean gold falls in {lower} of "
        f"{len(changes)} cases (a reward in a regime), in {apart} by more than its interval."
    )


def _methods(numbers: Numbers, regime: str) -> str:
    known = sizes(numbers)
    metrics = [f"gold@{size}" for size in (known[0], known[4], known[-3], known[-1]) if size]
    heading = ["method", "accuracy", *metrics, "fall", "length slope"]
    suite = f"best-of-n/{regime}"
    rows = [
        [
            label,
            shown(numbers.mean(f"pairs/{regime}", label, "accuracy")),
            *(shown(numbers.mean(suite, label, metric)) for metric in metrics),
            shown(numbers.mean(suite, label, "fall")),
            shown(numbers.mean(suite, label, "slope/length"), digits=2),
        ]
        for label in numbers.labels(suite)
    ]
    return f"### {regime}\n\n{table(heading, rows)}"


def _against(numbers: Numbers, regimes: Sequence[str], base: str) -> str:
    heading = ["method"]
    for regime in regimes:
        heading += [f"{regime}: accuracy", middle(numbers), largest(numbers)]
    rows = []
    for label in numbers.labels(f"best-of-n/{regimes[0]}"):
        if label == base:
            continue
        cells = [label]
        for regime in regimes:
            places = ((f"pairs/{regime}", "accuracy"), (f"best-of-n/{regime}", middle(numbers)),
                      (f"best-of-n/{regime}", largest(numbers)))  # fmt: skip
            cells += [shown(numbers.gain(s, label, base, m), signed=True) for s, m in places]
        rows.append(cells)
    return table(heading, rows)


def _detection(numbers: Numbers, regimes: Sequence[str]) -> str:
    """The area under the ROC of the heads' disagreement, at a few sizes."""
    shown_sizes = sizes(numbers)[2::2]
    rows = []
    for regime in regimes:
        suite = f"best-of-n/{regime}"
        for label in numbers.labels(suite):
            found = [numbers.mean(suite, label, f"disagreement_auc@{n}") for n in shown_sizes]
            if any(found):
                rows.append([regime, label, *(shown(one) for one in found)])
    heading = ["prompts", "picks of", *(f"n = {size}" for size in shown_sizes)]
    return (
        "Area under the ROC with which the standardised disagreement of the preference row and the "
        "mean attribute tells picks that are worse than a random answer (truly over-optimised) "
        "from others. 0.5 is no detection.\n\n" + table(heading, rows)
    )


def _costs(numbers: Numbers) -> str:
    names = ("passes_per_score", "parameters", "training_passes", "training_tokens")
    rows = []
    for label in numbers.labels("cost"):
        means = [numbers.mean("cost", label, name) for name in names]
        rows.append([label, *("–" if one is None else f"{one.value:,.0f}" for one in means)])
    return table(["method", *(name.replace("_", " ") for name in names)], rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("numbers", type=Path)
    parser.add_argument("--output", type=Path, required=True)
    given = parser.parse_args()
    write_text(given.output, account(given.numbers))
    print(f"written: {given.output}")


if __name__ == "__main__":
    main()
