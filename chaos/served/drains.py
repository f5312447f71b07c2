"""Servers that are told to end at unlucky moments: what was accepted is answered, the exit code is
right, and nothing is left."""

from __future__ import annotations

import http.client
import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from random import Random

import orjson

from chaos.served.process import ServerProcess, ended_by, rewards_file, wait_for
from chaos.served.traffic import MARK, SECONDS, Answer, Talk, Traffic, post, send, talks_of
from chaos.served.wires import Connection, request
from chaos.stage import Stage
from chaos.trial import Fault, Found

_DRAIN_SECONDS = 6.0
"""In which the traffic notices that the server drains, and sends no more."""
_AT_ONCE_SECONDS = 3.0
Problems = Iterator[tuple[Fault, str]]
Scenario = Callable[[ServerProcess, list[Talk], Random], Problems]


def drain(stage: Stage, folder: Path, count: int, seed: int) -> tuple[int, list[Found]]:
    """So many servers that are ended; how many there were, and what was wrong."""
    folder.mkdir(exist_ok=True)
    talks = [replace(talk, deadline=SECONDS) for talk in talks_of(stage.model)]
    names = list(SCENARIOS)

    def one(index: int) -> list[Found]:
        name = names[index % len(names)]
        flags, scenario = SCENARIOS[name]
        server = ServerProcess(
            folder / f"server-{index}", f"joint={stage.model}", f"length={rewards_file('reward')}",
            "--port", "0", *flags,
        )  # fmt: skip
        try:
            if scenario is not _while_starting:
                server.wait_until_serving()
            problems = [*scenario(server, talks, Random(f"served-drains-{seed}-{index}"))]
            problems += server.said(MARK)
        finally:
            server.kill()
        return [Found(f"served_drains/{name}/{index}", *problem) for problem in problems]

    # Most of a trial is the start, and waiting.
    with ThreadPoolExecutor(2) as pool:
        findings = [finding for found in pool.map(one, range(count)) for finding in found]
    return count, findings


def _under_load(number: int) -> Scenario:
    """The signal comes while several clients send one request after the other."""

    def scenario(server: ServerProcess, talks: list[Talk], random: Random) -> Problems:
        with Traffic(server.port, talks, threads=4) as traffic:
            threading.Event().wait(random.uniform(0.2, 1.5))
            yield from _signal_and_stop(server, traffic, number)
        yield from _problems_of(traffic)
        yield from _wait(server)

    return scenario


def _while_restarting(server: ServerProcess, talks: list[Talk], random: Random) -> Problems:
    """The worker has just died."""
    with Traffic(server.port, talks, threads=3, errors=("model_failed",)) as traffic:
        threading.Event().wait(0.3)
        worker = server.workers()[0]
        os.kill(worker, signal.SIGKILL)
        threading.Event().wait(random.choice((0.0, 0.02, 0.1, 0.5)))
        yield from _signal_and_stop(server, traffic, signal.SIGTERM)
    yield from _problems_of(traffic)
    yield from _wait(server)


def _long_batches(server: ServerProcess, talks: list[Talk], random: Random) -> Problems:
    """What is computed, and what waits behind it, is answered though no new request is accepted."""
    with ThreadPoolExecutor(8) as pool:
        sent = [pool.submit(_slow_request, server.port, 10.0)]
        sent += [pool.submit(post, server.port, "/v1/score", talk.body()) for talk in talks[:6]]
        yield from _accepted(server.port, len(sent))
        server.process.send_signal(signal.SIGTERM)
        yield from _right_slow(sent[0], "fault:stall 10.0")
        for future, talk in zip(sent[1:], talks[:6], strict=True):
            yield from _right(future, talk)
    yield from _wait(server)


