"""Plain values from a file (JSON, YAML), checked against a type, in one line where they do not fit.

Whoever reads a file that another may have written reads it through here: what comes after has the
fields and types it expects, and needs no guards of its own."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from smorm.errors import DataError, SmormError
from smorm.files import read_json
from smorm.printing import brief


class Facts(BaseModel):
    """What is read of a file's object; it may hold more, as files of later versions do."""

    model_config = ConfigDict(strict=True, frozen=True, extra="ignore")


F = TypeVar("F", bound=Facts)


def checked(
    form: type[F], value: Any, where: Path | str, error_type: type[SmormError] = DataError
) -> F:
    """The value as that form; an error of that type, `where: field: problem`, where it is none."""
    try:
        return form.model_validate(value)
    except ValidationError as error:
        raise error_type(f"{where}: {first_problem(error)}") from error


def read_typed(path: Path | str, form: type[F], error_type: type[SmormError] = DataError) -> F:
    """Read a JSON file that holds an object of that form; errors as of `read_json`."""
    return checked(form, read_json(path, error_type), path, error_type)


def first_problem(error: ValidationError) -> str:
    """`field: problem, got value` of the first field that does not fit."""
    problem = error.errors(include_url=False)[0]
    key = ".".join(map(str, problem["loc"]))
    message = problem_text(problem)
    if problem["type"] == "unexpected_keyword_argument":
        # Its meaning could change what the others say.
        message = "this version does not know it"
    return f"{key}: {message}" if key else message


def problem_text(problem: Mapping[str, Any]) -> str:
    """What one of pydantic's errors says of a value. Our own validators say all of it; pydantic's
    messages lack the value."""
    message: str = problem["msg"].removeprefix("Value error, ")
    if problem["type"] == "value_error":
        return message
    return f"{message[0].lower()}{message[1:]}, got {brief(problem['input'])}"
