"""Responses that no chosen attribute rates are counted, never lost in silence."""

from __future__ import annotations

import orjson

from smorm.config import parse_config
from smorm.training.setup import prepare
from tests.tiny import config_values, world


def test_a_response_that_rates_none_of_the_chosen_attributes_is_counted(tmp_path):
    rows = [orjson.loads(line) for line in world()["train-rated"].read_bytes().splitlines()]
    for row in rows[:7]:
        del row["scores"]["style"]
    path = tmp_path / "rated.jsonl"
    path.write_bytes(b"\n".join(map(orjson.dumps, rows)))
    values = config_values(tmp_path / "run", data={"rated": str(path), "attributes": ["style"]})
    prepared = prepare(parse_config(values))
    assert len(prepared.train.rated) == len(rows) - 7
    assert prepared.census["dropped: rates none of the model's attributes"] == 7
    assert prepared.card.attributes == ("style",)
