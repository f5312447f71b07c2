"""Errors that a user can cause or repair. Each says what is wrong, where, and what to do.

Anything else that escapes is a bug of ours and keeps its traceback."""

import reprlib

from smorm.printing import cut, error_message, shorten

_MOST = 600  # characters
_REPR = reprlib.Repr()
_REPR.maxstring = _REPR.maxother = 120


class SmormError(Exception):
    """An error with a message for the user; `exit_code` is what the command line returns."""

    exit_code = 1

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


class Interrupted(Exception):  # noqa: N818  (a state, not an error)
    """The run was asked to stop and wrote a checkpoint first."""

    exit_code = 130


def first_line(error: BaseException, limit: int = 300) -> str:
    """The first line of an error's text that is not empty, else the error's type."""
    for line in str(error).splitlines():
        if line.strip():
            return shorten(line, limit)
    return type(error).__name__


def shortened(text: str, most: int = _MOST) -> str:
    """A message that quotes a user's file, without the middle of what is too long to be read."""
    return cut(text, most)


def brief(value: object) -> str:
    """The `repr` of a user's value for a message, cut where it is long."""
    return _REPR.repr(value)
