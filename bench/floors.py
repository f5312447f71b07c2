"""A slowdown is seen: every ratio against the floor that it must not fall below.

    python -m bench.floors results/bench/training.json results/bench/scoring.json [--all]

`bench/floors.json` holds `ratios` (the least) and `equality` (the largest difference allowed).
Exit code 1 names every figure that fails; with `--all`, also every floor that no file measures."""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path

from bench.results import Results, load
from smorm.errors import SmormError

FLOORS = Path(__file__).with_name("floors.json")


def failures(results: Results, floors: dict[str, dict[str, float]]) -> list[str]:
    """One line for each figure below its floor or above its limit."""
    lines = []
    for name, floor in floors["ratios"].items():
        if name in results.ratios:
            value = _number(results.ratios[name]["median"])
            # `not >=` and not `<`: NaN must fail
            if not value >= floor:
                lines.append(f"{name}: {value:.3g} is below its floor {floor:g}")
    for name, limit in floors["equality"].items():
        gap = _number(results.equality.get(name, 0.0))
        if not gap <= limit:
            lines.append(f"{name}: numbers differ by {gap:.1e}, and {limit:.0e} is allowed")
    return lines


def _number(value: float | None) -> float:
    """JSON has no NaN: it is written as null."""
    return math.nan if value is None else value


def unmeasured(results: Results, floors: dict[str, dict[str, float]]) -> list[str]:
    """Floors and limits for which no file has a figure."""
    ratios = [name for name in floors["ratios"] if name not in results.ratios]
    measured = {*results.equality, *ratios}
    return ratios + [name for name in floors["equality"] if name not in measured]


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m bench.floors", description=__doc__)
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--floors", type=Path, default=FLOORS)
    parser.add_argument("--all", action="store_true", help="fail also where a figure is missing")
    options = parser.parse_args(arguments)
    floors = json.loads(options.floors.read_text(encoding="utf-8"))
    try:
        results = load(options.files)
    except SmormError as error:
        print(error)
        return 1
    # A floor without a figure is no failure by itself: one benchmark measures a part of them.
    failed = failures(results, floors)
    missing = unmeasured(results, floors)
    checked = len(floors["ratios"].keys() & results.ratios.keys())
    print("\n".join([*failed, *(f"{name}: not measured" for name in missing)]))
    print(f"{checked} ratios checked, {len(failed)} failures, {len(missing)} not measured")
    return 1 if failed or (options.all and missing) or not checked else 0


if __name__ == "__main__":
    sys.exit(main())
