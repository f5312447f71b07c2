"""An output that cannot be written is told in one line before anything is loaded, read or made."""

from __future__ import annotations

import os
import stat
import subprocess
import tempfile

import orjson
import pytest

from smorm.evaluation.result import write_results
from tests.report.made_up import rising, runs
from tests.stress.made_up import write_rows

LENGTH = "tests.stress.made_up:half_length"
# Nothing that these name exists: what is told first is what is looked at first.
VERBS = {
    "eval": "no/model --suite pairs=none.jsonl",
    "parity": "no/model no/target",
    "report": "none.json",
    "view": "no/model --data none.jsonl --kind learned",
    "diagnose": "no/model --preference none.jsonl",
    "score": "no/model --input none.jsonl",
    "pick": "none.jsonl --best --input none.jsonl",
    "relabel": "none.jsonl --gold no/model",
    "check": "none.jsonl",
    "card": "no/model",
    "merge": "no/model no/other",
    "export": "no/model --view F",
    "lab": "",
    "demo": "",
}


@pytest.mark.parametrize("verb", VERBS)
def test_a_file_in_the_way_is_told_before_the_work(smorm, tmp_path, verb):
    (tmp_path / "file").touch()
    output = tmp_path / "file" / "out"
    code, _, err = smorm(verb, *VERBS[verb].split(), "--output", output)
    assert code == 1
    (line,) = err.splitlines()
    assert line.startswith(f"error: {output}")
    assert "could not be written: Not a directory" in line
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("option", ["--suggest", "--figures"])
def test_so_it_is_of_further_outputs(smorm, tmp_path, option):
    (tmp_path / "file").touch()
    other = tmp_path / "file" / "out"
    words = {
        "--suggest": ("diagnose", *VERBS["diagnose"].split()),
        "--figures": ("report", "none.json", "--output", tmp_path / "page.html"),
    }
    code, _, err = smorm(*words[option], option, other)
    assert code == 1
    assert err.startswith(f"error: {other}")
    assert "Not a directory" in err


def test_beside_a_page_that_is_no_file_no_figures_are_written(smorm, tmp_path):
    write_results(tmp_path / "results.json", runs({("A", "F"): {"ID": rising(1.0)}}, seeds=[0]))
    code, out, err = smorm("report", tmp_path / "results.json", "--output", "/dev/stdout")
    assert code == 0, err
    assert "page: /dev/stdout" in out
    assert "figures:" not in out


def test_scores_go_into_a_pipe_and_leave_nothing_beside_it(smorm, tmp_path):
    source = write_rows(tmp_path / "in.jsonl", [{"prompt": "p", "response": "one two"}] * 3)
    words = ("score", LENGTH, "--input", source, "--output")
    assert smorm(*words, tmp_path / "scores.jsonl")[0] == 0
    os.mkfifo(tmp_path / "pipe")
    # For both, so that it is open before the verb looks whether somebody reads.
    pipe = os.open(tmp_path / "pipe", os.O_RDWR | os.O_NONBLOCK)
    code, _, err = smorm(*words, tmp_path / "pipe")
    assert code == 0, err
    received = os.read(pipe, 1 << 16)
    os.close(pipe)
    assert received == (tmp_path / "scores.jsonl").read_bytes()
    assert len(list(map(orjson.loads, received.splitlines()))) == 3
    assert stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.jsonl", "pipe", "scores.jsonl"]
    code, _, err = smorm(*words, "/dev/stdout", "--resume")
    assert code == 2
    assert "/dev/stdout is a device or pipe: nothing is kept beside it" in err


def test_a_full_temporary_folder_is_one_line(smorm, tmp_path, monkeypatch):
    if os.geteuid() != 0:
        pytest.skip("only root mounts")
    disk = tmp_path / "disk"
    disk.mkdir()
    rows = [{"prompt": f"p {n}", "chosen": f"a {n}", "rejected": f"b {n}"} for n in range(3000)]
    source = write_rows(tmp_path / "pairs.jsonl", rows)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(disk)], check=True)
    monkeypatch.setattr(tempfile, "tempdir", str(disk))
    try:
        code, _, err = smorm("check", source)
        assert list(disk.iterdir()) == []
    finally:
        subprocess.run(["umount", str(disk)], check=True)
    assert code == 1
    assert "could not be written: No space left on device" in err
    assert "Traceback" not in err
