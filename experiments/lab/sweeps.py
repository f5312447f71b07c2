"""Sweeps in the lab: one knob at a time, everything else as in the grid.

    python -m experiments.lab.sweeps --output results/lab/sweeps --work runs/lab

The regression weight (also the paper's sum and learned weights), the number of rated answers and of
their prompts, the noise of preferences, the correlation of style with ability, and how long Single
and SMORM are trained.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from experiments.lab.numbers import Numbers, shown, table
from smorm.config.reading import parse_section
from smorm.files import write_text
from smorm.lab.config import LabConfig
from smorm.lab.run import run_lab, write_config
from smorm.lab.table import write_table

SEEDS = 5
JOINT = {"data": "both", "objective": {"kind": "joint"}}
USUAL = ["Single", "Multi", "SM", "SMORM-F", "SMORM-L", "SMORM-M"]
PAIRS = 3000
AS_OFTEN = "SMORM 8x"
"""SMORM that sees each rating 8 times, as Multi does, however few there are."""

Setting = tuple[str, dict[str, Any]]


def weights() -> list[Setting]:
    """Arms of one study: SMORM at several weights of the regression term."""
    objectives: dict[str, dict[str, Any]] = {
        f"fixed {weight:g}": {"weighting": "fixed", "weight": weight}
        for weight in (0.1, 0.3, 3.0, 10.0)
    }
    objectives |= {"paper": {"weighting": "paper"}, "learned": {"weighting": "learned"}}
    arms, systems = {}, {}
    for name, objective in objectives.items():
        arms[name] = {
            **JOINT,
            "objective": {"kind": "joint", **objective},
            "training": {"epochs": 2},
        }
        for view in ("F", "M"):
            members = {"members": [f"{name}:{view}"], "model": name, "view": view}
            systems[f"{name}-{view}"] = members
    methods = ["Single", "SMORM-F", "SMORM-M", *systems]
    return [("weight", {"arms": arms, "systems": systems, "methods": methods})]


def epochs() -> list[Setting]:
    """How long Single and SMORM train."""
    arms, systems = {}, {}
    for count in (1, 4, 8):
        for name, data, kind in (("Single", "pairs", "preference"), ("SMORM", "both", "joint")):
            arm = f"{name} {count} epochs"
            arms[arm] = {"data": data, "objective": {"kind": kind}, "training": {"epochs": count}}
            systems[arm] = {"members": [f"{arm}:F"]}
    return [("epochs", {"arms": arms, "systems": systems,
                        "methods": ["Single", "SMORM-F", *systems]})]  # fmt: skip


def rated() -> list[Setting]:
    """How many ratings there are. SMORM comes twice: with one rating a pair as in the grid, so that
    a hundred ratings are seen 60 times each, and with each rating seen as often as by Multi."""
    settings: list[Setting] = []
    for count in (100, 300, 1000, 3000):
        mixing = {"rated_per_pair": 8 * count / (2 * PAIRS)}
        arm = {**JOINT, "training": {"epochs": 2}, "mixing": mixing}
        systems = {
            f"{AS_OFTEN}-{view}": {"members": [f"{AS_OFTEN}:{view}"],
                                   "model": AS_OFTEN, "view": view}
            for view in ("F", "L", "M")
        }  # fmt: skip
        values = {"data": {"rated": count}, "methods": [*USUAL, *systems],
                  "arms": {AS_OFTEN: arm}, "systems": systems}  # fmt: skip
        settings.append((f"rated={count}", values))
    return settings


def knobs() -> list[Setting]:
    """One study for each setting of a knob of the world or the data."""
    asked: list[tuple[str, str, tuple[float, ...]]] = [
        ("data", "answers_per_prompt", (1,)),
        ("world", "temperature", (0.05, 0.15, 0.45)),
        ("world", "style_correlation", (0.0, 0.5, 1.0)),
    ]
    return [
        (f"{key}={value:g}", {section: {key: value}, "methods": USUAL})
        for section, key, values in asked
        for value in values
    ]


def run(setting: Setting, output: Path, work: Path) -> None:
    """One study, unless it is there."""
    name, values = setting
    folder = output / name
    if (folder / "numbers.csv").exists():
        return
    print(f"{name}:", flush=True)
    base = {
        "output": str(folder),
        "work": str(work),
        "seeds": SEEDS,
        "policy": {"seeds": [0, 1, 2]},
    }
    config = parse_section(LabConfig, {**base, **values}, name)
    results = run_lab(config, lambda step: print(f"  {step}", flush=True))
    write_config(config, folder / "config.yaml")
    write_table(folder / "numbers.csv", [one for one in results if one.kind != "training"])


def account(output: Path) -> str:
    """Markdown: every sweep's gains over Single, and of the attribute rows over Multi's."""
    parts = [
        "# Sweeps in the lab: tables",
        "`python -m experiments.lab.sweeps --output results/lab/sweeps --work runs/lab`. One knob "
        f"at a time, everything else as in the grid; {SEEDS} seeds. Gold is that of best-of-64; "
        "differences are paired by seed, ± half a 95 % interval (Student's t), **bold** where it "
        "leaves 0 out.",
    ]
    for name in ("weight", "epochs"):
        numbers = Numbers.read(output / name / "numbers.csv")
        parts += [f"## {name}", _gains(numbers, numbers.labels("pairs/ID"))]
    for key in ("rated", "answers_per_prompt", "temperature", "style_correlation"):
        parts.append(f"## {key}")
        for folder in sorted(
            output.glob(f"{key}=*"), key=lambda path: float(path.name.split("=")[1])
        ):
            numbers = Numbers.read(folder / "numbers.csv")
            labels = numbers.labels("pairs/ID")
            parts += [f"### {folder.name}", _gains(numbers, labels), _rows_error(numbers)]
    return "\n\n".join(parts) + "\n"


REGIMES = ("ID", "OODtopic", "far")


def _gains(numbers: Numbers, labels: Sequence[str]) -> str:
    rows = [
        [label]
        + [
            shown(numbers.gain(suite, label, "Single", metric), signed=True)
            if label != "Single"
            else shown(numbers.mean(suite, label, metric))
            for regime in REGIMES
            for suite, metric in (
                (f"pairs/{regime}", "accuracy"),
                (f"best-of-n/{regime}", "gold@64"),
            )
        ]
        for label in labels
    ]
    heading = ["", *(f"{regime}: {what}" for regime in REGIMES for what in ("accuracy", "gold"))]
    return "Single's own numbers, and the others' less Single's:\n\n" + table(heading, rows)


def _rows_error(numbers: Numbers) -> str:
    joint = [one for one in ("SMORM", AS_OFTEN) if (f"rated/{REGIMES[0]}", one, "mse") in
             numbers.values]  # fmt: skip
    rows = []
    for metric, name in (("mse", "squared error"), ("spearman", "rank correlation")):
        cells = [name]
        for regime in REGIMES:
            suite = f"rated/{regime}"
            cells.append(shown(numbers.mean(suite, "Multi", metric)))
            cells += [shown(numbers.gain(suite, one, "Multi", metric), signed=True)
                      for one in joint]  # fmt: skip
        rows.append(cells)
    heading = [f"{r}: {w}" for r in REGIMES for w in ("Multi", *(f"{j} − Multi" for j in joint))]
    return "The attribute rows (ratings from 0 to 4):\n\n" + table(["", *heading], rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path("results/lab/sweeps"))
    parser.add_argument("--work", type=Path, default=Path("runs/lab"))
    given = parser.parse_args()
    for setting in (*rated(), *knobs(), *weights(), *epochs()):
        run(setting, given.output, given.work)
    write_text(given.output / "tables.md", account(given.output))


if __name__ == "__main__":
    main()
