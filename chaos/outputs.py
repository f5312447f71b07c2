"""Outputs at odd places: links, devices, full disks, wrong kinds, masks of permissions."""

from __future__ import annotations

import os
import resource
import signal
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random

from chaos.stage import Stage
from chaos.trial import Command, Ended, Fault, Trial, reopen_output, verb
from chaos.verbs import Writing, writing_verbs

Faults = Iterator[tuple[Fault, str]]
_OLD = b"what was there before\n"


def trials(stage: Stage, seed: int, count: int) -> Iterator[Trial]:
    """Every verb at every odd place in turn, then again with other numbers."""
    cases: list[tuple[Writing, Callable[[Random, Writing], Trial]]] = []
    for writing in writing_verbs(stage):
        makers = _FOLDER_CASES if writing.folder else _FILE_CASES
        cases += [(writing, make) for make in (*makers, *_ALL_CASES)]
    Random(f"outputs-{seed}").shuffle(cases)
    for index in range(count):
        writing, make = cases[index % len(cases)]
        yield make(Random(f"outputs-{seed}-{index}"), writing)


def _trial(
    writing: Writing,
    case: str,
    prepare: Callable[[Path], None],
    judge: Callable[[Path, Ended], Faults],
    output: str = "out",
) -> Trial:
    """A verb run after `prepare`."""
    act = verb(*writing.to(output))

    def both(folder: Path) -> None:
        prepare(folder)
        act(folder)

    return Trial(f"outputs/{writing.name}/{case}", [Command(both)], judge)


def _accepted(folder: Path, ended: Ended) -> Faults:
    if ended.code not in (0, 1):
        yield Fault.WRONG, f"refused, exit code {ended.code}: {ended.output[-300:]}"


def _refused(folder: Path, ended: Ended) -> Faults:
    if ended.code == 0:
        yield Fault.WRONG, f"accepted: {ended.output[-300:]}"


def _link_to_file(random: Random, writing: Writing) -> Trial:
    def prepare(folder: Path) -> None:
        (folder / "target").write_bytes(_OLD)
        (folder / "out").symlink_to("target")

    def judge(folder: Path, ended: Ended) -> Faults:
        yield from _accepted(folder, ended)
        if not (folder / "out").is_symlink():
            yield Fault.DIFFERENCE, "the link was replaced"
        elif ended.code == 0 and (folder / "target").read_bytes() == _OLD:
            yield Fault.DIFFERENCE, "the link's target has its old content"

    return _trial(writing, "link", prepare, judge)


def _link_to_folder(random: Random, writing: Writing) -> Trial:
    def prepare(folder: Path) -> None:
        (folder / "target").mkdir()
        (folder / "out").symlink_to("target")

    def judge(folder: Path, ended: Ended) -> Faults:
        if not (folder / "out").is_symlink():
            yield Fault.DIFFERENCE, "the link was replaced"
        elif ended.code == 0 and not any((folder / "target").iterdir()):
            yield Fault.DIFFERENCE, "the folder behind the link is empty"

    return _trial(writing, "link-to-folder", prepare, judge)


def _dangling_link(random: Random, writing: Writing) -> Trial:
    def judge(folder: Path, ended: Ended) -> Faults:
        yield from _accepted(folder, ended)
        if not (folder / "out").is_symlink() or not (folder / "missing").exists():
            yield Fault.DIFFERENCE, "the link's target was not made"

    return _trial(writing, "dangling", lambda at: (at / "out").symlink_to("missing"), judge)


def _link_loop(random: Random, writing: Writing) -> Trial:
    def prepare(folder: Path) -> None:
        (folder / "out").symlink_to("other")
        (folder / "other").symlink_to("out")

    return _trial(writing, "link-loop", prepare, _refused)


def _pipe(random: Random, writing: Writing) -> Trial:
    def judge(folder: Path, ended: Ended) -> Faults:
        yield from _refused(folder, ended)
        if not stat.S_ISFIFO((folder / "out").lstat().st_mode):
            yield Fault.DIFFERENCE, "the pipe was replaced"

    return _trial(writing, "pipe", lambda at: os.mkfifo(at / "out"), judge)


