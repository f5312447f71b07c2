"""A model folder with something wrong in it gives finite scores or one line, in every way in."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from chaos.folders import KINDS, PAIRS, make_folders, mutated_copy
from smorm import RewardModel
from smorm.checks.plan import tokens_of_model
from smorm.errors import SmormError
from smorm.model.backbone import positions_of
from smorm.model.export import PlainModel, export_view
from smorm.model.store import load_start
from smorm.scoring.merge import merge_models

SEEDS = 12


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return make_folders(tmp_path_factory.mktemp("folders"))


def outcomes(
    source: Path, place: Path, seeds: range, act: Callable[[Path], Any]
) -> Iterator[tuple[str, str]]:
    """What was changed, and the error of one line or nothing."""
    for seed in seeds:
        folder = place / f"{source.name}-{seed}"
        what = f"{source.name} {seed}: {mutated_copy(source, folder, seed)}"
        try:
            act(folder)
        except SmormError as error:
            line = str(error)
            assert len(line.splitlines()) == 1, what
            assert len(line) < 1500, what
            yield what, line
        except Exception as error:  # the seed that shows a fault is worth its name
            raise AssertionError(what) from error
        else:
            yield what, ""
        shutil.rmtree(folder, ignore_errors=True)


def score(folder: Path) -> None:
    model = RewardModel.load(folder)
    view = {model.attributes[0]: 1.0} if model.card.foreign else "F"
    assert np.isfinite(model.score(PAIRS).rows).all()
    model.view(view)


@pytest.mark.parametrize("kind", list(KINDS))
def test_a_folder_with_one_change_scores_or_is_refused(folders, tmp_path, kind):
    found = list(outcomes(folders[kind], tmp_path, range(SEEDS), score))
    # Some changes matter, and some do not.
    refused = sum(bool(line) for _, line in found)
    assert SEEDS // 8 < refused < SEEDS


def export(folder: Path) -> None:
    model = RewardModel.load(folder)
    view = model.view()
    model.score(PAIRS)
    target = folder.with_name("exported")
    export_view(target, model.network, model.tokenizer, model.card, view)
    plain = PlainModel.load(target)
    assert np.isfinite(plain.logits([[1, 2, 3]], batch=1)).all()


def read_only(folder: Path) -> None:
    positions_of(str(folder))
    tokens_of_model(str(folder))


WAYS: dict[str, tuple[str, Callable[[Path], Any]]] = {
    "start": ("adapters", lambda folder: load_start(str(folder))),
    "export": ("llama", export),
    "check": ("foreign-adapters", read_only),
    "plain": ("export", PlainModel.load),
}


@pytest.mark.parametrize("way", list(WAYS))
def test_every_way_in_is_the_same_way(folders, tmp_path, way):
    kind, act = WAYS[way]
    assert list(outcomes(folders[kind], tmp_path, range(500, 508), act))


def test_a_merge_with_a_changed_model_is_refused_or_done(folders, tmp_path):
    def merge(folder: Path) -> None:
        merge_models([folders["llama"], folder], tmp_path / "merged")

    assert list(outcomes(folders["llama"], tmp_path, range(700, 707), merge))
