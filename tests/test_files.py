"""Files and folders are whole or not there: killed, out of disk, damaged."""

from __future__ import annotations

import contextlib
import json
import math
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import numpy as np
import pytest
import torch

from smorm import files
from smorm.data.scaling import AttributeScale
from smorm.errors import CheckpointError, ConfigError, DataError, OutputError
from smorm.model.card import ModelCard
from smorm.model.network import RewardNetwork
from smorm.model.run_folder import list_checkpoints
from smorm.model.store import load_model, save_model
from smorm.text.tokenizers import train_bpe
from smorm.training.folder import load_checkpoint, newest_checkpoint
from smorm.training.saving import Saver
from tests.model.architectures import tiny


def card_of(name: str) -> ModelCard:
    return ModelCard(attributes=(name,), scales=(AttributeScale(name),))


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def sealed(folder: Path, **contents: bytes) -> Path:
    with files.atomic_folder(folder) as scratch:
        for name, content in contents.items():
            files.write_bytes(scratch / name, content)
    return folder


# Writing


def test_a_file_is_replaced_and_nothing_else_is_left(tmp_path):
    for text in ("one", "zwei ü"):
        files.write_text(tmp_path / "deep" / "a.txt", text)
        assert (tmp_path / "deep" / "a.txt").read_text(encoding="utf-8") == text
    assert names(tmp_path / "deep") == ["a.txt"]
    assert (tmp_path / "deep" / "a.txt").stat().st_mode & 0o777 == 0o644


def test_json_is_what_it_was_and_what_is_not_finite_is_null(tmp_path):
    value = {"a": [1, 2.5, None], "b": np.arange(3), "c": math.nan, "d": Path("x/y"), "e": math.inf}
    files.write_json(tmp_path / "a.json", value)
    found = files.read_json(tmp_path / "a.json")
    assert found == {"a": [1, 2.5, None], "b": [0, 1, 2], "c": None, "d": "x/y", "e": None}


def test_what_json_cannot_hold_leaves_the_older_file(tmp_path):
    files.write_json(tmp_path / "a.json", [1])
    with pytest.raises(TypeError, match="not JSON serializable"):
        files.write_json(tmp_path / "a.json", object())
    assert files.read_json(tmp_path / "a.json") == [1]


@pytest.mark.parametrize("levels", [101, 900])
def test_json_of_many_levels_is_refused(tmp_path, levels):
    path = tmp_path / "a.json"
    path.write_bytes(b'{"a": ' * levels + b"1" + b"}" * levels)
    with pytest.raises(DataError, match=r"a\.json: nested deeper: .*SMORM_LIMIT_DEPTH"):
        files.read_json(path)


@pytest.mark.parametrize("content", [b"", b"{", b"\xff", b"[1] 2"])
def test_broken_json_is_told_with_file_and_line(tmp_path, content):
    path = tmp_path / "a.json"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"a\.json:1: not valid JSON"):
        files.read_json(path)
    with pytest.raises(DataError, match=r"none\.json: no such file"):
        files.read_json(tmp_path / "none.json")
    with pytest.raises(DataError, match="cannot be read"):
        files.read_json(tmp_path)


def test_a_target_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("in the way")
    for write in (
        lambda: files.write_text(tmp_path / "file" / "a.txt", "x"),
        lambda: sealed(tmp_path / "file" / "folder", a=b"1"),
    ):
        with pytest.raises(OutputError, match=r"file/.*: could not be written: .*untouched"):
            write()
    assert names(tmp_path) == ["file"]


def test_a_folder_in_the_place_of_a_file_is_told_before_the_work(tmp_path):
    (tmp_path / "out").mkdir()
    with (
        pytest.raises(ConfigError, match=r"out: is a folder; name a file"),
        files.atomic_file(tmp_path / "out"),
    ):
        pytest.fail("the work began")
    assert names(tmp_path) == ["out"]


def test_a_fingerprint_knows_values_and_not_their_order():
    assert files.fingerprint({"a": 1, "b": [2]}) == files.fingerprint({"b": [2], "a": 1})
    assert files.fingerprint({"a": 1}) != files.fingerprint({"a": 2})
    assert len(files.fingerprint(None)) == 16


def test_a_folder_appears_sealed_and_a_new_one_takes_its_place(tmp_path):
    folder = sealed(tmp_path / "f", a=b"1", b=b"2")
    files.verify_folder(folder)
    sealed(folder, c=b"3")
    files.verify_folder(folder)
    assert names(folder) == ["c", "manifest.json"]
    assert names(tmp_path) == ["f"]


