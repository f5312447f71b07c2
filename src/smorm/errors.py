"""Errors that a user can cause or repair. Each says what is wrong, where, and what to do.

Anything else that escapes is a bug of ours and keeps its traceback; what a library finds wrong with
somebody's files is no bug of ours, and `third_party` names it."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from smorm.printing import error_message, shorten


class SmormError(Exception):
    """An error with a message for the user; `exit_code` is what the command line returns. One that
    is `said_elsewhere`, by another process of the same training, is not printed."""

    exit_code = 1
    said_elsewhere = False

    def __str__(self) -> str:
        # Wherever it is shown: it quotes names, values and what servers answered.
        return error_message(super().__str__())


class ConfigError(SmormError, ValueError):
    """A flag, a key or a value that the user gave is not usable."""

    exit_code = 2


class ModelError(SmormError):
    """A model folder, backbone or tokenizer cannot be used as asked."""

    exit_code = 2


class NonFiniteScoreError(ModelError):
    """A model gave a score or hidden state that is NaN or infinite: its weights are broken."""


class UnboundedError(ModelError):
    """A model's template, tokenizer or pattern takes more time, memory or text than the limits
    allow."""


class CheckpointError(ModelError):
    """A training checkpoint is damaged, or belongs to another run."""


class DataError(SmormError, ValueError):
    """A record is not usable. The message begins with `file:line: field:`."""

    exit_code = 3


class OverLimitError(DataError):
    """A conversation has more tokens than the limit, and the policy for these is `error`."""


class NonFiniteLossError(SmormError):
    """A loss term became NaN or infinite; the message names step, term and records."""


class UnprovenError(SmormError):
    """A model that was saved does not score as the one that was trained."""


class OutputError(SmormError):
    """A file could not be written whole; what was there before is untouched."""


class OtherRankError(SmormError):
    """Another process of the same training failed, or was `lost` without a word."""

    def __init__(
        self, message: str, exit_code: int = 1, *, said: bool = False, lost: bool = False
    ) -> None:
        super().__init__(message)
        self.exit_code = exit_code
        self.said_elsewhere = said
        self.lost = lost


class Interrupted(Exception):  # noqa: N818  (a state, not an error)
    """The run was asked to stop and wrote a checkpoint first."""

    exit_code = 130
    said_elsewhere = False


def first_line(error: BaseException, limit: int = 300) -> str:
    """The first line of an error's text that is not empty, else the error's type."""
    for line in str(error).splitlines():
        if line.strip():
            return shorten(line, limit)
    return type(error).__name__


@contextmanager
def third_party(where: Path | str, problem: str) -> Iterator[None]:
    """Around a library's call that reads what somebody else wrote: whatever it raises becomes one
    `ModelError` of one line that says where, the problem and the cause."""
    # Around that call alone: an error of our own code inside would lose its traceback.
    try:
        yield
    except (SmormError, Interrupted):
        raise
    except ImportError as error:
        raise ModelError(f"{where}: a package is missing: {first_line(error)}") from error
    except BaseException as error:
        # A panic of a library in Rust is none of Python's ordinary exceptions.
        if not isinstance(error, Exception) and type(error).__module__ != "pyo3_runtime":
            raise
        raise ModelError(f"{where}: {problem}: {cause_of(error)}") from error


def cause_of(error: BaseException) -> str:
    """What an error says in one line, with its type where that line is a bare value."""
    # Here, since most programs never need it.
    from huggingface_hub.errors import StrictDataclassError

    # It names the function that complained first, and the reason as its cause.
    if isinstance(error, StrictDataclassError) and error.__cause__ is not None:
        error = error.__cause__
    line, kind = first_line(error), type(error).__name__
    # `KeyError('swish')` reads as "'swish'", and a failed assertion as nothing.
    return line if " " in line or line == kind else f"{kind}: {line}"
