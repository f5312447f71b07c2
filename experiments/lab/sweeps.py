"""Sweeps in the lab: one knob at a time, everything else as in the grid.

    python -m experiments.lab.sweeps --output results/lab/sweeps --work runs/lab

The regression weight (also the paper's sum and learned weights), the number of rated answers and of
their prompts, the noise of preferences, the correlation of style with ability, and how long Single
and SMORM are trained."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from experiments.command import say
from experiments.lab.numbers import Numbers, gold_at
from experiments.tables import plus_minus, table
from smorm.config.reading import parse_section
from smorm.files import write_text
from smorm.lab.config import LabConfig
from smorm.lab.run import run_lab, write_config, write_table
from smorm.report.selection import reject

SEEDS = 5
JOINT = {"data": "both", "objective": {"kind": "joint"}}
USUAL = ["Single", "Multi", "SM", "SMORM-F", "SMORM-L", "SMORM-M"]
PAIRS = 3000
# SMORM that sees each rating 8 times, as Multi does, however few there are.
AS_OFTEN = "SMORM 8x"

Setting = tuple[str, dict[str, Any]]


def weights() -> list[Setting]:
    """Arms of one study: SMORM at several weights of the regression term."""
    objectives: dict[str, dict[str, Any]] = {}
    # The grid's own SMORM has 1.
    for weight in (0.1, 0.3, 3.0, 10.0):
        objectives[f"fixed {weight:g}"] = {"weighting": "fixed", "weight": weight}
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
        systems = {}
        for view in ("F", "L", "M"):
            members = {"members": [f"{AS_OFTEN}:{view}"], "model": AS_OFTEN, "view": view}
            systems[f"{AS_OFTEN}-{view}"] = members
        values = {"data": {"rated": count}, "methods": [*USUAL, *systems],
                  "arms": {AS_OFTEN: arm}, "systems": systems}  # fmt: skip
        settings.append((f"rated={count}", values))
    return settings


def knobs() -> list[Setting]:
    """One study for each setting of a knob of the world or the data."""
    values_of: dict[tuple[str, str], tuple[float, ...]] = {
        ("data", "answers_per_prompt"): (1,),
        ("world", "temperature"): (0.05, 0.15, 0.45),
        ("world", "style_correlation"): (0.0, 0.5, 1.0),
    }
    settings: list[Setting] = []
    for (section, key), values in values_of.items():
        for value in values:
            overrides = {section: {key: value}, "methods": USUAL}
            settings.append((f"{key}={value:g}", overrides))
    return settings


def run(setting: Setting, output: Path, work: Path) -> None:
    """One study, unless its numbers exist."""
    name, values = setting
    folder = output / name
    # Committed sweeps are not made again: their policies and models are not in the repository.
    if (folder / "numbers.csv").exists():
        return
    say(f"{name}:")
    base = {
        "output": str(folder),
        "work": str(work),
        "seeds": SEEDS,
        "policy": {"seeds": [0, 1, 2]},
    }
    config = parse_section(LabConfig, {**base, **values}, name)
    results = run_lab(config, lambda step: say(f"  {step}"))
    write_config(config, folder / "config.yaml")
    # Curves are large, and no table has them.
    write_table(folder / "numbers.csv", reject(results, kind=["training"]))


PAGE = """\
# Sweeps in the lab: tables

`python -m experiments.lab.sweeps --output results/lab/sweeps --work runs/lab`. One knob at a \
time, everything else as in the grid; {seeds} seeds. Gold is that of best-of-64; differences are \
paired by seed, ± half a 95 % interval (Student's t), **bold** where it excludes 0.

{sections}
"""
REGIMES = ("ID", "OODtopic", "far")
GOLD = gold_at(64)


def account(output: Path) -> str:
    """Markdown: every sweep's gains over Single, and of the attribute rows over Multi's."""
    sections = []
    for name in ("weight", "epochs"):
        sections += [f"## {name}", _gains(Numbers.read(output / name / "numbers.csv"))]
    for key in ("rated", "answers_per_prompt", "temperature", "style_correlation"):
        sections.append(f"## {key}")
        folders = sorted(output.glob(f"{key}=*"), key=lambda path: float(path.name.split("=")[1]))
        for folder in folders:
            numbers = Numbers.read(folder / "numbers.csv")
            sections += [f"### {folder.name}", _gains(numbers), _attribute_rows(numbers)]
    return PAGE.format(seeds=SEEDS, sections="\n\n".join(sections))


def _gains(numbers: Numbers) -> str:
    rows, headings = [], [""]
    for regime in REGIMES:
        headings += [f"{regime}: accuracy", f"{regime}: gold"]
    for label in numbers.labels("pairs/ID"):
        cells = [label]
        for regime in REGIMES:
            for suite, metric in ((f"pairs/{regime}", "accuracy"), (f"best-of-n/{regime}", GOLD)):
                if label == "Single":
                    cells.append(plus_minus(numbers.mean(suite, label, metric)))
                else:
                    gain = numbers.gain(suite, label, "Single", metric)
                    cells.append(plus_minus(gain, signed=True))
        rows.append(cells)
    return f"Single's own numbers, and the others' less Single's:\n\n{table(headings, rows)}"


def _attribute_rows(numbers: Numbers) -> str:
    measured = numbers.labels(f"rated/{REGIMES[0]}")
    joint = [name for name in ("SMORM", AS_OFTEN) if name in measured]
    headings = [""]
    for regime in REGIMES:
        headings += [f"{regime}: Multi", *(f"{regime}: {name} − Multi" for name in joint)]
    rows = []
    for metric, title in (("mse", "squared error"), ("spearman", "rank correlation")):
        cells = [title]
        for regime in REGIMES:
            suite = f"rated/{regime}"
            cells.append(plus_minus(numbers.mean(suite, "Multi", metric)))
            for name in joint:
                gain = numbers.gain(suite, name, "Multi", metric)
                cells.append(plus_minus(gain, signed=True))
        rows.append(cells)
    return f"The attribute rows (ratings from 0 to 4):\n\n{table(headings, rows)}"


def rewrite(output: Path) -> None:
    """tables.md, from the numbers of all sweeps."""
    write_text(output / "tables.md", account(output))


def main() -> None:
    """Run all sweeps and write their tables."""
    parser = argparse.ArgumentParser(prog="python -m experiments.lab.sweeps")
    parser.add_argument("--output", type=Path, default=Path("results/lab/sweeps"))
    parser.add_argument("--work", type=Path, default=Path("runs/lab"))
    options = parser.parse_args()
    for setting in (*rated(), *knobs(), *weights(), *epochs()):
        run(setting, options.output, options.work)
    rewrite(options.output)


if __name__ == "__main__":
    main()
