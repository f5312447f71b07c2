"""The command line for tests of cards, whose code says what to type."""

from __future__ import annotations

from tests.cli.conftest import smorm

__all__ = ["smorm"]
