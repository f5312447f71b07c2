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
from experiments.lab.sweeps_page import AS_OFTEN, SEEDS, rewrite
from experiments.runs import write_finished
from smorm.config.reading import parse_section
from smorm.lab.artifacts import ArtifactStore
from smorm.lab.config import LabConfig
from smorm.lab.methods import arms_of, systems_of
from smorm.lab.run import run_lab, write_config, write_table
from smorm.model.store import versions
from smorm.report.selection import reject

JOINT = {"data": "both", "objective": {"kind": "joint"}}
USUAL = ["Single", "Multi", "SM", "SMORM-F", "SMORM-L", "SMORM-M"]
# The lab's own number, from which follows how often a rating is seen.
PAIRS = 3000

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
    """One study: made now, or found finished in `work`."""
    name, values = setting
    say(f"{name}:")
    base = {
        "output": str(output / name),
        "work": str(work),
        "seeds": SEEDS,
        "policy": {"seeds": [0, 1, 2]},
    }
    config = parse_section(LabConfig, {**base, **values}, name)

    def make(path: Path) -> None:
        results = run_lab(config, lambda step: say(f"  {step}"))
        # Curves are large, and no table has them.
        write_table(path, reject(results, kind=["training"]))

    store, numbers = ArtifactStore(work), output / name / "numbers.csv"
    write_finished(store, "sweeps", name, recipe_of(config), numbers, make)
    write_config(config, output / name / "config.yaml")


def recipe_of(config: LabConfig) -> list[Any]:
    """All that decides a study's numbers; where they go, and in how many processes, does not."""
    settings = config.model_dump(mode="json", exclude={"output", "work", "workers"})
    # Built-in arms and systems are in the code and not in the configuration.
    arms = {name: arm.model_dump(mode="json") for name, arm in arms_of(config).items()}
    systems = {name: system.model_dump(mode="json") for name, system in systems_of(config).items()}
    return [settings, arms, systems, versions()]


def main() -> None:
    """Run all sweeps and write their pages."""
    parser = argparse.ArgumentParser(prog="python -m experiments.lab.sweeps")
    parser.add_argument("--output", type=Path, default=Path("results/lab/sweeps"))
    parser.add_argument("--work", type=Path, default=Path("runs/lab"))
    options = parser.parse_args()
    for setting in (*rated(), *knobs(), *weights(), *epochs()):
        run(setting, options.output, options.work)
    rewrite(options.output)


if __name__ == "__main__":
    main()
