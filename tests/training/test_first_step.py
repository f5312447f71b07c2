"""A run that is stopped before its first step is done loses nothing either."""

from __future__ import annotations

import os
import signal

import pytest

from smorm.config import parse_config
from smorm.errors import Interrupted
from smorm.files import sha256
from smorm.training import loop
from smorm.training.loop import train
from tests.tiny import config_values


@pytest.mark.slow
def test_a_stop_before_the_first_step_resumes_to_the_same_bits(tmp_path, monkeypatch):
    straight = train(parse_config(config_values(tmp_path / "straight")))
    update = loop._update

    def interrupted(*arguments):
        os.kill(os.getpid(), signal.SIGTERM)
        return update(*arguments)

    config = parse_config(config_values(tmp_path / "stopped"))
    with monkeypatch.context() as patch:
        patch.setattr(loop, "_update", interrupted)
        with pytest.raises(Interrupted, match="after step 0"):
            train(config)
    resumed = train(config, resume=True)
    name = "model.safetensors"
    assert sha256(resumed / name) == sha256(straight / name)
