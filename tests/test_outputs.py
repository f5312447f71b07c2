"""Links, devices, permissions and room: what an output's path leads to, and what happens there."""

from __future__ import annotations

import os
import socket
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from smorm import files, unfinished
from smorm.errors import ConfigError, OutputError
from smorm.locks import only_run


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def sealed(folder: Path, content: bytes) -> None:
    with files.atomic_folder(folder) as scratch:
        (scratch / "a").write_bytes(content)


# Links


@pytest.mark.parametrize("there", [True, False])
def test_a_link_stays_and_its_target_gets_the_content(tmp_path, there):
    (tmp_path / "far").mkdir()
    if there:
        (tmp_path / "far" / "real.json").write_text("old")
    (tmp_path / "near.json").symlink_to("far/middle.json")
    (tmp_path / "far" / "middle.json").symlink_to("real.json")
    files.refuse_unwritable(tmp_path / "near.json")
    files.write_text(tmp_path / "near.json", "new")
    assert (tmp_path / "near.json").is_symlink()
    assert (tmp_path / "far" / "middle.json").is_symlink()
    assert (tmp_path / "far" / "real.json").read_text() == "new"
    assert names(tmp_path) == ["far", "near.json"]
    assert names(tmp_path / "far") == ["middle.json", "real.json"]


def test_a_link_into_a_folder_that_is_missing_makes_it(tmp_path):
    (tmp_path / "link").symlink_to("new/deep/a.txt")
    files.write_text(tmp_path / "link", "x")
    assert (tmp_path / "new" / "deep" / "a.txt").read_text() == "x"


@pytest.mark.parametrize("there", [True, False])
def test_of_a_link_to_a_folder_the_folder_behind_it_is_exchanged(tmp_path, there):
    (tmp_path / "disk").mkdir()
    if there:
        sealed(tmp_path / "disk" / "model", b"old")
    (tmp_path / "model").symlink_to("disk/model")
    sealed(tmp_path / "model", b"new")
    assert (tmp_path / "model").is_symlink()
    files.verify_folder(tmp_path / "disk" / "model")
    assert (tmp_path / "disk" / "model" / "a").read_bytes() == b"new"
    assert names(tmp_path) == ["disk", "model"]
    assert names(tmp_path / "disk") == ["model"]


def test_links_in_a_circle_are_one_line(tmp_path):
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    for write in (
        lambda: files.refuse_unwritable(tmp_path / "a"),
        lambda: files.write_text(tmp_path / "a", "x"),
        lambda: sealed(tmp_path / "a", b""),
    ):
        with pytest.raises(ConfigError, match=r"a: its links lead in a circle; name a file or fol"):
            write()
    assert names(tmp_path) == ["a", "b"]


def test_a_name_that_is_too_long_is_told_before_the_work(tmp_path):
    for refused in (files.refuse_unwritable, files.refuse_unwritable_folder):
        with pytest.raises(ConfigError, match="n: this name is too long"):
            refused(tmp_path / ("n" * 300))


# Devices, pipes, sockets


def device(path: Path, major: int, minor: int, kind: int = stat.S_IFCHR) -> Path:
    """A device of our own: a fault must not replace the machine's."""
    if os.geteuid() != 0:
        pytest.skip("only root makes devices")
    os.mknod(path, 0o666 | kind, os.makedev(major, minor))
    return path


def test_a_device_is_written_into_and_stays_a_device(tmp_path):
    null = device(tmp_path / "null", 1, 3)
    (tmp_path / "link").symlink_to("null")
    for path in (null, tmp_path / "link"):
        files.refuse_unwritable(path)
        files.write_json(path, {"a": 1})
    assert stat.S_ISCHR(null.stat().st_mode)
    assert names(tmp_path) == ["link", "null"]


def test_a_full_device_is_refused_before_the_work(tmp_path):
    full = device(tmp_path / "full", 1, 7)
    with pytest.raises(OutputError, match=r"full: could not be written: No space left on device"):
        files.refuse_unwritable(full)
    with pytest.raises(OutputError, match="No space left"):
        files.write_text(full, "x")
    assert stat.S_ISCHR(full.stat().st_mode)


