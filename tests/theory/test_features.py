"""Hidden states of records: what the head reads, in the records' order."""

from __future__ import annotations

import numpy as np
import orjson
import pytest

from smorm import RewardModel
from smorm.data.reading import Source
from smorm.errors import DataError, ModelError
from smorm.model.inference import pooled_units, score_units
from smorm.theory.features import Reading, featured, head_of, own_rows
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
    np.testing.assert_allclose(
        found.hidden @ head.attributes.T + head.offsets, scores.attributes, atol=1e-5
    )
    margins = scores.preference[0::2] - scores.preference[1::2]
    np.testing.assert_allclose(found.deltas() @ head.preference, margins, atol=1e-5)


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
