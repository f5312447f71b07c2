"""A run with extra pairs: its data are the same by any number of processes, and are counted.

That such a run goes on to the same bits: test_resume.py."""

from __future__ import annotations

import pytest

from smorm.config import parse_config
from smorm.data.census import DropReason
from smorm.training.setup import prepare
from tests.tiny import config_values


def values(folder, **data):
    return config_values(folder, data={"augment": {"share": 0.5}, **data})


@pytest.mark.slow
def test_the_number_of_processes_makes_no_difference_and_the_seed_does(tmp_path):
    alone = prepare(parse_config(values(tmp_path, workers=1)))
    extra = alone.census[DropReason.AUGMENTED]
    assert 30 < extra < 90
    assert len(alone.train.pairs) == 120 + extra
    assert prepare(parse_config(values(tmp_path, workers=2))).data_hash == alone.data_hash
    changed = values(tmp_path)
    changed["training"]["seed"] = 3
    assert prepare(parse_config(changed)).data_hash != alone.data_hash
    assert len(prepare(parse_config(config_values(tmp_path))).train.pairs) == 120