def _held(server: ServerProcess, talks: list[Talk], random: Random) -> Problems:
    """OpenRLHF's requests that wait for room in the queue are answered too."""
    with ThreadPoolExecutor(8) as pool:
        slow = pool.submit(_slow_request, server.port, 10.0)
        if not wait_for(lambda: _metric(server.port, "smorm_queue_seconds_count") > 0, SECONDS):
            yield Fault.HANG, "the slow batch does not begin"
        waiting = pool.submit(post, server.port, "/v1/score", talks[0].body())
        if not wait_for(lambda: _waiting(server.port) > 0, SECONDS):
            yield Fault.HANG, "nothing waits behind a slow batch"
        body = {"model": "joint", "query": [f"{MARK} a", "b"]}
        held = [pool.submit(post, server.port, "/get_reward", body) for _ in range(5)]
        yield from _accepted(server.port, 2 + len(held))
        server.process.send_signal(signal.SIGTERM)
        yield from _right_slow(slow, "fault:stall 10.0")
        yield from _right(waiting, talks[0])
        answers = [future.result() for future in held]
        if any(answer.status != 200 for answer in answers):
            yield Fault.WRONG, f"held: {[(each.status, each.body[:100]) for each in answers]}"
        elif len({orjson.dumps(answer.json()["rewards"]) for answer in answers}) != 1:
            yield Fault.WRONG, "held: different rewards of the same text"
    yield from _wait(server)


def _two_signals(server: ServerProcess, talks: list[Talk], random: Random) -> Problems:
    """The second one waits for nothing: clients are refused, and the exit code says so."""
    number = random.choice((signal.SIGTERM, signal.SIGINT))
    with ThreadPoolExecutor(4) as pool:
        sent = [pool.submit(_slow_request, server.port, 600.0)]
        sent += [pool.submit(post, server.port, "/v1/score", talk.body()) for talk in talks[:2]]
        yield from _accepted(server.port, len(sent))
        server.process.send_signal(number)
        time.sleep(random.uniform(0.0, 0.5))
        yield from ended_by(server, number, (130,))
        for future in sent:
            try:
                kinds = _kinds(future.result())
            except (OSError, http.client.HTTPException) as error:
                yield Fault.WRONG, f"no answer: {type(error).__name__}: {error}"
                continue
            if kinds - {"stopping"}:
                yield Fault.WRONG, f"not refused as a server that ends refuses: {kinds}"


def _while_starting(server: ServerProcess, talks: list[Talk], random: Random) -> Problems:
    """Before it serves there is nothing to drain."""
    time.sleep(random.uniform(0.3, 6.0))
    number = random.choice((signal.SIGTERM, signal.SIGINT))
    # Before Python has the program's handlers the system's own apply.
    yield from ended_by(server, number, (0, 130, -number))


def _slow_body(server: ServerProcess, talks: list[Talk], random: Random) -> Problems:
    """A request whose body is under way when the signal comes is answered."""
    data = request(orjson.dumps(talks[0].body()))
    with Connection(server.port) as connection:
        connection.send(data[:-20])
        yield from _accepted(server.port, 1)
        server.process.send_signal(signal.SIGTERM)
        time.sleep(2.0)
        connection.send(data[-20:])
        answer = connection.answer()
    problem = "no answer" if answer is None else talks[0].wrong(answer)
    if problem is not None:
        yield Fault.WRONG, problem
    yield from _wait(server)


