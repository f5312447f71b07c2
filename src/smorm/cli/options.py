"""Options that several verbs share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from smorm.errors import ConfigError

OVERLONG = ("error", "drop", "truncate_prompt")


def view_of(text: str | None) -> Any:
    """A view from the command line: F, L, M, or the path of a JSON file.

    Raises:
        ConfigError: neither.
    """
    if text is None or text in ("F", "L", "M"):
        return text
    if not Path(text).is_file():
        raise ConfigError(f"--view {text}: expected F, L, M or a JSON file")
    from smorm.files import read_json

    return read_json(text)


def choice(name: str, value: str | None, allowed: tuple[str, ...]) -> Any:
    """A value out of a few.

    Raises:
        ConfigError: another one.
    """
    if value is not None and value not in allowed:
        raise ConfigError(f"{name} {value}: expected one of {', '.join(allowed)}")
    return value
