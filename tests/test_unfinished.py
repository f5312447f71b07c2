"""What killed processes left is removed by the next one in the same place; what lives stays."""

from __future__ import annotations

import contextlib
import os
import stat
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import pytest

from smorm import files, unfinished
from smorm.errors import OutputError

WRITER = """
import sys
from pathlib import Path
from smorm import files

root = Path(sys.argv[1])
with (
    files.atomic_folder(root / "model") as scratch,
    files.atomic_file(root / "scores.jsonl") as stream,
    files.scratch_folder("smorm-tokens") as temporary,
):
    (scratch / "weights").write_bytes(b"1")
    (temporary / "ids").write_bytes(b"2")
    stream.write(b"3")
    print("writing", flush=True)
    sys.stdin.read()
"""


def started(code: str, folder: Path, **more: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), **more}
    command = [sys.executable, "-c", code, str(folder)]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, env=environment)


def hidden(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.name.startswith("."))


@pytest.fixture
def temporary(tmp_path, monkeypatch):
    """A folder for temporary files of its own."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def test_the_next_start_removes_what_a_killed_process_left(tmp_path, temporary):
    root = tmp_path / "root"
    with started(WRITER, root, TMPDIR=str(temporary)) as victim:
        assert victim.stdout.readline() == "writing\n"
        files.write_text(root / "other.txt", "x")
        with files.scratch_folder("smorm-check") as own:
            pass
        assert len(hidden(root)) == 2, "its writer lives"
        assert len(hidden(temporary)) == 1
        victim.kill()
        # Nobody has waited for it: it stays a zombie, as in a container without an init.
        os.waitid(os.P_PID, victim.pid, os.WEXITED | os.WNOWAIT)
        assert len(hidden(root)) == 2
        files.write_text(root / "other.txt", "y")
        with files.scratch_folder("smorm-check") as own:
            assert hidden(temporary) == [own]
        assert hidden(root) == []
    assert hidden(temporary) == []


def test_a_process_that_lives_gets_its_outputs(tmp_path, temporary):
    with started(WRITER, tmp_path, TMPDIR=str(temporary)) as writer:
        assert writer.stdout.readline() == "writing\n"
        files.write_text(tmp_path / "other.txt", "x")
        writer.stdin.close()
        assert writer.wait(60) == 0
    files.verify_folder(tmp_path / "model")
    assert (tmp_path / "scores.jsonl").read_bytes() == b"3"
    assert hidden(tmp_path) == hidden(temporary) == []


def left_by(
    path: Path, *, system: str | None = None, pid: int | None = None, later: int = 0
) -> Path:
    """A hidden file as another process would have named it."""
    owner = unfinished._OWNER.search(path.name)
    start = int(owner["start"]) + later
    name = f".smorm-{system or owner['system']}-{pid or owner['pid']}-{start}-abcdef"
    return path.rename(path.with_name(path.name[: owner.start()] + name))


def test_a_process_that_has_the_number_of_a_dead_one_is_another(tmp_path):
    own, _ = unfinished.new_file(tmp_path / "own")
    left_by(unfinished.new_file(tmp_path / "reused")[0], later=-1)
    unfinished.sweep(tmp_path)
    assert hidden(tmp_path) == [own]


def test_what_another_system_left_goes_after_a_day(tmp_path):
    recent = left_by(unfinished.new_file(tmp_path / "recent")[0], system="0" * 8, pid=1)
    old = left_by(unfinished.new_file(tmp_path / "old")[0], system="0" * 8, pid=1)
    os.utime(old, (0, 0))
    # A folder is as old as the newest file in it.
    at_work = unfinished.new_folder(tmp_path / "at work")
    (at_work / "ids").touch()
    at_work = left_by(at_work, system="0" * 8)
    os.utime(at_work, (0, 0))
    unfinished.sweep(tmp_path)
    assert hidden(tmp_path) == sorted([recent, at_work])


def test_files_of_others_are_never_swept(tmp_path):
    kept = [".bashrc", ".a.json.abc12345", "x.smorm-1-2-3", ".y.smorm-12345678-1-1-abcdef.txt"]
    for name in kept:
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (0, 0))
    unfinished.sweep(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(kept)


def test_a_folder_that_was_moved_aside_comes_back_unless_a_new_one_stands_there(tmp_path):
    """Killed between the two steps of a replacement, on a file system that cannot swap."""
    for name in ("missing", "replaced"):
        aside = unfinished.new_folder(tmp_path / name, ending=".old")
        (aside / name).mkdir()
        (aside / name / "old").touch()
        owner = unfinished._OWNER.search(aside.name)
        aside.rename(aside.with_name(aside.name.replace(f"-{owner['start']}-", "-1-")))
    (tmp_path / "replaced").mkdir()
    unfinished.sweep(tmp_path)
    assert hidden(tmp_path) == []
    assert [path.name for path in (tmp_path / "missing").iterdir()] == ["old"]
    assert list((tmp_path / "replaced").iterdir()) == []


def test_a_folder_that_is_removed_is_whole_or_gone(tmp_path):
    folder = tmp_path / "folder"
    folder.mkdir()
    for number in range(2000):
        (folder / str(number)).touch()
    torn: list[int] = []

    def watch() -> None:
        while folder.exists():
            with contextlib.suppress(FileNotFoundError):
                count = len(os.listdir(folder))
                # Seen by its name before and after: not one that was renamed in between.
                if count < 2000 and folder.exists():
                    torn.append(count)

    watcher = threading.Thread(target=watch)
    watcher.start()
    files.remove_folder(folder)
    watcher.join()
    assert torn == []
    assert list(tmp_path.iterdir()) == []
    files.remove_folder(folder)  # what is not there is no error


def test_of_a_link_the_link_is_removed(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    files.remove_folder(tmp_path / "link")
    assert [path.name for path in tmp_path.iterdir()] == ["real"]


@pytest.mark.parametrize("name", ["a" * 255, "é" * 127])
def test_the_longest_names_can_be_written(tmp_path, name):
    files.write_text(tmp_path / name, "x")
    with files.atomic_folder(tmp_path / name[::-1].upper()) as scratch:
        assert len(os.fsencode(scratch.name)) <= 255
    assert len(list(tmp_path.iterdir())) == 2
    assert hidden(tmp_path) == []


def test_temporary_folders_are_for_their_user_alone(temporary):
    with files.scratch_folder("smorm-tokens") as folder:
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        assert folder.parent == temporary
    assert hidden(temporary) == []


def test_where_no_temporary_folder_can_be_made_it_is_one_line(temporary, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(temporary / "none"))
    with pytest.raises(OutputError, match=r"No such file or directory.*let TMPDIR name"):
        files.scratch_folder("smorm-tokens").__enter__()
