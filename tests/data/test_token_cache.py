"""Tokens are found again when nothing that decides them changed, and made anew when it did."""

from __future__ import annotations

import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import datasets
import pytest
from transformers import AutoTokenizer

from smorm.data.encode import Encoder
from smorm.data.reading import Source
from smorm.data.token_cache import default_cache, tokens_of
from smorm.data.tokeniser import Tokeniser
from smorm.errors import DataError, OutputError, SmormError
from smorm.files import verify_folder
from smorm.text.chat import Message, Renderer
from smorm.world import backbone_path
from tests.data.sources import jsonl
from tests.data.stores import encoder, lines, pairs, ratings, same, stored, wanted

ROOT = Path(__file__).resolve().parents[2]


def entries(cache: Path) -> list[Path]:
    return sorted(cache.glob("tokens-*"))


@pytest.mark.parametrize("make", [pairs, ratings])
def test_a_second_run_reads_the_same_tokens_census_and_quarantine(tmp_path, caplog, make):
    kind = "preference" if make is pairs else "rated"
    path = make(tmp_path / "source.jsonl", 60)
    found = []
    for run in ("one", "two", "none"):
        cache = None if run == "none" else str(tmp_path / "cache")
        with caplog.at_level(logging.INFO, logger="smorm"):
            found.append(stored(wanted(path, kind, tmp_path / run), cache))
        assert ("tokens: read from cache" in caplog.text) == (run == "two")
        caplog.clear()
    assert same(found[0], found[1])
    assert same(found[0], found[2])
    assert len(entries(tmp_path / "cache")) == 1
    if kind == "preference":
        kept = [
            (tmp_path / run / "quarantine.jsonl").read_bytes() for run in ("one", "two", "none")
        ]
        assert kept[0] == kept[1] == kept[2]
        assert len(kept[0].splitlines()) == 4


def test_data_that_was_moved_is_found_and_its_places_have_the_new_name(tmp_path, caplog):
    path = pairs(tmp_path / "here.jsonl", 60)
    before = stored(wanted(path, run=tmp_path / "one"), str(tmp_path / "cache"))
    moved = tmp_path / "there:2.jsonl"
    path.rename(moved)
    with caplog.at_level(logging.INFO, logger="smorm"):
        after = stored(wanted(moved, run=tmp_path / "two"), str(tmp_path / "cache"))
    assert "read from cache" in caplog.text
    assert after.where(0) == f"{moved}:{before.where(0).rpartition(':')[2]}"
    told, now = str(before.census.as_dict()), str(after.census.as_dict())
    assert now == told.replace(str(path), str(moved))
    for then, today in zip(
        lines(tmp_path / "one" / "quarantine.jsonl"),
        lines(tmp_path / "two" / "quarantine.jsonl"),
        strict=True,
    ):
        assert today["where"] == str(then["where"]).replace(str(path), str(moved))
        assert str(today["reason"]).startswith(f"{today['where']}: chosen: ")
        assert today["row"] == then["row"]


def test_whatever_decides_the_tokens_makes_an_entry_of_its_own(tmp_path):
    path = pairs(tmp_path / "source.jsonl", 40)
    base, cache, used = wanted(path), str(tmp_path / "cache"), encoder()
    tokenizer = AutoTokenizer.from_pretrained(backbone_path())
    tokenizer.add_tokens(["metals"])
    other = pairs(tmp_path / "other.jsonl", 40)
    other.write_bytes(other.read_bytes().replace(b"tin", b"nit", 1))
    requests = [
        (base, used),
        (replace(base, source=Source(path, stride=2)), used),
        (replace(base, source=Source(path, limit=9)), used),
        (replace(base, source=Source(path, format="preference")), used),
        (replace(base, source=Source(other)), used),
        (base, replace(used, max_tokens=40)),
        (base, replace(used, overlong="drop")),
        (base, Encoder(Renderer(tokenizer, None, 48), 48, "truncate_prompt")),
        (base, Encoder(Renderer(used.renderer.tokenizer, "{{ messages }}", 48), 48, "drop")),
    ]
    for count, (want, by) in enumerate(requests, start=1):
        with Tokeniser(by, 1) as tokeniser:
            tokens_of(want, tokeniser, cache)
        assert len(entries(tmp_path / "cache")) == count


