"""A gold reward: its shapes, how rows meet pairs, and what is refused."""

from __future__ import annotations

import json

import numpy as np
import pytest

from smorm import RewardModel
from smorm.data.reading import Source
from smorm.errors import DataError
from smorm.rewards.protocol import open_reward
from smorm.rewards.scores_file import score_file
from smorm.rewards.section import RewardSection
from smorm.theory.features import Reading, featured, gold_of
from tests.tiny import trained, world


@pytest.fixture(scope="module")
def pairs():
    model = RewardModel.load(trained())
    return featured(model, Source(world()["eval-pairs-ID"]), "preference", Reading()).records


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def test_the_generated_world_brings_its_gold_along(pairs):
    found = gold_of(str(world()["eval-pairs-ID"]), pairs, Reading())
    assert (found[:, 0] > found[:, 1]).all()
    first = json.loads(world()["eval-pairs-ID"].read_text().splitlines()[0])["meta"]
    assert found[0].tolist() == [first["gold_chosen"], first["gold_rejected"]]


def test_a_gold_model_and_its_scores_file_say_the_same(pairs, tmp_path):
    folder = trained("preference")
    by_model = gold_of(str(folder), pairs, Reading())
    score_file(
        open_reward(RewardSection(model=str(folder))),
        Source(world()["eval-pairs-ID"]),
        tmp_path / "scores.jsonl",
    )
    by_file = gold_of(str(tmp_path / "scores.jsonl"), pairs, Reading())
    np.testing.assert_allclose(by_file, by_model, atol=1e-5)


def test_rows_meet_pairs_by_id_whatever_their_order(pairs, tmp_path):
    rows = [
        {"id": pair.id, "gold_chosen": at + 0.5, "gold_rejected": -at}
        for at, pair in enumerate(pairs)
    ]
    found = gold_of(write(tmp_path / "gold.jsonl", rows[::-1]), pairs, Reading())
    assert found[:, 0].tolist() == [at + 0.5 for at in range(len(pairs))]
    without = [{k: v for k, v in row.items() if k != "id"} for row in rows]
    placed = gold_of(write(tmp_path / "plain.jsonl", without), pairs, Reading())
    assert (placed == found).all()


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ({"reward": 1.0}, "no reward in it"),
        ({"gold_chosen": "high", "gold_rejected": 0}, "expected finite numbers"),
        ({"gold_chosen": 1.0}, "expected finite numbers"),
    ],
)
def test_a_row_without_a_gold_is_named(pairs, tmp_path, row, says):
    with pytest.raises(DataError, match=rf"gold\.jsonl:1: .*{says}"):
        gold_of(write(tmp_path / "gold.jsonl", [row] * 60), pairs, Reading())


def test_a_row_of_another_number_of_responses_is_refused(pairs, tmp_path):
    row = {"responses": [{"view": 1.0}]}
    with pytest.raises(DataError, match="expected 2 finite numbers"):
        gold_of(write(tmp_path / "gold.jsonl", [row] * 60), pairs, Reading())


def test_a_pair_without_a_row_and_ids_that_come_twice_are_told(pairs, tmp_path):
    rows = [{"gold_chosen": 1.0, "gold_rejected": 0.0}] * 10
    with pytest.raises(DataError, match="has no row for it"):
        gold_of(write(tmp_path / "few.jsonl", rows), pairs, Reading())
    twice = [{"id": "same", **row} for row in rows * 6]
    with pytest.raises(DataError, match="cannot be told apart"):
        gold_of(write(tmp_path / "twice.jsonl", twice), pairs, Reading())
