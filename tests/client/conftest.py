from __future__ import annotations

import pytest

from smorm import RewardModel
from tests.serving.conftest import server
from tests.tiny import trained

__all__ = ["server"]


@pytest.fixture(scope="session")
def model() -> RewardModel:
    return RewardModel.load(trained())