def test_an_error_while_writing_leaves_the_older_folder(tmp_path):
    folder = sealed(tmp_path / "f", a=b"1")

    def half(error):
        with files.atomic_folder(folder) as scratch:
            (scratch / "a").write_bytes(b"half")
            raise error

    for error in (RuntimeError, KeyboardInterrupt):
        with pytest.raises(error):
            half(error)
    files.verify_folder(folder)
    assert (folder / "a").read_bytes() == b"1"
    assert names(tmp_path) == ["f"]


def test_a_folder_that_is_replaced_is_never_missing(tmp_path):
    target, done, missing = sealed(tmp_path / "f", a=b"0"), threading.Event(), []
    if not files._exchange(sealed(tmp_path / "one"), sealed(tmp_path / "two")):
        pytest.skip("this system cannot swap two folders in one step")

    def watch():
        while not done.is_set():
            if not target.exists():
                missing.append(1)

    watcher = threading.Thread(target=watch)
    watcher.start()
    for n in range(80):
        sealed(target, a=str(n).encode())
    done.set()
    watcher.join()
    assert missing == []
    assert names(tmp_path) == ["f", "one", "two"]


def test_where_folders_cannot_be_swapped_they_are_moved(tmp_path):
    target, scratch = sealed(tmp_path / "f", a=b"old"), sealed(tmp_path / "s", a=b"new")
    old = files._replace_in_two_steps(scratch, target)
    assert (target / "a").read_bytes() == b"new"
    assert (old / "f" / "a").read_bytes() == b"old"
    with pytest.raises(OSError, match="No such file"):
        files._replace_in_two_steps(tmp_path / "none", target)
    assert (target / "a").read_bytes() == b"new"


# Damage


def small_network() -> tuple[RewardNetwork, torch.optim.Optimizer]:
    torch.manual_seed(0)
    network = RewardNetwork(tiny("llama", num_hidden_layers=1), rows=2, pad_id=0)
    optimizer = torch.optim.AdamW(network.parameters(), lr=0.1)
    network.head.weight.sum().backward()
    optimizer.step()
    return network, optimizer


def save(folder: Path, step: int, keep: int = 9) -> Path:
    network, optimizer = small_network()
    named = dict(network.named_parameters())
    return Saver(folder, named, optimizer, keep).save({"step": step, "data": "d"})


