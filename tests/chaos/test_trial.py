"""The judge of chaos trials finds each fault where it is planted."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from chaos.trial import Fault

ROOT = Path(__file__).parents[2]

# In a process of its own: trials are forks, and the process of the tests has threads.
PLANTED = """
    import os, signal, sys, tempfile, time, json
    from pathlib import Path
    from chaos import trial as judge
    from chaos.trial import Command, Fault, Trial, run_trials

    judge.ORPHAN_SECONDS = 0.5  # nothing here imports

    def crash(folder): raise ValueError("a bug")
    def hang(folder): time.sleep(60)
    def execute(folder): (folder / "EXECUTED").touch()
    def litter(folder): (folder / ".out.partial").touch()
    def escape(folder): print("a\\x1b[31mb")
    def long_error(folder): sys.exit(print("error: " + "x" * 20_000) or 2)
    def odd_exit(folder): sys.exit(17)
    def memory(folder): x = bytearray(2300 << 20); x[::4096] = b"1" * len(x[::4096])
    def orphan(folder):
        if os.fork() == 0:
            time.sleep(60)
    def fine(folder): print("plain text, äöü, 漢字")
    def refused(folder): sys.exit(3)
    def different(folder, ended): yield Fault.DIFFERENCE, "other bytes"

    trials = [Trial("hang", [Command(hang)], seconds=1.0)]
    trials += [Trial(act.__name__, [Command(act)])
              for act in (crash, execute, litter, escape, long_error, odd_exit, memory,
                          orphan, fine, refused)]
    trials.append(Trial("judged", [Command(fine)], different))
    killed = [Command(hang, kill_after=0.1), Command(fine)]
    trials.append(Trial("killed", killed))
    found, peaks = {}, {}
    with tempfile.TemporaryDirectory() as folder:
        for finished in run_trials(iter(trials), Path(folder)):
            found[finished.trial.name] = sorted({one.fault.name for one in finished.faults})
            peaks[finished.trial.name] = finished.peak_bytes
    assert peaks["memory"] > 2200 << 20 > 10 * peaks["fine"], peaks
    json.dump(found, sys.stdout)
"""


@pytest.fixture(scope="module")
def found() -> dict[str, list[str]]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "src")])}
    code = textwrap.dedent(PLANTED)
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize(
    ("trial", "faults"),
    [
        ("crash", {Fault.TRACEBACK, Fault.EXIT}),
        ("hang", {Fault.HANG}),
        ("execute", {Fault.EXECUTION}),
        ("litter", {Fault.LITTER}),
        ("escape", {Fault.ESCAPES}),
        ("long_error", {Fault.LONG_ERROR}),
        ("odd_exit", {Fault.EXIT}),
        ("memory", {Fault.MEMORY}),
        ("orphan", {Fault.ORPHAN}),
        ("judged", {Fault.DIFFERENCE}),
        ("fine", set()),
        ("refused", set()),
        ("killed", set()),
    ],
)
def test_each_planted_fault_is_found_and_nothing_else(
    found: dict[str, list[str]], trial: str, faults: set[Fault]
) -> None:
    assert set(found[trial]) == {fault.name for fault in faults}
