"""Requests from a process of its own: `python -m bench.serving.load PLAN.json` prints what it saw.

Raw HTTP/1.1 over asyncio, bodies made beforehand: a client library would cost more CPU time than
the servers do. Nothing here imports torch.

Closed loop: every connection sends its next request when the last one is answered. Open loop
(`rate`): requests are due at fixed times, whatever the server does; one that finds no free
connection is counted as `unsent`."""

from __future__ import annotations

import asyncio
import json
import re
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import orjson

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_RETRY_AFTER = re.compile(rb"\r\nretry-after: *\d+", re.IGNORECASE)
_ANSWER_SECONDS = 120.0  # a request without an answer for so long hangs


@dataclass(frozen=True, slots=True)
class Call:
    """One request, and the scores that its answer must hold (None: they are not compared)."""

    path: str
    body: str
    scores: list[float] | None = None


@dataclass(frozen=True, slots=True)
class LoadPlan:
    """What a load process does. It ends after `requests` requests, or after `seconds`.

    Attributes:
        rate: requests a second of an open loop; None: a closed loop.
    """

    url: str
    calls: Sequence[Call]
    connections: int
    requests: int | None = None
    seconds: float | None = None
    rate: float | None = None


@dataclass(slots=True)
class Seen:
    """What a load process saw. Seconds are from its start; `answered` are those of status 200.

    `bad` are answers of status 200 without all the scores that were asked for; `hung` requests had
    no answer within two minutes; `refused_bare` are 429s without `Retry-After`."""

    seconds: float = 0.0
    statuses: dict[str, int] = field(default_factory=dict)
    sent_at: list[float] = field(default_factory=list)  # of each answered request
    latency: list[float] = field(default_factory=list)  # the same requests
    refused_at: list[float] = field(default_factory=list)
    refusal_latency: list[float] = field(default_factory=list)
    bad: int = 0
    compared: int = 0
    largest_difference: float = 0.0
    hung: int = 0
    broken: int = 0
    unsent: int = 0
    refused_bare: int = 0

    @property
    def errors(self) -> int:
        """Requests that got no right answer, whatever the reason."""
        answered = self.statuses.get("200", 0)
        return sum(self.statuses.values()) - answered + self.bad + self.hung + self.broken