def damages(path: Path):
    """A file in many ways: bytes flipped, cut short, emptied, grown, gone."""
    content = path.read_bytes()
    rng = np.random.default_rng(len(content))
    places = {0, len(content) // 2, len(content) - 1, *rng.integers(0, len(content), 8).tolist()}
    for place in sorted(places):
        for bits in (0x01, 0xFF):
            flipped = bytearray(content)
            flipped[place] ^= bits
            yield f"bits {bits} of byte {place}", bytes(flipped)
    for length in sorted({0, 1, len(content) // 2, len(content) - 2}):
        yield f"cut to {length}", content[:length]
    yield "grown", content + b"\0"
    yield "gone", None


def test_every_kind_of_damage_to_every_file_of_a_checkpoint_is_found(tmp_path, caplog):
    older, newest = save(tmp_path, 1), save(tmp_path, 2)
    count = 0
    for path in sorted(newest.iterdir()):
        content = path.read_bytes()
        for what, damaged in damages(path):
            path.unlink() if damaged is None else path.write_bytes(damaged)
            with pytest.raises(CheckpointError, match="step-00000002"):
                files.verify_folder(newest)
            assert newest_checkpoint(tmp_path) == older, (path.name, what)
            count += 1
        path.write_bytes(content)
    files.verify_folder(newest)
    assert newest_checkpoint(tmp_path) == newest
    assert count > 80
    assert "Trying the one before it" in caplog.text


def test_a_manifest_that_is_json_but_no_manifest_is_damage(tmp_path):
    folder = sealed(tmp_path / "f", a=b"1")
    for value in ([], 7, {}, {"sha256": []}, {"sha256": {"a": 5}}, {"sha256": None}):
        (folder / "manifest.json").write_text(json.dumps(value))
        with pytest.raises(CheckpointError):
            files.verify_folder(folder)


def test_where_all_checkpoints_are_damaged_none_is_used(tmp_path):
    assert newest_checkpoint(tmp_path) is None
    for step in (1, 2):
        (save(tmp_path, step) / "weights.safetensors").write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"no checkpoint in .* is whole.*Start anew"):
        newest_checkpoint(tmp_path)


def test_a_checkpoint_comes_back_with_the_same_bits(tmp_path):
    network, optimizer = small_network()
    path = save(tmp_path, 3)
    other, _ = small_network()
    for parameter in other.parameters():
        parameter.data.normal_()
    fresh = torch.optim.AdamW(other.parameters(), lr=0.1)
    load_checkpoint(path, dict(other.named_parameters()), fresh)
    for one, two in zip(network.parameters(), other.parameters(), strict=True):
        assert torch.equal(one, two)
        assert optimizer.state[one].keys() == fresh.state[two].keys()
        for key, value in optimizer.state[one].items():
            assert torch.equal(value, fresh.state[two][key])
    assert files.read_json(path / "state.json") == {"step": 3, "data": "d"}


def test_a_checkpoint_of_another_model_is_refused(tmp_path):
    path = save(tmp_path, 3)
    for change in ({"num_hidden_layers": 2}, {"num_hidden_layers": 1, "intermediate_size": 40}):
        other = RewardNetwork(tiny("llama", **change), rows=2, pad_id=0)
        optimizer = torch.optim.AdamW(other.parameters())
        with pytest.raises(CheckpointError, match=r"other parameters|another shape"):
            load_checkpoint(path, dict(other.named_parameters()), optimizer)


def test_only_the_newest_are_kept_and_torn_ones_are_cleared_away(tmp_path):
    (tmp_path / ".step-00000001.torn").mkdir()
    for step in (1, 2, 10, 11):
        save(tmp_path, step, keep=2)
    assert names(tmp_path) == ["step-00000010", "step-00000011"]
    assert [path.name for path in list_checkpoints(tmp_path)] == names(tmp_path)


def test_a_whole_checkpoint_of_the_same_step_stays_and_a_damaged_one_is_replaced(tmp_path):
    path = save(tmp_path, 1)
    before = (path / "weights.safetensors").stat().st_mtime_ns
    save(tmp_path, 1)
    assert (path / "weights.safetensors").stat().st_mtime_ns == before
    (path / "weights.safetensors").write_bytes(b"damaged")
    save(tmp_path, 1)
    files.verify_folder(path)


# SIGKILL

KILLER = '''
import json, os, random, signal, sys, tempfile, time
from pathlib import Path
from smorm import files
from smorm.errors import CheckpointError, DataError

SIZE = 200_000

def content(n):
    return n.to_bytes(4, "big") * (SIZE // 4)

def write_whole(root, n):
    for name in (f"step-{n:08d}", "model"):
        with files.atomic_folder(root / name) as scratch:
            for part in "ab":
                files.write_bytes(scratch / part, content(n))
    files.write_json(root / "latest.json", {"n": n, "pad": "x" * SIZE})

def write_in_place(root, n):
    for name in (f"step-{n:08d}", "model"):
        (root / name).mkdir(exist_ok=True)
        sums = {}
        for part in "ab":
            (root / name / part).write_bytes(content(n))
            files.fsync_path(root / name / part)
            sums[part] = files.sha256(root / name / part)
        (root / name / "manifest.json").write_text(json.dumps({"sha256": sums}))
    (root / "latest.json").write_text(json.dumps({"n": n, "pad": "x" * SIZE}))

def number(folder):
    files.verify_folder(folder)
    return int.from_bytes((folder / "a").read_bytes()[:4], "big")

def problem(root, done):
    """What is wrong after a kill, or None. `done` saves were reported as finished."""
    try:
        steps = sorted(root.glob("step-*"))
        if [number(path) for path in steps] != list(range(1, len(steps) + 1)) or len(steps) < done:
            return "a finished step is lost"
        if number(root / "model") < done:
            return "the newest model is lost"
        if files.read_json(root / "latest.json")["n"] < done:
            return "the newest file is lost"
    except (CheckpointError, DataError, OSError) as error:
        return str(error)
    return None

def kill_once(write, root, wait):
    read, report = os.pipe()
    child = os.fork()
    if child == 0:
        n = 0
        while True:
            n += 1
            write(root, n)
            os.write(report, b".")
    os.close(report)
    done = len(os.read(read, 1))
    time.sleep(wait)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    while more := os.read(read, 65536):
        done += len(more)
    os.close(read)
    return done

write = {"whole": write_whole, "in place": write_in_place}[sys.argv[1]]
rng = random.Random(int(sys.argv[3]))
result = {"kills": 0, "saves": 0, "scratch": 0, "problems": []}
for _ in range(int(sys.argv[2])):
    with tempfile.TemporaryDirectory(dir=sys.argv[4]) as name:
        root = Path(name)
        done = kill_once(write, root, rng.uniform(0.0, 0.04))
        result["kills"] += 1
        result["saves"] += done
        result["scratch"] += bool(list(root.glob(".*")))
        if found := problem(root, done):
            result["problems"].append(found)
print(json.dumps(result))
'''


def kill(how: str, times: int, folder: Path) -> dict:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", KILLER, how, str(times), "7", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.slow
def test_sixty_kills_at_random_times_lose_nothing_that_was_saved(tmp_path):
    found = kill("whole", 60, tmp_path)
    assert found["problems"] == []
    assert found["kills"] == 60
    assert found["saves"] >= 60
    assert found["scratch"] >= 15, "many kills must fall into a save for this to prove anything"


def test_the_same_kills_tear_what_is_written_in_place(tmp_path):
    found = kill("in place", 20, tmp_path)
    assert len(found["problems"]) >= 5, "the control: this is what the kills do without the care"


# A full disk


LIMITED = """
import resource, sys
from pathlib import Path
import torch
from smorm import files
from smorm.errors import OutputError
from smorm.training.saving import Saver

folder = Path(sys.argv[1])
weight = torch.nn.Parameter(torch.arange(50_000.0))
optimizer = torch.optim.AdamW([weight])

def attempt(write):
    try:
        write()
    except OutputError as error:
        print(error)
    else:
        print("written")

def save(step):
    Saver(folder / "c", {"w": weight}, optimizer, 9).save({"step": step})

def short(path):
    files.write_bytes(path, b"y" * 300_000)

attempt(lambda: save(1))
attempt(lambda: short(folder / "a.bin"))
# A process may write no file larger than this: the system then refuses with EFBIG.
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
attempt(lambda: save(2))
attempt(lambda: files.write_bytes(folder / "a.bin", b"z" * 300_000))
attempt(lambda: files.write_bytes(folder / "small.bin", b"z" * 30))
"""


@pytest.mark.slow
def test_a_write_that_the_system_refuses_names_the_path_and_keeps_what_was_there(tmp_path):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", LIMITED, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    first, second, third, fourth, fifth = done.stdout.splitlines()
    assert first == second == fifth == "written"
    assert third.startswith(f"{tmp_path}/c/step-00000002: could not be written: ")
    assert fourth.startswith(f"{tmp_path}/a.bin: could not be written: File too large.")
    assert names(tmp_path) == ["a.bin", "c", "small.bin"]
    assert names(tmp_path / "c") == ["step-00000001"]
    files.verify_folder(tmp_path / "c" / "step-00000001")
    assert (tmp_path / "a.bin").read_bytes() == b"y" * 300_000


@contextlib.contextmanager
def disk_of_one_megabyte():
    """A real small disk; skips, with the reason, where none can be mounted."""
    if os.geteuid() != 0 or shutil.which("mount") is None:
        pytest.skip("a small disk needs root and mount")
    # Not in pytest's folder: where this process is killed, the disk stays mounted, and pytest could
    # not clean up.
    folder = Path(tempfile.mkdtemp(prefix="smorm-small-disk-"))
    command = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"no small disk can be mounted here: {done.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)
        folder.rmdir()


def fill(disk: Path, leave: int) -> None:
    """Ballast, so that so many bytes are left."""
    (disk / "ballast").unlink(missing_ok=True)
    space = os.statvfs(disk)
    (disk / "ballast").write_bytes(b"b" * max(0, space.f_bavail * space.f_frsize - leave))


def test_a_full_disk_keeps_the_checkpoint_before_wherever_the_save_breaks(tmp_path):
    with disk_of_one_megabyte() as disk:
        older = save(disk / "c", 1)
        size = sum(path.stat().st_size for path in older.iterdir())
        failures = 0
        for leave in range(0, size, 4096):
            fill(disk, leave)
            with pytest.raises(OutputError, match=r"step-00000002.*could not be written") as caught:
                save(disk / "c", 2)
            assert str(disk) in str(caught.value)
            assert names(disk / "c") == [older.name]
            assert newest_checkpoint(disk / "c") == older
            failures += 1
        assert failures >= 5
        fill(disk, 2 * size)
        assert newest_checkpoint(disk / "c") == older
        assert newest_checkpoint(disk / "c") != save(disk / "c", 2) == newest_checkpoint(disk / "c")


def test_a_full_disk_keeps_the_model_before_wherever_the_save_breaks(tmp_path):
    network, _ = small_network()
    tokenizer = train_bpe(["some words"], 300)
    with disk_of_one_megabyte() as disk:
        save_model(disk / "m", network, tokenizer, card_of("a"))
        size = sum(path.stat().st_size for path in (disk / "m").iterdir())
        for leave in range(0, size, 4096):
            fill(disk, leave)
            with pytest.raises(OutputError, match=r"could not be written") as caught:
                save_model(disk / "m", network, tokenizer, card_of("b"))
            assert str(disk) in str(caught.value)
            assert names(disk) == ["ballast", "m"]
        _, _, card = load_model(disk / "m")
        assert card.attributes == ("a",)