def test_the_order_of_attributes_is_kept_apart(tmp_path):
    path, cache = ratings(tmp_path / "r.jsonl", 20), str(tmp_path / "cache")
    for names in (["clarity", "wit"], ["wit", "clarity"]):
        store = stored(wanted(path, "rated", attributes={name: name for name in names}), cache)
        assert store.attributes == tuple(names)


@pytest.mark.parametrize("name", ["ids.bin", "store.json", "manifest.json", "gone", "foreign"])
def test_a_damaged_or_foreign_entry_is_told_and_made_anew(tmp_path, caplog, name):
    want, cache = wanted(pairs(tmp_path / "source.jsonl", 40)), str(tmp_path / "cache")
    stored(want, cache)
    (entry,) = entries(tmp_path / "cache")
    if name == "gone":
        (entry / "ids.bin").unlink()
    elif name == "foreign":
        shutil.rmtree(entry)
        entry.mkdir()
        (entry / "notes.txt").write_text("mine")
    else:
        content = bytearray((entry / name).read_bytes())
        content[len(content) // 2] ^= 1
        (entry / name).write_bytes(bytes(content))
    with caplog.at_level(logging.INFO, logger="smorm"):
        again = stored(want, cache)
    assert "tokens: the cache is damaged: " in caplog.text
    assert str(entry) in caplog.text
    assert "read from cache" not in caplog.text
    assert same(stored(want, None), again)
    verify_folder(entry)


def test_small_sources_leave_nothing_in_the_users_cache_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("SMORM_CACHE", str(tmp_path / "mine"))
    assert default_cache() == tmp_path / "mine"
    path = pairs(tmp_path / "source.jsonl", 20)
    stored(wanted(path), "auto")
    assert not (tmp_path / "mine").exists()
    row = {"prompt": "metals", "chosen": "tin", "rejected": "soft", "note": "x" * (9 << 20)}
    large = jsonl(tmp_path / "large.jsonl", [row])
    stored(wanted(large), "auto")
    assert len(entries(tmp_path / "mine")) == 1


def test_the_users_cache_folder_follows_the_systems_habit(monkeypatch):
    monkeypatch.delenv("SMORM_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert default_cache() == Path("/somewhere/smorm")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert default_cache() == Path.home() / ".cache" / "smorm"


def test_a_cache_that_cannot_be_written_is_told(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match=str(tmp_path / "file")):
        stored(wanted(pairs(tmp_path / "source.jsonl", 20)), str(tmp_path / "file" / "cache"))


def test_a_saved_dataset_is_cached_by_its_bytes(tmp_path, caplog):
    rows = [{"prompt": f"metals {n % 3}", "chosen": "tin", "rejected": "soft"} for n in range(9)]
    saved = tmp_path / "saved"
    datasets.DatasetDict({"train": datasets.Dataset.from_list(rows)}).save_to_disk(saved)
    first = stored(wanted(saved), str(tmp_path / "cache"))
    shutil.move(saved, tmp_path / "moved")
    with caplog.at_level(logging.INFO, logger="smorm"):
        second = stored(wanted(tmp_path / "moved"), str(tmp_path / "cache"))
    assert "read from cache" in caplog.text
    assert second.where(8) == f"{tmp_path / 'moved'}[train]:9"
    assert first.content == second.content


@pytest.mark.slow
def test_bad_records_that_stop_a_run_stop_it_at_the_same_place_in_any_process(tmp_path):
    """A long record stands behind the first chunk, a broken line far behind it."""
    rows: list[object] = [
        {"prompt": f"metals {n}", "chosen": "tin .", "rejected": "soft ."} for n in range(900)
    ]
    rows[300] = {"prompt": "metals", "chosen": "tin " * 90, "rejected": "soft"}
    path = jsonl(tmp_path / "source.jsonl", rows)
    with path.open("ab") as stream:
        stream.write(b"{\n")
    strict = Encoder(encoder().renderer, 48, "error")
    told = []
    for workers in (1, 2):
        want = replace(wanted(path), on_bad_record="stop")
        with Tokeniser(strict, workers) as tokeniser, pytest.raises(DataError) as caught:
            tokens_of(want, tokeniser, str(tmp_path / "cache"))
        told.append(str(caught.value))
    assert told[0] == told[1]
    assert told[0].startswith(f"{path}:301: the conversation has ")
    assert list((tmp_path / "cache").iterdir()) == [], "nothing of it is left"
    rows[300] = rows[0]
    with path.open("rb") as stream:
        broken = stream.read().splitlines()[-1]
    path.write_bytes(b"".join(json.dumps(row).encode() + b"\n" for row in rows) + broken + b"\n")
    for workers in (1, 2):
        want = replace(wanted(path), on_bad_record="stop")
        with (
            Tokeniser(strict, workers) as tokeniser,
            pytest.raises(DataError, match=r"source\.jsonl:901: line: not valid JSON"),
        ):
            tokens_of(want, tokeniser, None)


# Processes

WRITER = """
import sys
from pathlib import Path
from tests.data.stores import stored, wanted
store = stored(wanted(Path(sys.argv[1]), run=Path(sys.argv[3])), sys.argv[2], int(sys.argv[4]))
print(len(store), store.content)
"""


def writer(path: Path, cache: Path, run: Path, workers: int = 1) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}
    command = [sys.executable, "-c", WRITER, str(path), str(cache), str(run), str(workers)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)


def at_work(cache: Path) -> Path:
    """Wait until a writer has written tokens; returns its scratch folder."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        for ids in cache.glob(".tokens-*/ids.bin"):
            if ids.stat().st_size > 0:
                return ids.parent
        time.sleep(0.01)
    raise AssertionError("no writer began")


def children(pid: int) -> list[int]:
    return [int(p) for p in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def gone(pid: int) -> bool:
    try:
        return ") Z " in Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return True


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="needs /proc to see processes")
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_a_killed_writer_leaves_no_entry_and_no_process(tmp_path, number):
    path, cache = pairs(tmp_path / "source.jsonl", 20_000), tmp_path / "cache"
    with writer(path, cache, tmp_path / "run", workers=2) as victim:
        scratch = at_work(cache)
        helpers = children(victim.pid)
        assert len(helpers) == 2
        victim.send_signal(number)
        assert victim.wait(60) != 0
    assert entries(cache) == []
    deadline = time.monotonic() + 20
    while not all(map(gone, helpers)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert all(map(gone, helpers))
    if number == signal.SIGKILL:
        assert scratch.exists(), "it had no chance to clean up"
    stored(wanted(pairs(tmp_path / "small.jsonl", 20)), str(cache))
    assert not scratch.exists(), "the next writer removes what a dead one left"
    assert len(entries(cache)) == 1


@pytest.mark.slow
def test_two_writers_of_one_entry_both_end_with_it(tmp_path):
    path, cache = pairs(tmp_path / "source.jsonl", 3_000), tmp_path / "cache"
    both = [writer(path, cache, tmp_path / name) for name in ("one", "two")]
    told = [one.communicate(timeout=200)[0] for one in both]
    assert [one.returncode for one in both] == [0, 0]
    assert told[0] == told[1] != ""
    (entry,) = entries(cache)
    verify_folder(entry)
    assert list(cache.glob(".tokens-*")) == []
    assert told[0].split()[1] == stored(wanted(path), str(cache)).content


@pytest.mark.slow
def test_a_process_that_dies_is_told():
    others = children(os.getpid())
    with Tokeniser(encoder(), 2) as tokeniser:
        records = ((number, None) for number in range(10_000))
        text = (Message("text", "tin soft"),)
        found = tokeniser.tokenised(records, lambda _: ((), [text]), 0)
        next(found)
        for worker in set(children(os.getpid())) - set(others):
            os.kill(worker, signal.SIGKILL)
        with pytest.raises(SmormError, match=r"ended in the middle \(exit code -9"):
            list(found)
