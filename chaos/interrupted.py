"""Every verb stopped at a random moment, then run again; and two runs onto one output at once."""

from __future__ import annotations

import os
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random

from chaos.stage import Stage
from chaos.trial import Command, Ended, Fault, Trial, run_here, run_in_child, verb
from chaos.verbs import Writing, writing_verbs

Faults = Iterator[tuple[Fault, str]]
_SIGNALS = (signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


class References:
    """What each verb writes, and how long it takes, undisturbed; found when first asked for."""

    def __init__(self, stage: Stage) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="references-", dir=stage.folder))
        self._seconds: dict[str, float] = {}

    def seconds(self, writing: Writing) -> float:
        """How long the verb takes."""
        if writing.name not in self._seconds:
            workplace = self._folder / writing.name
            workplace.mkdir()
            ended = run_in_child(verb(*writing.to("out")), workplace)
            if ended.code not in (0, 1):
                raise RuntimeError(f"smorm {writing.name}: {ended.output}")
            self._seconds[writing.name] = ended.seconds
        return self._seconds[writing.name]

    def content(self, writing: Writing) -> dict[str, bytes]:
        """The bytes that it writes, by file."""
        self.seconds(writing)
        return content_of(self._folder / writing.name / "out")


def content_of(path: Path) -> dict[str, bytes]:
    """The files of a folder, or the one file, with their bytes."""
    if path.is_file():
        return {"": path.read_bytes()}
    files = sorted(each for each in path.rglob("*") if each.is_file())
    return {each.relative_to(path).as_posix(): each.read_bytes() for each in files}


def trials(stage: Stage, seed: int, count: int) -> Iterator[Trial]:
    """A verb that gets a signal, then the same verb to its end: its output must be as if nothing
    had happened, and nothing else may be left."""
    writings = [writing for writing in writing_verbs(stage) if writing.name != "train"]
    references = References(stage)
    for index in range(count):
        random = Random(f"interrupted-{seed}-{index}")
        writing = writings[index % len(writings)]
        moment = random.uniform(0, 1.1) * references.seconds(writing)
        number = random.choice(_SIGNALS)
        again = _again(random, writing)
        judge = _judge_of(writing, references)
        act = verb(*writing.to("out"))
        commands = [Command(act, moment, number), Command(verb(*again))]
        yield Trial(f"interrupted/{writing.name}/{number.name}/{index}", commands, judge)


def _again(random: Random, writing: Writing) -> tuple[str, ...]:
    if writing.name == "score" and random.random() < 0.5:
        return (*writing.to("out"), "--resume")
    return writing.to("out")


def _judge_of(writing: Writing, references: References) -> Callable[[Path, Ended], Faults]:
    def judge(folder: Path, ended: Ended) -> Faults:
        # A verb that makes a folder refuses one that the first run had finished.
        finished_before = writing.folder and ended.code == 2
        if ended.code not in (0, 1) and not finished_before:
            yield Fault.WRONG, f"exit code {ended.code}: {ended.output[-300:]}"
        elif content_of(folder / "out") != references.content(writing):
            yield Fault.DIFFERENCE, "not the bytes of an undisturbed run"

    return judge


def race_trials(stage: Stage, seed: int, count: int) -> Iterator[Trial]:
    """Two processes that begin at once with one output: one result, whole, and no other trace."""
    writings = writing_verbs(stage)
    references = References(stage)
    for index in range(count):
        writing = writings[index % len(writings)]
        act = _twice(verb(*writing.to("out")))
        judge = _judge_race(writing, references)
        yield Trial(f"races/{writing.name}/{index}", [Command(act)], judge)


def _twice(act: Callable[[Path], None]) -> Callable[[Path], None]:
    """Two forks of the child; the exit code is 0 where each ended with one that is allowed."""

    def both(folder: Path) -> None:
        children = []
        for _ in range(2):
            child = os.fork()
            if child == 0:
                run_here(act, folder)
            children.append(child)
        codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
        sys.exit(0 if min(codes) in (0, 1) else max(codes))

    return both


def _judge_race(writing: Writing, references: References) -> Callable[[Path, Ended], Faults]:
    def judge(folder: Path, ended: Ended) -> Faults:
        if ended.code != 0:
            yield Fault.WRONG, f"neither came through, {ended.code}: {ended.output[-300:]}"
        elif writing.same_bytes and content_of(folder / "out") != references.content(writing):
            yield Fault.DIFFERENCE, "not the bytes of an undisturbed run"

    return judge
