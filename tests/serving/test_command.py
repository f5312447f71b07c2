"""`smorm serve` as a process: it starts, drains, and refuses what it should not serve."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx2
import pytest

from tests.conftest import ROOT
from tests.serving.conftest import FAULTY

SERVE = [sys.executable, "-m", "smorm.cli.main", "serve", f"length=function:{FAULTY}"]
BODY = {"items": [{"prompt": "p", "response": "four"}]}


@pytest.mark.slow
def test_sigterm_drains_answers_what_comes_meanwhile_and_ends_with_0(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    process = subprocess.Popen(
        [*SERVE, "--port", "0", "--drain-seconds", "2"], stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True, env=environment, cwd=tmp_path,
    )  # fmt: skip
    assert process.stdout is not None
    url = re.search(r"serving length at (http://\S+)", process.stdout.readline())
    assert url is not None
    with httpx2.Client(base_url=url[1], timeout=60) as client:
        assert client.get("/readyz").status_code == 200
        process.send_signal(signal.SIGTERM)
        until = time.monotonic() + 1.5
        while client.get("/readyz").status_code == 200 and time.monotonic() < until:
            time.sleep(0.02)
        assert client.get("/readyz").json() == {"ready": False, "reason": "draining"}
        answer = client.post("/v1/score", json=BODY).json()
        assert answer["items"][0]["views"] == {"length": 4.0}
    _, printed = process.communicate(timeout=60)
    assert process.returncode == 0, printed
    assert "Traceback" not in printed


def test_a_server_beyond_this_machine_needs_a_token(smorm, tmp_path: Path) -> None:
    code, _, err = smorm("serve", f"function:{FAULTY}", "--host", "0.0.0.0", "--port", 0)
    assert code == 2
    assert "--token-file" in err
    (tmp_path / "tokens").write_text("\n")
    code, _, err = smorm("serve", f"function:{FAULTY}", "--token-file", tmp_path / "tokens")
    assert code == 2
    assert "holds no token" in err


def test_two_rewards_of_one_name_and_a_taken_port_are_refused(smorm) -> None:
    reward = f"function:{FAULTY}"
    code, _, err = smorm("serve", f"a={reward}", f"a={reward}")
    assert code == 2
    assert "NAME=REWARD" in err
    code, _, err = smorm("serve", reward, "--host", "203.0.113.7", "--insecure")
    assert code == 2
    assert "203.0.113.7" in err


@pytest.mark.parametrize("device", ["", "cpu,", ",,"])
def test_a_device_that_is_missing_is_named_before_anything_starts(smorm, device: str) -> None:
    code, out, err = smorm("serve", f"function:{FAULTY}", "--device", device)
    assert (code, out) == (2, "")
    assert f"--device {device!r}" in err


def test_a_model_that_is_missing_is_named_before_a_worker_starts(smorm) -> None:
    # "model" is a kind of reward, and here the path of a folder.
    code, out, err = smorm("serve", "model", "--port", 0)
    assert (code, out) == (2, "")
    assert "model" in err
    assert "None" not in err


def test_a_host_that_is_no_text_is_one_line(smorm) -> None:
    host = b"\xff.example".decode("utf-8", "surrogateescape")
    code, _, err = smorm("serve", f"function:{FAULTY}", "--host", host, "--insecure")
    assert code == 2
    assert err.startswith("error: --host")
    assert len(err.splitlines()) == 1
