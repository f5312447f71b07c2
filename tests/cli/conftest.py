"""A command line run in this process, for every test of a verb."""

from __future__ import annotations

import sys

import pytest

from smorm.cli.main import run_verb


@pytest.fixture
def smorm(monkeypatch, capsys):
    """Run a command line in this process; gives (exit code, standard output, standard error)."""

    def run(*words: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["smorm", *map(str, words)])
        with pytest.raises(SystemExit) as left:
            sys.exit(run_verb())
        captured = capsys.readouterr()
        return int(left.value.code or 0), captured.out, captured.err

    return run
