"""The tuning of the lab: development accuracy of each method by epochs and settings.

    smorm lab experiments/lab/tuning.yaml
    python -m experiments.lab.tuning results/lab/tuning/numbers.csv \\
        --output results/lab/tuning/README.md"""

from __future__ import annotations

import argparse
from pathlib import Path

import yaml

from experiments.lab.numbers import Numbers
from experiments.tables import plus_minus, table
from smorm.files import write_text

SUITE = "pairs/development"
PAGE = """\
# How long each method trains in the lab

`smorm lab experiments/lab/tuning.yaml`, then `python -m experiments.lab.tuning`. Accuracy on \
{pairs:,} development pairs, their labels as noisy as those of training (so that 1 cannot be \
reached); {seeds} seeds that no other study uses, mean ± half a 95 % interval (Student's t over \
seeds). A name ends with its number of epochs; before that stand GRM's share of the regulariser \
and Frozen's learning rate. The built-in arms take the highest of each method. A method at the end \
of its range was not tried beyond it.

{table}

No gold, no prompts out of distribution and no best-of-n was used for the choice. Smoothing, \
PosReg, Centering, BSR and Union train as long as Single, the other two GRMs as long as GRM. Not \
tuned: ArmoRM's gate and Frozen-MLP (their recipes' settings), and Rated-…, which train 8 epochs \
on their smaller data: about as many steps as Single.
"""


def account(path: Path) -> str:
    """Markdown: one row a setting, with a note at the best of each method."""
    numbers = Numbers.read(path)
    methods: dict[str, list[str]] = {}
    for label in numbers.labels(SUITE):
        methods.setdefault(label.split("-")[0], []).append(label)
    rows = []
    for labels in methods.values():
        means = {label: numbers.mean(SUITE, label, "accuracy") for label in labels}
        values = {label: mean.value for label, mean in means.items() if mean is not None}
        best = max(values, key=values.__getitem__)
        for label, mean in means.items():
            rows.append([label, plus_minus(mean), "highest" * (label == best)])
    config = yaml.safe_load((path.parent / "config.yaml").read_text(encoding="utf-8"))
    return PAGE.format(
        pairs=config["data"]["dev_pairs"],
        seeds=numbers.seeds,
        table=table(["method and setting", "accuracy", ""], rows),
    )


def main() -> None:
    """Write the page."""
    parser = argparse.ArgumentParser(prog="python -m experiments.lab.tuning")
    parser.add_argument("numbers", type=Path)
    parser.add_argument("--output", type=Path, default=Path("results/lab/tuning/README.md"))
    options = parser.parse_args()
    write_text(options.output, account(options.numbers))


if __name__ == "__main__":
    main()
