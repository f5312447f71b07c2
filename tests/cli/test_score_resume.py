"""A scoring run that was interrupted goes on where it was, and scores as one that was not."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import orjson
import pytest

from tests.processes import Command
from tests.tiny import trained

SLOW = '''
import time
from pathlib import Path

CALLS = Path(__file__).with_suffix(".calls")
HOLD = Path(__file__).with_name("hold")


def slow(prompts, completions):
    """Lengths. How often it was called stands in a file; no second call ends while it is held."""
    with CALLS.open("a") as calls:
        calls.write("x")
    while HOLD.exists() and CALLS.stat().st_size > 1:
        time.sleep(0.02)
    return [float(len(completion[-1]["content"])) for completion in completions]
'''
CHUNK = 512


@pytest.fixture
def data(tmp_path: Path) -> Path:
    rows = [{"id": i, "prompt": f"p{i}", "response": "x" * (i % 50 + 1)} for i in range(3 * CHUNK)]
    path = tmp_path / "in.jsonl"
    path.write_bytes(b"".join(orjson.dumps(row) + b"\n" for row in rows))
    (tmp_path / "rewards.py").write_text(SLOW)
    return path


def words(data: Path) -> list[str]:
    reward = f"{data.parent / 'rewards.py'}:slow"
    return ["score", reward, "--input", str(data), "--output", str(data.parent / "out.jsonl")]


def stopped(data: Path, sign: signal.Signals) -> tuple[int, str]:
    """Exit code and standard error of a run that gets a signal after its first chunk."""
    part, hold = data.parent / "out.jsonl.part", data.parent / "hold"
    hold.touch()
    with Command(*words(data)) as command:
        while not part.exists() and command.process.is_alive():
            time.sleep(0.02)
        command.send_signal(sign)
        code, err = command.wait(), command.stderr.read()
    hold.unlink()
    return code, err


@pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGKILL], ids=["ctrl-c", "kill"])
def test_an_interrupted_run_is_named_and_goes_on(smorm, data, sign):
    code, err = stopped(data, sign)
    output, part = data.parent / "out.jsonl", data.parent / "out.jsonl.part"
    if sign == signal.SIGINT:
        assert code == 130
        assert f"{output}: stopped: 512 of 1,536 lines are scored; --resume goes on" in err
    assert not output.exists()
    code, _, err = smorm(*words(data))
    assert code == 2
    assert f"{part}: an unfinished run left it: go on with it (--resume), or delete it" in err
    with part.open("ab") as stream:  # as if it had been killed while it wrote
        stream.write(b'{"where": "in.jsonl:513", "id"')
    code, said, err = smorm(*words(data), "--resume")
    assert code == 0, err
    assert "1536 responses in 1536 lines" in said
    lines = [orjson.loads(line) for line in output.read_bytes().splitlines()]
    assert [line["id"] for line in lines] == list(range(3 * CHUNK))
    assert [line["view"] for line in lines] == [i % 50 + 1 for i in range(3 * CHUNK)]
    assert not part.exists()


def test_what_another_run_left_is_refused_by_what_changed(smorm, data):
    stopped(data, signal.SIGINT)
    before = data.read_bytes()
    data.write_bytes(before + b'{"prompt": "p", "response": "more"}\n')
    code, _, err = smorm(*words(data), "--resume")
    assert code == 2
    assert "out.jsonl.part: is of another run (input changed)" in err
    data.write_bytes(before)
    code, _, err = smorm(*words(data), "--resume", "--keep", "prompt")
    assert code == 2
    assert "(options changed)" in err
    code, _, err = smorm("score", trained(), *words(data)[2:], "--resume")
    assert code == 2
    assert "(reward changed)" in err
    (data.parent / "out.jsonl.part").write_text("notes of mine\n")
    code, _, err = smorm(*words(data), "--resume")
    assert code == 2
    assert "is no unfinished run of smorm score" in err


def test_a_bad_line_after_hours_of_scoring_loses_nothing(smorm, tmp_path):
    rows = [{"id": i, "prompt": "p", "response": f"r{i}"} for i in range(CHUNK)]
    data = tmp_path / "in.jsonl"
    bad = b'{"id": "bad", "prompt": "p"}\n'
    data.write_bytes(b"".join(orjson.dumps(row) + b"\n" for row in rows) + bad)
    words = ["score", trained(), "--input", data, "--output", tmp_path / "out.jsonl"]
    code, _, err = smorm(*words)
    assert code == 3
    assert "in.jsonl:513" in err
    assert (tmp_path / "out.jsonl.part").exists()
    code, said, err = smorm(*words, "--resume", "--skip-bad")
    assert code == 0, err
    assert "512 responses in 513 lines, 1 lines without a score" in said
    last = orjson.loads((tmp_path / "out.jsonl").read_bytes().splitlines()[-1])
    assert last["id"] == "bad"
    assert "error" in last


def test_an_ensemble_goes_on_with_the_member_that_was_not_done(smorm, data):
    sources = (data.parent / "rewards.py").read_text()
    (data.parent / "second.py").write_text(
        sources.replace("    with CALLS", "    raise KeyboardInterrupt\n    with CALLS")
    )
    first, second = f"{data.parent / 'rewards.py'}:slow", f"{data.parent / 'second.py'}:slow"
    words = ["score", first, second, "--combine", "mean", "--input", data, "--output",
             data.parent / "out.jsonl"]  # fmt: skip
    code, _, err = smorm(*words)
    assert code == 130
    assert "1,536 of 3,072 lines are scored" in err
    (data.parent / "second.py").write_text(sources)
    code, _, err = smorm(*words, "--resume")
    assert code == 0, err
    # Three chunks by each member: the first did not score again.
    assert (data.parent / "rewards.calls").read_text() == "xxx"
    assert (data.parent / "second.calls").read_text() == "xxx"
    lines = [orjson.loads(line) for line in (data.parent / "out.jsonl").read_bytes().splitlines()]
    assert [line["view"] for line in lines] == [i % 50 + 1 for i in range(3 * CHUNK)]
    assert not list(data.parent.glob("*part*"))
