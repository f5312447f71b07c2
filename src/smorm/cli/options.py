"""Options that several verbs share."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from smorm.errors import ConfigError

OVERLONG = ("error", "drop", "truncate_prompt")

OverlongOption = Annotated[
    str | None, typer.Option(help="error, drop or truncate_prompt; default: as in training.")
]
SkipBadOption = Annotated[bool, typer.Option("--skip-bad", help="Drop bad records and count them.")]
BatchTokensOption = Annotated[int, typer.Option(min=1, help="Tokens a forward pass.")]
DeviceOption = Annotated[str, typer.Option(help="cpu or cuda.")]


def view_of(text: str | None) -> Any:
    """A view of the command line: F, L, M, a published set of weights, or a JSON file's content."""
    from smorm.rewards.model import read_view

    try:
        return read_view(text)
    except ConfigError as error:
        raise ConfigError(f"--{error}") from error


def choice(name: str, value: str | None, allowed: tuple[str, ...]) -> Any:
    """The value if it is allowed or None."""
    if value is not None and value not in allowed:
        raise ConfigError(f"{name} {value}: expected one of {', '.join(allowed)}")
    return value
