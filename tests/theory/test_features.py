"""Hidden states of records, in the records' order, and the gold reward of pairs."""

from __future__ import annotations

import json

import numpy as np
import orjson
import pytest

from smorm import RewardModel
from smorm.data.reading import Source
from smorm.errors import DataError, ModelError
from smorm.model.inference import pooled_units, score_units
from smorm.rewards.protocol import open_reward
from smorm.rewards.scores_file import score_file
from smorm.rewards.section import RewardSection
from smorm.theory.features import Reading, featured, gold_of, head_of, own_rows
from tests.tiny import trained, world


@pytest.fixture(scope="module")
def model() -> RewardModel:
    return RewardModel.load(trained())


def test_hidden_states_times_the_head_are_the_scores(model):
    path = world()["eval-pairs-ID"]
    found = featured(model, Source(path), "preference", Reading())
    rows = [orjson.loads(line) for line in path.read_bytes().splitlines()]
    scores = model.score(rows)
    own = own_rows(model, found.hidden)
    np.testing.assert_allclose(own[:, 0], scores.preference, atol=1e-5)
    np.testing.assert_allclose(own[:, 1:], scores.attributes, atol=1e-5)
    head = head_of(model)
    margins = scores.preference[0::2] - scores.preference[1::2]
    np.testing.assert_allclose(found.deltas() @ head.preference, margins, atol=1e-5)
    gaps = scores.attributes[0::2] - scores.attributes[1::2]
    np.testing.assert_allclose(found.deltas() @ head.attributes.T, gaps, atol=1e-5)


def test_hidden_states_do_not_depend_on_the_batch(model):
    found = featured(model, Source(world()["eval-pairs-ID"]), "preference", Reading())
    small = pooled_units(model.network, found.units, 64)
    np.testing.assert_allclose(np.concatenate(small), found.hidden, atol=1e-4)
    done = []
    score_units(model.network, found.units[:5], 64, advance=done.append)
    assert sum(done) == 5


def test_a_broken_weight_is_an_error(model):
    from copy import deepcopy

    network = deepcopy(model.network)
    next(network.backbone.parameters()).data.fill_(float("nan"))
    units = featured(model, Source(world()["eval-pairs-ID"]), "preference", Reading(limit=2)).units
    with pytest.raises(ModelError, match="hidden state that is not finite"):
        pooled_units(network, units, 512)


def test_a_response_in_several_pairs_counts_once(model, tmp_path):
    rows = [
        {"prompt": "metals brief tin iron", "chosen": "tin soft .", "rejected": "iron grey ."},
        {"prompt": "metals brief tin iron", "chosen": "tin soft .", "rejected": "tin hot ."},
        {"prompt": "metals brief iron tin", "chosen": "tin soft .", "rejected": "iron grey ."},
    ]
    (tmp_path / "pairs.jsonl").write_bytes(b"\n".join(map(orjson.dumps, rows)))
    found = featured(model, Source(tmp_path / "pairs.jsonl"), "preference", Reading())
    assert found.distinct().tolist() == [0, 1, 3, 4, 5]
    assert len(set(found.prompts)) == 2
    assert len(found.response_prompts) == 6


def test_records_that_do_not_fit_stop_it_or_are_left_out_and_counted(model, tmp_path):
    rows = [
        {"prompt": "word " * 400, "chosen": "a", "rejected": "b"},
        {"prompt": "metals brief tin iron", "chosen": "tin soft .", "rejected": "iron grey ."},
    ]
    path = tmp_path / "pairs.jsonl"
    path.write_bytes(b"\n".join(map(orjson.dumps, rows)))
    with pytest.raises(DataError, match=r"pairs\.jsonl:1: .*limit is 256"):
        featured(model, Source(path), "preference", Reading())
    found = featured(model, Source(path), "preference", Reading(on_bad_record="skip"))
    assert len(found.records) == 1
    assert "record that does not fit, left out: 1" in found.census.lines()[0]
    assert len(featured(model, Source(path), "preference", Reading("truncate_prompt")).records) == 2


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