def test_a_disk_and_a_socket_are_refused(tmp_path):
    # Of no driver: should it be opened nevertheless, nothing is lost.
    device(tmp_path / "disk", 250, 9, stat.S_IFBLK)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "socket"))
        for name in ("disk", "socket"):
            for refused in (files.refuse_unwritable, lambda path: files.write_text(path, "x")):
                with pytest.raises(ConfigError, match=f"{name}: is a {name}; name a file"):
                    refused(tmp_path / name)


@pytest.mark.parametrize("kind", ["device", "pipe", "file"])
def test_where_a_folder_is_wanted_nothing_else_will_do(tmp_path, kind):
    path = tmp_path / "out"
    if kind == "device":
        device(path, 1, 3)
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        path.write_text("mine")
    for refused in (files.refuse_unwritable_folder, lambda path: sealed(path, b"")):
        with pytest.raises(ConfigError, match="out: is no folder; name a folder"):
            refused(path)
    assert names(tmp_path) == ["out"]


def test_a_pipe_gets_the_whole_content_in_the_end(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(OutputError, match="pipe: could not be written: nobody reads this pipe"):
        files.refuse_unwritable(pipe)
    received: list[bytes] = []
    source = os.fdopen(os.open(pipe, os.O_RDONLY | os.O_NONBLOCK), "rb")
    os.set_blocking(source.fileno(), True)
    files.refuse_unwritable(pipe)  # must not tell the reader that this was all
    reader = threading.Thread(target=lambda: received.append(source.read()))
    reader.start()
    with files.atomic_file(pipe) as stream:
        stream.write(b"x" * 200_000)
        assert received == []
    reader.join()
    source.close()
    assert received == [b"x" * 200_000]
    assert stat.S_ISFIFO(pipe.stat().st_mode)


def test_work_that_fails_writes_nothing_into_a_pipe(tmp_path):
    os.mkfifo(tmp_path / "pipe")

    def fail() -> None:
        with files.atomic_file(tmp_path / "pipe") as stream:
            stream.write(b"half")
            raise RuntimeError

    # Nobody reads: had it been opened, there would be another error.
    with pytest.raises(RuntimeError):
        fail()
    assert names(tmp_path) == ["pipe"]


STDOUT = """
import sys
from pathlib import Path
from smorm import files

print("before")
files.refuse_unwritable(Path(sys.argv[1]))
files.write_text(Path(sys.argv[1]), "content\\n")
print("after")
"""


@pytest.mark.parametrize("path", ["/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"])
@pytest.mark.parametrize("target", ["file", "pipe"])
def test_standard_output_gets_the_content_in_its_place(tmp_path, path, target):
    """A shell's `> out.txt` has the file open: to replace it would lose all that is printed."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", STDOUT, path]
    if target == "pipe":
        printed = subprocess.run(
            command, stdout=subprocess.PIPE, env=environment, check=True
        ).stdout
    else:
        with (tmp_path / "out.txt").open("wb") as stream:
            subprocess.run(command, stdout=stream, env=environment, check=True)
        printed = (tmp_path / "out.txt").read_bytes()
    assert printed == b"before\ncontent\nafter\n"
    assert Path("/dev/stdout").is_symlink()


def test_a_descriptor_for_reading_is_refused(tmp_path):
    (tmp_path / "in.txt").write_text("mine")
    with (tmp_path / "in.txt").open("rb") as stream:
        path = Path(f"/proc/self/fd/{stream.fileno()}")
        with pytest.raises(OutputError, match="open for reading only"):
            files.refuse_unwritable(path)
    assert (tmp_path / "in.txt").read_text() == "mine"


# Permissions


@pytest.fixture(params=[0o022, 0o077, 0o002])
def umask(request):
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_all_files_have_the_permissions_that_the_umask_leaves(tmp_path, umask):
    root = tmp_path / "new"
    files.write_text(root / "a.txt", "x")
    with files.atomic_path(root / "b.safetensors") as path:
        save_file({"w": torch.zeros(1)}, path)
    with files.atomic_folder(root / "model") as scratch:
        save_file({"w": torch.zeros(1)}, scratch / "model.safetensors")
        (scratch / "private").touch(0o600)
        files.write_json(scratch / "config.json", {})
        (scratch / "deep").mkdir()
        save_file({"w": torch.zeros(1)}, scratch / "deep" / "head.safetensors")
    for path in (root, *root.rglob("*")):
        assert mode(path) == (0o777 if path.is_dir() else 0o666) & ~umask, path
    assert len(list(root.rglob("*"))) == 9


# Room


def mounted(folder: Path, options: str) -> None:
    folder.mkdir()
    if os.geteuid() != 0:
        pytest.skip("only root mounts")
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"nothing can be mounted here: {done.stderr.strip()}")


@pytest.fixture
def disk(tmp_path, request):
    mounted(tmp_path / "disk", request.param)
    yield tmp_path / "disk"
    subprocess.run(["umount", str(tmp_path / "disk")], check=True)


@pytest.mark.parametrize("disk", ["ro"], indirect=True)
def test_a_file_system_for_reading_only_is_refused_before_the_work(disk):
    for refused in (files.refuse_unwritable, files.refuse_unwritable_folder):
        with pytest.raises(OutputError, match=r"x: could not be written: Read-only file system"):
            refused(disk / "deep" / "x")


@pytest.mark.parametrize("disk", ["size=64k"], indirect=True)
def test_a_full_file_system_is_refused_before_the_work(disk):
    files.refuse_unwritable(disk / "x", size=1000)
    with pytest.raises(OutputError, match=r"x: could not be written: 7 MB are needed, and 0 MB"):
        files.refuse_unwritable_folder(disk / "x", size=7_000_000)
    with (
        pytest.raises(OutputError, match="7 MB are needed"),
        files.atomic_folder(disk / "x", 7_000_000),
    ):
        pytest.fail("the work began")
    (disk / "ballast").write_bytes(bytes(1 << 16))
    for refused in (files.refuse_unwritable, files.refuse_unwritable_folder):
        with pytest.raises(OutputError, match=r"x: could not be written: No space left on device"):
            refused(disk / "deep" / "x")
    assert names(disk) == ["ballast"]


@pytest.mark.parametrize("disk", ["size=64k"], indirect=True)
def test_a_full_file_system_has_no_room_for_a_lock_and_keeps_none(disk):
    # A folder takes no room of this file system, the line in the lock a block.
    (disk / "ballast").write_bytes(bytes(1 << 16))
    with pytest.raises(OutputError, match=r"running: could not be written: No space left"):
        only_run(disk / "run").__enter__()
    assert names(disk) == ["ballast"]
    (disk / "ballast").unlink()
    with only_run(disk / "run"):
        assert names(disk / "run") == [".running"]
    assert names(disk) == []


@pytest.mark.parametrize("disk", ["size=64k"], indirect=True)
def test_a_mount_cannot_be_exchanged_and_is_refused_before_the_work(disk):
    with pytest.raises(ConfigError, match="disk: a file system is mounted there; name a folder in"):
        files.refuse_unwritable_folder(disk)
    sealed(disk / "model", b"new")


def test_without_permission_it_is_refused_before_the_work(tmp_path):
    if os.geteuid() != 0:
        pytest.skip("only root can be somebody else for a moment")
    (tmp_path / "others").mkdir()
    left = unfinished.new_file(tmp_path / "others" / "left")[0]
    dead = left.rename(left.with_name(left.name.replace(f"-{os.getpid()}-", "-4194305-")))
    os.seteuid(65534)
    try:
        for refused in (files.refuse_unwritable, files.refuse_unwritable_folder):
            with pytest.raises(OutputError, match=r"x: could not be written: Permission denied"):
                refused(tmp_path / "others" / "deep" / "x")
        # What cannot be removed is nobody's fault.
        unfinished.sweep(tmp_path / "others")
    finally:
        os.seteuid(0)
    assert names(tmp_path / "others") == [dead.name]


def test_a_file_in_the_way_is_told_before_the_work_and_nothing_is_made(tmp_path):
    (tmp_path / "file").touch()
    files.refuse_unwritable(tmp_path / "deep" / "er" / "x")
    for refused in (files.refuse_unwritable, files.refuse_unwritable_folder):
        with pytest.raises(OutputError, match=r"file/x: could not be written: Not a directory"):
            refused(tmp_path / "file" / "x")
    assert names(tmp_path) == ["file"]
