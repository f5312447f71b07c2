"""`smorm demo`: the lab in minutes."""

from __future__ import annotations

import shutil
import time
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from typer import Option

from smorm import files
from smorm.cli.lab_command import study
from smorm.errors import ConfigError
from smorm.locks import LOCK, only_run
from smorm.terminal import echo

if TYPE_CHECKING:
    from smorm.lab.world_artifacts import WorldArtifacts

# What there is before the models and the data, which come last.
_OF_A_STOPPED_DEMO = {
    "work", "config.yaml", "results.json", "numbers.csv", "report.html", "figures"
}  # fmt: skip
DEMO_METHODS = ["Single", "Multi", "SM", "GRM", "ODIN", "SMORM-F", "SMORM-L", "SMORM-M"]

ABOUT_DEMO = """

Single is trained on preference pairs alone, Multi on rated answers alone, SMORM on both \
together; F, L and M are SMORM's preference row, the mean of its attribute rows, and both. SM \
averages Single and Multi at two passes a score. GRM keeps a language head as a regulariser, ODIN \
takes length out of the reward.

A few seeds are an illustration: differences of a few hundredths between methods change from \
seed to seed. The command smorm lab is the same with more of everything."""


def demo_values(output: Path, seed: int, seeds: int) -> dict[str, Any]:
    """The demo as a configuration of `smorm lab`."""
    return {
        "output": str(output), "methods": DEMO_METHODS, "first_seed": seed, "seeds": seeds,
        "data": {"eval_pairs": 400, "eval_rated": 150}, "pools": {"prompts": 16, "answers": 128},
    }  # fmt: skip


def run(
    output: Path = Option("demo", "--output", "-o", help="New folder."),
    seed: int = Option(0, help="The first seed of data and training."),
    seeds: int = Option(3, min=1, help="How many runs."),
) -> None:
    """See what resists reward hacking: train and compare on a small generated world.

    Trains Single, Multi, GRM, ODIN and SMORM from one small pretrained policy, lets each pick the
    best of many answers of that policy, in and out of distribution, and writes models, results and
    a page that shows the true quality of what they pick. Needs no download; takes about three
    minutes on two cores. A demo that was stopped goes on when the command is given again."""
    from smorm.config.reading import parse_section
    from smorm.lab.config import LabConfig
    from smorm.lab.world_artifacts import WorldArtifacts

    if output.is_file():
        raise ConfigError(f"--output {output}: is a file; name a new folder")
    started = time.monotonic()
    config = parse_section(LabConfig, demo_values(output, seed, seeds), "demo")
    with only_run(output, "--output"):
        # A demo that was stopped left its artifacts in `work`, and goes on from them.
        present = {path.name for path in output.iterdir()} - {LOCK}
        if present and ("work" not in present or present - _OF_A_STOPPED_DEMO):
            raise ConfigError(f"--output {output}: is not empty; name a new folder, or remove it")
        study(config, "smorm demo", ABOUT_DEMO)
        publish(WorldArtifacts(config), output, seed)
    echo(
        f"models:  {output / 'models'}\ndata:    {output / 'data'}\n"
        f"({time.monotonic() - started:.0f} s)"
    )


def publish(artifacts: WorldArtifacts, output: Path, seed: int) -> None:
    """Copy the first run's models and data to where recipes and readers look for them."""
    from smorm.lab.methods import needed_arms

    # Aside first: a demo that is stopped while it copies can still go on.
    copies = artifacts.store.root / "copies"
    files.remove_folder(copies)
    for name in chain.from_iterable(needed_arms(artifacts.config)):
        shutil.copytree(artifacts.arm(name, seed) / "model", copies / "models" / name)
    (copies / "data").mkdir()
    for name, path in artifacts.data(seed).items():
        shutil.copyfile(path, copies / "data" / f"{name}.jsonl")
    for room in ("models", "data"):
        (copies / room).rename(output / room)
    copies.rmdir()
