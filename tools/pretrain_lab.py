"""Remake the lab's shipped backbone, or make another.

    python -m tools.pretrain_lab --output src/smorm/world/backbone --seed 0

About four minutes on one core. The world of `--world` is learnt; other worlds have other facts.
"""

from __future__ import annotations

import argparse
import logging
from dataclasses import fields
from pathlib import Path

import torch

from smorm.files import atomic_folder
from smorm.world.pretrain import Pretraining, make_policy


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, required=True, help="folder to write")
    for setting in fields(Pretraining):
        kind = type(setting.default)
        parser.add_argument(f"--{setting.name}", type=kind, default=setting.default)
    settings = vars(parser.parse_args())
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    torch.set_num_threads(1)
    with atomic_folder(settings.pop("output")) as folder:
        measured = make_policy(folder, Pretraining(**settings))
    print("held out: " + "  ".join(f"{name} {value:.4g}" for name, value in measured.items()))


if __name__ == "__main__":
    main()
