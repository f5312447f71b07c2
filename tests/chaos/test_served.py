"""A sample of the hostile requests to a server: one of each kind, and some that are generated."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from chaos.served.bodies import BODIES
from chaos.served.wires import WIRES

ROOT = Path(__file__).parents[2]
COUNT = (len(BODIES) + len(WIRES)) * 3 // 2 + 6


@pytest.mark.slow
def test_one_request_of_each_kind_finds_no_fault(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "chaos", "--only", "served_fuzz", "--count", str(COUNT)]
    command += ["--json", str(tmp_path / "report.json")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "src")])}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads((tmp_path / "report.json").read_text("utf-8"))
    assert report["faults"] == []
    assert report["classes"]["served_fuzz"]["trials"] == COUNT
