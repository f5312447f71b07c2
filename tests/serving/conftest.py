from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from smorm.serving.settings import Limits, ServeOptions
from tests.cli.conftest import smorm
from tests.serving.servers import Running, running
from tests.tiny import trained

__all__ = ["FAULTY", "SECTIONS", "server", "smorm"]
FAULTY = f"{Path(__file__).parent / 'faulty.py'}:reward"
SECTIONS = {"joint": {"model": str(trained())}, "faulty": {"function": FAULTY}}


@pytest.fixture(scope="session")
def server() -> Iterator[Running]:
    """A model and a function that fails on demand."""
    limits = Limits(items=40, characters=20_000, body_bytes=1 << 20, batch_seconds=4.0)
    with running(ServeOptions(SECTIONS, limits=limits)) as one:
        yield one
