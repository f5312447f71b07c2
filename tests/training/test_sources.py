"""Sources as tokens: what is dropped is counted, and no cache or process changes a result."""

from __future__ import annotations

import logging

import numpy as np
import orjson
import pytest

from smorm.config import parse_config
from smorm.data.census import DropReason
from smorm.errors import CheckpointError, Interrupted
from smorm.training.loop import train
from smorm.training.setup import prepare
from tests import tiny
from tests.tiny import config_values
from tests.training.runs import bits, config_of, jsonl, metrics, rows_of, world
from tests.training.test_resume import stopping_in

HELD_OUT = {
    "preference": str(world()["dev-pairs"]),
    "rated": str(world()["eval-rated-ID"]),
    "limit": 4,
}


def test_a_response_that_rates_none_of_the_chosen_attributes_is_counted(tmp_path):
    rows = [orjson.loads(line) for line in tiny.world()["train-rated"].read_bytes().splitlines()]
    for row in rows[:7]:
        del row["scores"]["style"]
    path = tmp_path / "rated.jsonl"
    path.write_bytes(b"\n".join(map(orjson.dumps, rows)))
    values = config_values(tmp_path / "run", data={"rated": str(path), "attributes": ["style"]})
    prepared = prepare(parse_config(values))
    assert len(prepared.train.rated) == len(rows) - 7
    assert prepared.census[DropReason.UNKNOWN_ATTRIBUTES] == 7
    assert prepared.card.attributes == ("style",)


@pytest.mark.slow
def test_runs_with_any_workers_and_cache_have_the_same_bits(tmp_path, caplog):
    cache = str(tmp_path / "cache")
    found = {}
    for name, changes in {
        "plain": {"cache": None, "workers": 1},
        "two workers": {"cache": cache, "workers": 2},
        "from the cache": {"cache": cache},
    }.items():
        with caplog.at_level(logging.INFO, logger="smorm"):
            train(config_of(tmp_path / name, data=changes, evaluation=HELD_OUT))
        told = caplog.text.count("tokens: read from cache")
        assert told == (4 if name == "from the cache" else 0)
        caplog.clear()
        report = orjson.loads((tmp_path / name / "data.json").read_bytes())
        found[name] = (bits(tmp_path / name), metrics(tmp_path / name), report)
    assert found["plain"] == found["two workers"] == found["from the cache"]


def test_a_run_goes_on_with_another_cache_and_other_data_there_is_refused(tmp_path):
    pairs = jsonl(tmp_path / "pairs.jsonl", rows_of("train-pairs"))
    data = {"preference": pairs, "cache": None}
    with stopping_in(3), pytest.raises(Interrupted):
        train(config_of(tmp_path / "run", data=data))
    kept = {**data, "cache": str(tmp_path / "cache")}
    jsonl(tmp_path / "pairs.jsonl", rows_of("train-pairs")[::-1])
    with pytest.raises(CheckpointError, match="was written with other data"):
        train(config_of(tmp_path / "run", data=kept), resume=True)
    jsonl(tmp_path / "pairs.jsonl", rows_of("train-pairs"))
    train(config_of(tmp_path / "run", data=kept), resume=True)
    train(config_of(tmp_path / "straight", data=data))
    assert bits(tmp_path / "run") == bits(tmp_path / "straight")


def test_pairs_and_ratings_over_one_prompt_share_its_id(tmp_path):
    rows = rows_of("train-pairs")
    rated = rows_of("train-rated")
    rated[4]["prompt"] = rows[7]["prompt"]
    config = config_of(tmp_path / "run", data={"rated": jsonl(tmp_path / "rated.jsonl", rated)})
    train_set = prepare(config).train
    prompts = [row["prompt"] for row in (*rows, *rated)]
    ids = np.concatenate([train_set.pair_prompts, train_set.rated_prompts])
    assert ids.dtype == np.int32  # four bytes a record, as many as there may be
    assert ids.tolist() == [list(dict.fromkeys(prompts)).index(prompt) for prompt in prompts]
    assert train_set.rated_prompts[4] == train_set.pair_prompts[7] == train_set.rated[4].prompt
    assert (len(train_set.pair_prompts), len(train_set.rated_prompts)) == (24, 14)


def test_a_limit_on_held_out_records_is_over_all_sources(tmp_path):
    sources = [str(world()["dev-pairs"]), str(world()["eval-pairs-ID"])]
    for limit, expected in ((4, [4, 0]), (6, [6, 0]), (9, [6, 3]), (99, [6, 6])):
        evaluation = {"preference": sources, "limit": limit}
        dev = prepare(config_of(tmp_path / "run", evaluation=evaluation)).dev["dev"]
        places = [pair.where.rpartition(":")[0] for pair in dev.pairs]
        assert [places.count(source) for source in sources] == expected
