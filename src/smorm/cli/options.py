"""Options that several verbs share."""

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from smorm.errors import ConfigError

OVERLONG = ("error", "drop", "truncate_prompt")
ON_BAD: dict[bool, Literal["stop", "skip"]] = {False: "stop", True: "skip"}
"""What is done about a bad record, by `--skip-bad`."""

Text = str | None
Texts = list[str] | None
"""An option that may be repeated."""
File = Path | None
ResultOption = Annotated[File, typer.Option("--output", "-o", help="Result, JSON.")]
FormatOption = Annotated[str, typer.Option(help="Shape of the rows.")]
OverlongOption = Annotated[
    str | None, typer.Option(help="error, drop or truncate_prompt; default: as in training.")
]
SkipBadOption = Annotated[bool, typer.Option("--skip-bad", help="Drop bad records and count them.")]
BatchTokensOption = Annotated[int, typer.Option(min=1, help="Tokens a forward pass.")]
DeviceOption = Annotated[str, typer.Option(help="cpu or cuda.")]


def view_of(text: str | None) -> Any:
    """A view of the command line: F, L, M, published weights, or the content of a JSON file."""
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
