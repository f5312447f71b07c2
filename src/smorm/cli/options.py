"""Options that several verbs share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from smorm.errors import ConfigError

OVERLONG = ("error", "drop", "truncate_prompt")

OverlongOption = Annotated[
    str | None, typer.Option(help="error, drop or truncate_prompt; default: as in training.")
]
SkipBadOption = Annotated[bool, typer.Option("--skip-bad", help="Leave bad records out, counted.")]
BatchTokensOption = Annotated[int, typer.Option(min=1, help="Tokens a forward pass.")]
DeviceOption = Annotated[str, typer.Option(help="cpu or cuda.")]


def view_of(text: str | None) -> Any:
    """A view from the command line: F, L, M, a published set of weights, or a JSON file's content.

    Raises:
        ConfigError: none of them.
        DataError: the file is not JSON.
    """
    from smorm.model.views import NAMED_VIEWS

    if text is None or text in NAMED_VIEWS:
        return text
    if not Path(text).is_file():
        raise ConfigError(f"--view {text}: expected {', '.join(NAMED_VIEWS)} or a JSON file")
    from smorm.files import read_json

    found = read_json(text)
    if not isinstance(found, dict):
        raise ConfigError(f"--view {text}: expected a JSON object, as `smorm view` writes it")
    return found


def choice(name: str, value: str | None, allowed: tuple[str, ...]) -> Any:
    """A value out of a few.

    Raises:
        ConfigError: another one.
    """
    if value is not None and value not in allowed:
        raise ConfigError(f"{name} {value}: expected one of {', '.join(allowed)}")
    return value