def _idle_connections(server: ServerProcess, talks: list[Talk], random: Random) -> Problems:
    """Connections without a request do not delay the end."""
    began = time.monotonic()
    connections = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(20)]
    connections[0].sendall(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")
    connections[1].sendall(b"POST /v1/score HTTP/1.1\r\nHost:")
    yield from ended_by(server, signal.SIGTERM)
    if time.monotonic() - began > 100:
        yield Fault.HANG, "idle connections delayed the end"
    for connection in connections:
        connection.close()


def _hangup(server: ServerProcess, talks: list[Talk], random: Random) -> Problems:
    yield from ended_by(server, signal.SIGHUP, (0, 130))


def _killed(server: ServerProcess, talks: list[Talk], random: Random) -> Problems:
    """No handler runs: the workers must end by themselves."""
    server.processes()
    server.process.kill()
    server.process.wait()
    if not wait_for(lambda: not server.processes(), SECONDS):
        yield Fault.ORPHAN, f"{len(server.processes())} processes live on without the server"


def _signal_and_stop(server: ServerProcess, traffic: Traffic, number: int) -> Problems:
    """Send the signal; readiness must go at once, and the clients stop before the server does."""
    began = time.monotonic()
    server.processes()
    server.process.send_signal(number)
    gone = wait_for(lambda: send(server.port, "GET", "/readyz").status == 503, _DRAIN_SECONDS / 2)
    seconds = time.monotonic() - began
    if not gone or seconds > _AT_ONCE_SECONDS:
        yield Fault.WRONG, f"ready {seconds:.1f} s after the signal"
    if send(server.port, "GET", "/livez").status != 200:
        yield Fault.WRONG, "not live while it drains"
    threading.Event().wait(0.3)
    traffic.stop_sending()


def _problems_of(traffic: Traffic) -> Problems:
    for problem in traffic.problems:
        yield Fault.WRONG, problem
    if not traffic.counts["right"]:
        yield Fault.WRONG, f"nothing was scored: {traffic.counts}"


def _wait(server: ServerProcess, code: int = 0) -> Problems:
    """The end after a signal that was sent before."""
    server.processes()
    try:
        ended = server.process.wait(SECONDS)
    except subprocess.TimeoutExpired:
        yield Fault.HANG, "did not end"
        return
    if ended != code:
        yield Fault.EXIT, f"{ended}: {server.output[-300:]}"
    yield from server.left()


def _slow_request(port: int, seconds: float) -> Answer:
    """One item that takes so long."""
    item = {"prompt": MARK, "response": f"fault:stall {seconds}"}
    body = {"model": "length", "items": [item], "deadline_ms": int(SECONDS * 1000)}
    return post(port, "/v1/score", body)


def _right_slow(future: Future[Answer], text: str) -> Problems:
    answer = future.result()
    if answer.status != 200 or answer.json()["items"][0].get("views") != {
        "length": float(len(text))
    }:
        yield Fault.WRONG, f"the slow item: {answer.status} {answer.body!r:.200}"


def _right(future: Future[Answer], talk: Talk) -> Problems:
    problem = talk.wrong(future.result())
    if problem is not None:
        yield Fault.WRONG, problem


def _kinds(answer: Answer) -> set[str]:
    """Types of the errors in an answer; `right` for an item without one."""
    value = answer.json()
    if "error" in value:
        return {value["error"]["type"]}
    return {item["error"]["type"] if "error" in item else "right" for item in value["items"]}


def _accepted(port: int, count: int) -> Problems:
    """Wait until so many requests are in the server: what it has not read it cannot answer."""
    # The one that asks is open too.
    if not wait_for(lambda: _metric(port, "smorm_open_requests") == count + 1, SECONDS):
        yield Fault.HANG, f"{count} requests were sent, and do not arrive"


def _waiting(port: int) -> int:
    return _metric(port, "smorm_waiting_items")


def _metric(port: int, name: str) -> int:
    page = send(port, "GET", "/metrics").body.decode("ascii")
    (line,) = [line for line in page.splitlines() if line.startswith(f"{name} ")]
    return int(float(line.split()[1]))


_LONG = ("--drain-seconds", str(_DRAIN_SECONDS))
_SHORT = ("--drain-seconds", "0")
SCENARIOS: dict[str, tuple[tuple[str, ...], Scenario]] = {
    "load": (_LONG, _under_load(signal.SIGTERM)),
    "interrupt": (_LONG, _under_load(signal.SIGINT)),
    "long-batches": (_SHORT, _long_batches),
    "restarting": (_LONG, _while_restarting),
    "held": ((*_SHORT, "--max-waiting", "1"), _held),
    "load-two-workers": ((*_LONG, "--device", "cpu,cpu"), _under_load(signal.SIGTERM)),
    "two-signals": (_SHORT, _two_signals),
    "starting": (_SHORT, _while_starting),
    "slow-body": (_SHORT, _slow_body),
    "idle-connections": (_SHORT, _idle_connections),
    "hangup": (_SHORT, _hangup),
    "killed": (_SHORT, _killed),
}
"""Flags of the server, and what happens to it."""
