"""Write the pages of `results/` again from the committed numbers, without training anything:

python -m experiments.rewrite [--results results]"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

from experiments import check_data, grouping, judge, linear_theory, real, text, theorem_two
from experiments.lab import account, alarms, policies, search, start, sweeps_page, tuning
from smorm.files import write_text


def _lab(folder: Path) -> None:
    write_text(folder / "README.md", account.account(folder / "numbers.csv"))


def _lab_tuning(folder: Path) -> None:
    write_text(folder / "README.md", tuning.account(folder / "numbers.csv"))


# Every page that an experiment writes, and the function that writes it into a folder of results.
PAGES: dict[str, Callable[[Path], None]] = {
    "real/README.md": real.rewrite,
    "text/README.md": text.rewrite,
    "check/README.md": check_data.rewrite,
    "grouping/README.md": grouping.rewrite,
    "theory/README.md": theorem_two.rewrite,
    "theory/linear.md": linear_theory.rewrite,
    "benchmarks/README.md": judge.rewrite,
    "lab/README.md": _lab,
    "lab/tuning/README.md": _lab_tuning,
    "lab/alarms/README.md": alarms.rewrite,
    "lab/rl/README.md": policies.rewrite,
    "lab/search/README.md": search.rewrite,
    "lab/start/README.md": start.rewrite,
    "lab/sweeps/README.md": sweeps_page.rewrite,
    "lab/sweeps/tables.md": sweeps_page.rewrite,
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Write every page."""
    parser = argparse.ArgumentParser(prog="python -m experiments.rewrite")
    parser.add_argument("--results", type=Path, default=Path("results"))
    options = parser.parse_args(arguments)
    for page, rewrite in PAGES.items():
        rewrite((options.results / page).parent)
        print(options.results / page)


if __name__ == "__main__":
    main()
