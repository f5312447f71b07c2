"""A sample of the whole chaos suite: trials of every class, and no fault among them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from chaos.__main__ import CLASSES

ROOT = Path(__file__).parents[2]
EACH = 2


@pytest.mark.slow
def test_a_few_trials_of_every_class_find_no_fault(tmp_path: Path) -> None:
    # In a process of its own: trials are forks, and the process of the tests has threads.
    command = [sys.executable, "-m", "chaos", "--only", ",".join(CLASSES), "--each", str(EACH)]
    command += ["--jobs", "2", "--json", str(tmp_path / "report.json")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "src")])}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads((tmp_path / "report.json").read_text("utf-8"))
    assert report["faults"] == []
    assert {name: one["trials"] for name, one in report["classes"].items()} == dict.fromkeys(
        CLASSES, EACH
    )