class _Connection(asyncio.Protocol):
    """One keep-alive connection, one request at a time."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._answer: asyncio.Future[tuple[bytes, bytes]] | None = None
        self._transport: asyncio.Transport | None = None
        self.open = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport, self.open = transport, True

    def connection_lost(self, exc: Exception | None) -> None:
        self.open = False
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(ConnectionResetError("closed before the answer"))

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0 or self._answer is None:
            return
        head = bytes(self._buffer[: end + 2])
        length = _LENGTH.search(head)
        if length is None:
            self._answer.set_exception(ValueError("an answer without its length"))
            return
        whole = end + 4 + int(length[1])
        if len(self._buffer) >= whole:
            body = bytes(self._buffer[end + 4 : whole])
            del self._buffer[:whole]
            if not self._answer.done():
                self._answer.set_result((head, body))

    async def ask(self, request: bytes) -> tuple[bytes, bytes]:
        """Head and body of the answer; TimeoutError, ConnectionError."""
        assert self._transport is not None
        self._answer = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        return await asyncio.wait_for(self._answer, _ANSWER_SECONDS)

    def close(self) -> None:
        if self._transport is not None:
            self._transport.abort()


class _Client:
    """Runs a plan."""

    def __init__(self, plan: LoadPlan) -> None:
        self.plan, self.seen = plan, Seen()
        parts = urlsplit(plan.url)
        assert parts.hostname is not None
        assert parts.port is not None
        self._address = parts.hostname, parts.port
        self._requests = [_as_request(call, parts.netloc) for call in plan.calls]
        self._began = 0.0
        self._number = 0
        self._statuses: Counter[str] = Counter()

    async def run(self) -> Seen:
        connections = await asyncio.gather(*(self._connect() for _ in range(self.plan.connections)))
        self._began = time.perf_counter()
        if self.plan.rate is None:
            await asyncio.gather(*map(self._closed_loop, connections))
        else:
            await self._open_loop(list(connections), self.plan.rate)
        self.seen.seconds = time.perf_counter() - self._began
        self.seen.statuses = dict(self._statuses)
        return self.seen

    def _more(self) -> bool:
        plan = self.plan
        if plan.requests is not None and self._number >= plan.requests:
            return False
        return plan.seconds is None or time.perf_counter() - self._began < plan.seconds

    def _next(self) -> int:
        number = self._number
        self._number += 1
        return number % len(self._requests)

    async def _closed_loop(self, connection: _Connection) -> None:
        while self._more():
            connection = await self._one(connection, self._next())
        connection.close()

    async def _open_loop(self, connections: list[_Connection], rate: float) -> None:
        free = connections
        running: set[asyncio.Task[None]] = set()

        async def use(connection: _Connection, index: int) -> None:
            free.append(await self._one(connection, index))

        while self._more():
            due = self._began + self._number / rate
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            index = self._next()
            if not free:
                self.seen.unsent += 1
                continue
            task = asyncio.create_task(use(free.pop(), index))
            running.add(task)
            task.add_done_callback(running.discard)
        if running:
            await asyncio.wait(running)
        for connection in free:
            connection.close()

    async def _one(self, connection: _Connection, index: int) -> _Connection:
        """Send one request; returns the connection for the next one."""
        began = time.perf_counter()
        try:
            if not connection.open:
                connection = await self._connect()
            head, body = await connection.ask(self._requests[index])
        except TimeoutError:
            self.seen.hung += 1
            connection.close()
            return connection
        except (OSError, ValueError):
            self.seen.broken += 1
            connection.close()
            return connection
        seconds = time.perf_counter() - began
        status = head[9:12].decode("ascii")
        self._statuses[status] += 1
        if status == "200":
            self.seen.sent_at.append(began - self._began)
            self.seen.latency.append(seconds)
            self._compare(self.plan.calls[index], body)
        else:
            self.seen.refused_at.append(began - self._began)
            self.seen.refusal_latency.append(seconds)
            self.seen.refused_bare += status == "429" and not _RETRY_AFTER.search(head)
        return connection

    def _compare(self, call: Call, body: bytes) -> None:
        if call.scores is None:
            return
        try:
            scores = READERS[call.path](orjson.loads(body))
        except (KeyError, IndexError, TypeError, ValueError):
            self.seen.bad += 1
            return
        if len(scores) != len(call.scores):
            self.seen.bad += 1
            return
        for score, expected in zip(scores, call.scores, strict=True):
            self.seen.compared += 1
            gap = abs(score - expected)
            self.seen.largest_difference = max(self.seen.largest_difference, gap)

    async def _connect(self) -> _Connection:
        loop = asyncio.get_running_loop()
        _, connection = await loop.create_connection(_Connection, *self._address)
        return connection


def _of_items(answer: Any) -> list[float]:
    """`/v1/score`: the first view of every response."""
    scores: list[float] = []
    for item in answer["items"]:
        responses = item.get("responses", [item])
        scores += [next(iter(response["views"].values())) for response in responses]
    return scores


def _of_classes(answer: Any) -> list[float]:
    """`/classify`: vLLM's form, or SGLang's for several texts or for one."""
    if "embedding" in answer:
        return [answer["embedding"][-1]]
    if isinstance(answer, list):
        return [entry["embedding"][-1] for entry in answer]
    return [entry["probs"][-1] for entry in answer["data"]]


# How each route's answer holds its scores, in the request's order.
READERS: dict[str, Callable[[Any], list[float]]] = {
    "/v1/score": _of_items,
    "/v1/compare": lambda answer: [next(iter(r["views"].values())) for r in answer["responses"]],
    "/classify": _of_classes,
    "/pooling": lambda answer: [entry["data"][-1] for entry in answer["data"]],
    "/v1/embeddings": lambda answer: [entry["embedding"][-1] for entry in answer["data"]],
    "/get_reward": lambda answer: answer["rewards"],
    "/v1/score/evaluation": lambda answer: answer["scores"],
    "/score": lambda answer: [answer["score"]],  # the plain server's, LitServe's
}


def _as_request(call: Call, host: str) -> bytes:
    body = call.body.encode("utf-8")
    head = (
        f"POST {call.path} HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    return head.encode("ascii") + body


def write_plan(plan: LoadPlan, path: Path) -> Path:
    """The file that `python -m bench.serving.load` takes."""
    path.write_bytes(orjson.dumps(asdict(plan)))
    return path


def read_plan(path: Path) -> LoadPlan:
    """A plan as `write_plan` wrote it."""
    values = orjson.loads(path.read_bytes())
    calls = [Call(**call) for call in values.pop("calls")]
    return LoadPlan(calls=calls, **values)


def run_plan(plan: LoadPlan) -> Seen:
    """Run a plan in this process."""
    return asyncio.run(_Client(plan).run())


def main() -> int:
    """Run the plan of a file, and print what was seen as JSON."""
    print(json.dumps(asdict(run_plan(read_plan(Path(sys.argv[1]))))))
    return 0


if __name__ == "__main__":
    sys.exit(main())
