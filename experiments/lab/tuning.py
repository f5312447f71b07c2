"""What the tuning of the lab found: development accuracy of each method by epochs and settings.

    smorm lab experiments/lab/tuning.yaml
    python -m experiments.lab.tuning results/lab/tuning/numbers.csv \\
        --output results/lab/tuning/README.md
"""

from __future__ import annotations

import argparse
from pathlib import Path

from experiments.lab.numbers import Numbers, shown, table
from smorm.files import write_text

SUITE = "pairs/development"


def account(path: Path) -> str:
    """Markdown: one row a setting, best of each method marked."""
    numbers = Numbers.read(path)
    found = numbers.labels(SUITE)
    methods = dict.fromkeys(map(_method, found))
    labels = [label for name in methods for label in found if _method(label) == name]
    means = {label: numbers.mean(SUITE, label, "accuracy") for label in labels}
    values = {label: mean.value for label, mean in means.items() if mean is not None}
    best = {max((one for one in labels if _method(one) == name), key=values.__getitem__)
            for name in methods}  # fmt: skip
    rows = [[label, shown(means[label]), "highest" if label in best else ""] for label in labels]
    parts = [
        "# How long each method trains in the lab",
        "`smorm lab experiments/lab/tuning.yaml`, then `python -m experiments.lab.tuning`. "
        f"Accuracy on {_pairs(path)} development pairs, their labels as noisy as those of training "
        f"(so that 1 cannot be reached); {numbers.seeds} seeds that no other study uses, mean ± "
        "half a 95 % interval (Student's t over seeds). A name ends with its number of epochs; "
        "before that stand GRM's share of the regulariser and Frozen's learning rate. The built-in "
        "arms take the highest of each method. A method at the end of its range was not tried "
        "beyond it.",
        table(["method and setting", "accuracy", ""], rows),
        "No gold, no prompts out of distribution and no best-of-n took part in the choice. "
        "Smoothing, PosReg, Centering, BSR and Union train as long as Single, the other two GRMs "
        "as long as GRM. Not tuned: ArmoRM's gate and Frozen-MLP (their recipes' settings), and "
        "Rated-…, which train 8 epochs on their smaller data: about as many steps as Single.",
    ]
    return "\n\n".join(parts) + "\n"


def _method(label: str) -> str:
    return label.split("-")[0]


def _pairs(path: Path) -> str:
    import yaml

    config = yaml.safe_load((path.parent / "config.yaml").read_text(encoding="utf-8"))
    return f"{config['data']['dev_pairs']:,}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("numbers", type=Path)
    parser.add_argument("--output", type=Path, default=Path("results/lab/tuning/README.md"))
    given = parser.parse_args()
    write_text(given.output, account(given.numbers))


if __name__ == "__main__":
    main()