def _device(minor: int, name: str) -> Callable[[Random, Writing], Trial]:
    """A device of its own with the numbers of /dev/null (1, 3) or /dev/full (1, 7)."""

    def make(random: Random, writing: Writing) -> Trial:
        def prepare(folder: Path) -> None:
            # Where devices may not be made, a link to the system's own: a link must stay a link.
            try:
                os.mknod(folder / "out", 0o666 | stat.S_IFCHR, os.makedev(1, minor))
            except PermissionError:
                (folder / "out").symlink_to(f"/dev/{name}")

        def judge(folder: Path, ended: Ended) -> Faults:
            if not stat.S_ISCHR((folder / "out").stat().st_mode):
                yield Fault.DIFFERENCE, "the device was replaced"
            if name == "full":
                yield from _refused(folder, ended)
            else:
                yield from _accepted(folder, ended)

        return _trial(writing, name, prepare, judge)

    return make


def _is_folder(random: Random, writing: Writing) -> Trial:
    return _trial(writing, "is-folder", lambda at: (at / "out").mkdir(), _refused)


def _is_file(random: Random, writing: Writing) -> Trial:
    def judge(folder: Path, ended: Ended) -> Faults:
        yield from _refused(folder, ended)
        if (folder / "out").read_bytes() != _OLD:
            yield Fault.DIFFERENCE, "the file in the folder's place was changed"

    return _trial(writing, "is-file", lambda at: _write_old(at / "out"), judge)


def _write_old(path: Path) -> None:
    path.write_bytes(_OLD)


def _parent_is_file(random: Random, writing: Writing) -> Trial:
    return _trial(
        writing, "parent-is-file", lambda at: _write_old(at / "parent"), _refused, "parent/out"
    )


def _long_name(random: Random, writing: Writing) -> Trial:
    return _trial(writing, "long-name", lambda at: None, _refused, "n" * 300)


def _odd_name(random: Random, writing: Writing) -> Trial:
    name = random.choice(("sp ace", "ünïcode", "-dash", "a\tb", "a\x1b]0;x\x07b", "per%cent", "~"))
    return _trial(writing, "odd-name", lambda at: None, _accepted, f"./{name}")


def _mask(random: Random, writing: Writing) -> Trial:
    mask = random.choice((0o077, 0o002, 0o022, 0o027))

    def prepare(folder: Path) -> None:
        os.umask(mask)

    def judge(folder: Path, ended: Ended) -> Faults:
        yield from _accepted(folder, ended)
        paths = [path for path in (folder / "out").rglob("*") if not path.is_symlink()]
        for path in [folder / "out", *paths]:
            full = 0o777 if path.is_dir() else 0o666
            mode = stat.S_IMODE(path.stat().st_mode)
            if mode != full & ~mask:
                yield Fault.DIFFERENCE, f"{path.name}: {mode:o} under the mask {mask:o}"
                return

    return _trial(writing, f"mask-{mask:o}", prepare, judge)


def _full_disk(random: Random, writing: Writing) -> Trial:
    """No file may grow beyond a few bytes, as on a disk that is nearly full."""
    limit = random.choice((0, 1, 100, 3_000, 20_000))

    def prepare(folder: Path) -> None:
        if not writing.folder:
            _write_old(folder / "out")
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        # The command's output is a pipe's, which is not limited: this process writes it into the
        # trial's file and ends as the command, a fork of it, does.
        read, write = os.pipe()
        command = os.fork()
        if command != 0:
            os.close(write)
            while chunk := os.read(read, 65_536):
                os.write(1, chunk)
            _, status = os.waitpid(command, 0)
            os._exit(os.waitstatus_to_exitcode(status) & 0xFF)
        os.dup2(write, 1)
        os.dup2(write, 2)
        os.close(write)
        os.close(read)
        reopen_output()
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    def judge(folder: Path, ended: Ended) -> Faults:
        out = folder / "out"
        if ended.code in (0, 1) or writing.folder:
            return
        if not out.exists() or out.read_bytes() != _OLD:
            yield Fault.DIFFERENCE, "what was there before is gone"

    return _trial(writing, f"full-disk-{limit}", prepare, judge)


_FILE_CASES = (
    _link_to_file,
    _dangling_link,
    _pipe,
    _device(3, "null"),
    _device(7, "full"),
    _is_folder,
)
_FOLDER_CASES = (_is_file, _link_to_folder)
_ALL_CASES = (_link_loop, _parent_is_file, _long_name, _odd_name, _mask, _full_disk, _full_disk)
