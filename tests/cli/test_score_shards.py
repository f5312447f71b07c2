"""`smorm score --shards` by processes that run at the same time, one of them killed, and joined."""

from __future__ import annotations

import signal
import sys
import time

from tests.cli.test_score_resume import CHUNK, data, words  # noqa: F401  (a fixture)
from tests.processes import Command


def test_two_processes_one_of_them_killed_give_the_file_of_one(smorm, data):  # noqa: F811
    output, hold = data.parent / "out.jsonl", data.parent / "hold"
    code, said, _ = smorm(*words(data))
    assert code == 0
    assert "1536 responses in 1536 lines" in said
    whole = output.read_bytes()
    output.unlink()
    (data.parent / "rewards.calls").unlink()  # of the run above
    # Three chunks: the first shard has two of them. It is held in its second.
    hold.touch()
    calls = data.parent / "rewards.calls"
    with Command(*words(data), "--shards", "1/2") as one:
        while not calls.exists() or calls.stat().st_size < 2:
            time.sleep(0.02)
        with Command(*words(data), "--shards", "2/2") as two:
            one.send_signal(signal.SIGKILL)
            assert one.wait() == -signal.SIGKILL
            hold.unlink()
            assert two.wait() == 0, two.stderr.read()
    code, _, err = smorm("join", output)
    assert code == 3
    assert "out.jsonl.shard-1-of-2: missing" in err
    code, said, err = smorm(*words(data), "--shards", "1/2", "--resume")
    assert code == 0, err
    assert f"out.jsonl.shard-1-of-2: {2 * CHUNK} responses" in said
    # No chunk that was finished is scored again, but that in which the first one was killed.
    assert calls.read_text() == "xxxx"
    code, said, err = smorm("join", output)
    assert code == 0, err
    assert "out.jsonl: 1536 responses in 1536 lines" in said
    assert output.read_bytes() == whole
    assert not list(data.parent.glob("*.part"))


def test_what_is_no_shard_or_has_no_place_for_one_is_one_line(smorm, data):  # noqa: F811
    code, _, err = smorm(*words(data), "--shards", "3/2")
    assert code == 2
    assert err == "error: --shards 3/2: expected i/n, such as 1/4 to 4/4\n"
    code, _, err = smorm(*words(data)[:-1], "/dev/null", "--shards", "1/2")
    assert code == 2
    assert "/dev/null is a device or pipe: name a file" in err


def test_without_ray_it_is_one_line(smorm, data, monkeypatch):  # noqa: F811
    monkeypatch.setitem(sys.modules, "ray", None)
    code, _, err = smorm(*words(data), "--ray", 2)
    assert code == 2
    (line,) = err.splitlines()
    assert line.startswith("error: --ray: needs the package ray (")
    assert line.endswith("): pip install 'smorm[ray]'")
