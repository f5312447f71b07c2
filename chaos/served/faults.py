"""Faults of workers at random moments under load: only the batch that met one fails, with an honest
error; readiness tells the truth; what comes later is right; no process is left over."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from random import Random
from types import TracebackType

from chaos.served.process import ServerProcess, ended_by, rewards_file, wait_for
from chaos.served.traffic import MARK, SECONDS, Talk, Traffic, post, send, talks_of
from chaos.stage import Stage
from chaos.trial import Fault, Found

BATCH_SECONDS = 8.0
"""Of most servers here: a stall takes no minutes, and a machine that is busy is no stall."""
_LIE_SECONDS = 5.0
"""After which a worker's end must be known: the system tells it a moment later."""
WHOLE_STALL = 60.0
OF_ITEMS = ("raise", "memory", "nan", "infinite", "none", "short", "exit", "sys-exit", "segfault",
            "abort", "oom-kill")  # fmt: skip
"""Faults that lie in one item: whatever is scored beside it must be right."""
OF_BATCHES = ("stall", "broken", "SIGKILL", "SIGSEGV", "SIGSTOP")
"""Faults that a whole batch may fail of."""
_ERRORS = ("stalled", "model_failed", "non_finite")
Problems = Iterator[tuple[Fault, str]]


def break_workers(stage: Stage, folder: Path, count: int, seed: int) -> tuple[int, list[Found]]:
    """So many faults; how many there were, and what was wrong."""
    talks = [replace(talk, deadline=SECONDS) for talk in talks_of(stage.model)]
    findings: list[Found] = []
    shares = (count - count // 2 - count // 5, count // 2, count // 5)
    plans = (
        ("items", OF_ITEMS, (), "cpu", shares[0]),
        ("batches", OF_BATCHES, _ERRORS, "cpu", shares[1]),
        ("two-workers", ("SIGKILL", "stall", "SIGSEGV", "SIGSTOP"), _ERRORS, "cpu,cpu", shares[2]),
    )
    for name, kinds, errors, devices, number in plans:
        random = Random(f"served-workers-{name}-{seed}")
        if not number:
            continue
        server = _start(stage, folder / name, devices, BATCH_SECONDS)
        try:
            problems = [*_trials(server, talks, random, kinds, errors, number)]
            findings += [Found(f"served_workers/{name}", *problem) for problem in problems]
        finally:
            server.kill()
    if count >= 50:
        server = _start(stage, folder / "whole-stall", "cpu", WHOLE_STALL)
        try:
            problems = [*_trials(server, talks, Random(seed), ("stall",), _ERRORS, 1)]
            findings += [Found("served_workers/whole-stall", *problem) for problem in problems]
        finally:
            server.kill()
        count += 1
    return count, findings


def _start(stage: Stage, folder: Path, devices: str, batch_seconds: float) -> ServerProcess:
    server = ServerProcess(
        folder, f"joint={stage.model}", f"length={rewards_file('reward')}", "--port", "0",
        "--device", devices, "--batch-seconds", str(batch_seconds),
    )  # fmt: skip
    server.wait_until_serving()
    return server


def _trials(
    server: ServerProcess, talks: Sequence[Talk], random: Random, kinds: Sequence[str],
    errors: Sequence[str], count: int,
) -> Problems:  # fmt: skip
    """Faults one after the other on one server under load."""
    processes, devices = len(server.processes()), len(server.workers())
    several = devices > 1
    with Traffic(server.port, talks, errors=errors) as traffic, Watch(server, several) as watch:
        for index in range(count):
            kind = kinds[index % len(kinds)]
            threading.Event().wait(random.uniform(0.0, 0.3))
            for problem in _one_fault(server, talks, random, kind, devices):
                yield problem[0], f"{kind}/{index}: {problem[1]}"
    for seen in (*traffic.problems, *watch.problems):
        yield Fault.WRONG, seen
    if not traffic.counts["right"]:
        yield Fault.WRONG, f"nothing was scored beside the faults: {traffic.counts}"
    quiet = wait_for(lambda: len(server.processes()) <= processes, SECONDS)
    zombies = [line.pid for line in server.processes() if line.state == "Z"]
    if zombies or not quiet:
        yield Fault.ORPHAN, f"{len(server.processes())} processes, {len(zombies)} of them zombies"
    yield from server.said(MARK)
    yield from ended_by(server, signal.SIGTERM)


def _one_fault(
    server: ServerProcess, talks: Sequence[Talk], random: Random, kind: str, devices: int
) -> Problems:  # fmt: skip
    workers = server.workers()
    if kind.startswith("SIG"):
        worker = random.choice(workers)
        os.kill(worker, signal.Signals[kind])
        # A stopped one is noticed with its next batch: the traffic sees to that.
        if not wait_for(lambda: worker not in server.workers(), SECONDS):
            yield Fault.HANG, "the worker that got a signal still has its place"
            return
    else:
        yield from _bad_item(server.port, kind)
        # Its error may arrive before it is known that the worker is to blame.
        if kind == "broken" and not wait_for(lambda: server.workers() != workers, SECONDS):
            yield Fault.HANG, "a worker that fails at everything still has its place"
            return

    def all_healthy() -> bool:
        # The server may not know yet that one has ended; one that loads has helpers of its own.
        return len(server.workers()) == devices == _healthy(server.port)

    if not wait_for(all_healthy, SECONDS):
        yield Fault.HANG, f"{_healthy(server.port)} healthy workers of {devices}"
        return
    if send(server.port, "GET", "/readyz").status != 200:
        yield Fault.WRONG, "not ready, though every worker is healthy"
    talk = random.choice(talks)
    problem = talk.wrong(post(server.port, "/v1/score", talk.body()))
    if problem is not None:
        yield Fault.WRONG, f"ready, but: {problem}"


def _healthy(port: int) -> int:
    """How many workers the server's metrics call healthy."""
    page = send(port, "GET", "/metrics").body.decode("ascii")
    (line,) = [line for line in page.splitlines() if line.startswith("smorm_healthy_workers ")]
    return int(float(line.split()[1]))


def _bad_item(port: int, kind: str) -> Problems:
    """A request with one bad item between two good ones."""
    seconds = " 600" if kind == "stall" else ""
    items = [
        {"prompt": MARK, "response": text} for text in ("ab", f"fault:{kind}{seconds}", "abcd")
    ]
    body = {"model": "length", "items": items, "deadline_ms": int(SECONDS * 1000)}
    answer = post(port, "/v1/score", body)
    if answer.status != 200:
        yield Fault.WRONG, f"status {answer.status}: {answer.body!r:.200}"
        return
    first, bad, last = answer.json()["items"]
    if "error" not in bad:
        yield Fault.WRONG, f"a made-up score: {bad}"
    elif bad["error"]["type"] not in _ERRORS or (kind == "stall") != (
        bad["error"]["type"] == "stalled"
    ):
        yield Fault.WRONG, f"a dishonest error: {bad}"
    for item, value in ((first, 2.0), (last, 4.0)):
        if "error" in item:
            if kind in OF_ITEMS:
                yield Fault.WRONG, f"a good item failed beside it: {item}"
        elif item["views"] != {"length": value}:
            yield Fault.WRONG, f"{item}, not {value}"


class Watch:
    """A thread that asks for readiness all the time: ready without any worker is a lie, and with
    several workers the server must be ready all the time."""

    def __init__(self, server: ServerProcess, always: bool) -> None:
        self.problems: list[str] = []
        self._server, self._always = server, always
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._look)

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:  # fmt: skip
        self._ending.set()
        self._thread.join()

    def _look(self) -> None:
        lied_since = None
        while not self._ending.wait(0.05):
            before = self._server.workers()
            try:
                ready = send(self._server.port, "GET", "/readyz").status == 200
            except OSError as error:
                self.problems.append(f"/readyz: {type(error).__name__}: {error}")
                continue
            after = self._server.workers()
            if not ready or before or after:
                lied_since = None
            elif lied_since is None:
                lied_since = time.monotonic()
            elif time.monotonic() - lied_since > _LIE_SECONDS:
                self.problems.append("ready without a worker")
            if self._always and not ready and set(before) & set(after):
                self.problems.append(f"not ready, though a worker lives: {before}, {after}")
