"""The program `smorm`: it runs a verb, and turns what a user can repair into a line and a code.

Exit codes: 0 done, 1 a check failed or the run could not finish, 2 usage or config, 3 bad data,
130 stopped by Ctrl-C, SIGTERM or SIGHUP (`train` and `score` write first what they go on from)."""

import os
import sys
import traceback
from typing import Any

from smorm import stopping
from smorm.errors import Interrupted, SmormError
from smorm.printing import keep_secret, message

# How variables end that hold a secret: HF_TOKEN, WANDB_API_KEY, ... A short value is a switch.
_SECRET_VARIABLES = ("_TOKEN", "API_KEY", "ACCESS_KEY", "_SECRET", "_PASSWORD")
_SECRET_LENGTH = 8
_TRACEBACK = 20_000  # characters


def main() -> None:
    """Run a verb as this process, until its end."""
    # Spinning threads cost a factor of 4 on a shared machine. torch reads these when imported.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("GOMP_SPINCOUNT", "0")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    for name, value in os.environ.items():
        if name.endswith(_SECRET_VARIABLES) and len(value) >= _SECRET_LENGTH:
            keep_secret(value)
    sys.excepthook = _say_traceback
    sys.exit(stopping.run(run_verb, _say))


def run_verb() -> int:
    """Run a verb, and turn errors that a user can repair into a line; returns the exit code, or
    raises it as SystemExit."""
    # Imported where a stop signal has an answer already: it takes a fifth of a second.
    from smorm.terminal import run_clean

    return run_clean(_run_verb)


def _run_verb() -> int:
    try:
        from smorm.cli.verbs import app
        from smorm.limits import refuse_unknown_settings

        refuse_unknown_settings()
        app()
    except SmormError as error:
        if not error.said_elsewhere:
            _say(f"error: {error}")
        return error.exit_code
    except Interrupted as state:
        if not state.said_elsewhere:
            _say(str(state))
        return state.exit_code
    except OSError as error:
        # Of a path that the user gave, and nobody foresaw what could be wrong with it.
        if error.filename is None:
            raise
        _say(f"error: {error.filename}: {error.strerror}")
        return SmormError.exit_code
    return 0


def _say(line: str) -> None:
    if sys.stderr is not None:
        sys.stderr.write(f"{message(line)}\n")


def _say_traceback(kind: type[BaseException], error: BaseException, trace: Any) -> None:
    _say("".join(traceback.format_exception(kind, error, trace)).rstrip("\n")[-_TRACEBACK:])


if __name__ == "__main__":
    main()
