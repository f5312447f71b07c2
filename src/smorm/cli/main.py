"""The program `smorm`: it runs a verb, and turns what a user can repair into a line and a code.

Exit codes: 0 done, 1 a check failed or the run could not finish, 2 usage or config, 3 bad data,
130 stopped by Ctrl-C, SIGTERM or SIGHUP (`train` and `score` write first what they go on from)."""

import os
import sys

from smorm import stopping
from smorm.errors import Interrupted, SmormError


def main() -> None:
    """Run a verb as this process, until its end."""
    # Spinning threads cost a factor of 4 on a shared machine. torch reads these when imported.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("GOMP_SPINCOUNT", "0")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    sys.exit(stopping.run(run_verb, _say))


def run_verb() -> int:
    """Run a verb, and turn errors that a user can repair into a line; returns the exit code, or
    raises it as SystemExit."""
    try:
        # Imported where a stop signal has an answer already: it takes a fifth of a second.
        from smorm.cli.verbs import app
        from smorm.limits import refuse_unknown_settings

        refuse_unknown_settings()
        app()
    except SmormError as error:
        _say(f"error: {error}")
        return error.exit_code
    except Interrupted as state:
        _say(str(state))
        return state.exit_code
    return 0


def _say(line: str) -> None:
    sys.stderr.write(f"{line}\n")


if __name__ == "__main__":
    main()
