"""The load process counts what really happened; recovery and the page of the figures."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.serving.load import Call, LoadPlan, Seen, read_plan, run_plan, write_plan
from bench.serving.overload import recovery_seconds
from bench.serving.page import page
from bench.serving.turns import Turn, cpu_ratio
from tests.conftest import ROOT

RESULTS = ROOT / "results" / "serving"


def answer(status: int, body: bytes, *headers: str) -> bytes:
    lines = [f"HTTP/1.1 {status} X", f"content-length: {len(body)}", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


# What a request's path gets; None: the connection is closed before the answer.
ANSWERS = {
    "/score": answer(200, b'{"score": 1.5}'),
    "/classify": answer(429, b"{}", "Retry-After: 1"),
    "/pooling": answer(429, b"{}"),
    "/get_reward": answer(200, b'{"scores": []}'),
    "/v1/embeddings": None,
}


async def respond(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while head := await reader.readuntil(b"\r\n\r\n"):
        (length,) = [
            int(line.split(b":")[1])
            for line in head.lower().split(b"\r\n")
            if line.startswith(b"content-length")
        ]
        await reader.readexactly(length)
        found = ANSWERS[head.split(b" ")[1].decode()]
        if found is None:
            writer.close()
            return
        # In two pieces: an answer need not arrive at once.
        writer.write(found[:20])
        await asyncio.sleep(0.001)
        writer.write(found[20:])


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """A server that answers by path."""
    loop = asyncio.new_event_loop()

    async def start() -> asyncio.Server:
        return await asyncio.start_server(respond, "127.0.0.1", 0)

    server = loop.run_until_complete(start())
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"

    async def stop() -> None:
        server.close()
        tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    asyncio.run_coroutine_threadsafe(stop(), loop).result(10)
    loop.call_soon_threadsafe(loop.stop)
    thread.join(10)
    loop.close()


def load(url: str, *paths: str, **options: float) -> Seen:
    calls = [Call(path, "{}", [1.25]) for path in paths]
    return run_plan(LoadPlan(url, calls, 2, requests=2 * len(paths), **options))


def test_answers_refusals_and_broken_connections_are_counted_apart(url: str) -> None:
    seen = load(url, *ANSWERS)
    assert seen.statuses == {"200": 4, "429": 4}
    assert len(seen.latency) == len(seen.sent_at) == 4
    assert seen.refused_bare == 2
    assert seen.broken == 2
    assert seen.bad == 2  # an answer without the scores that were asked for
    assert seen.errors == 8
    assert (seen.compared, seen.largest_difference) == (2, 0.25)


def test_an_open_loop_sends_at_its_rate_whatever_is_answered(url: str) -> None:
    seen = load(url, "/score", "/classify", rate=100.0)
    assert seen.statuses == {"200": 2, "429": 2}
    assert seen.seconds >= 3 / 100
    assert seen.unsent == 0


def test_a_plan_is_read_as_it_was_written(tmp_path: Path) -> None:
    plan = LoadPlan("http://127.0.0.1:1", [Call("/score", '{"ü": 1}', [0.5])], 3, seconds=2.0)
    assert read_plan(write_plan(plan, tmp_path / "plan.json")) == plan


def turn(cpu: float, latency: list[float], refused_at: list[float] | None = None) -> Turn:
    sent = [index / 10 for index in range(len(latency))]
    return Turn(Seen(seconds=1.0, sent_at=sent, latency=latency, refused_at=refused_at or []), cpu)


def test_recovery_is_when_answers_are_soon_again() -> None:
    slow_first = turn(1.0, [9.0] * 20 + [0.5] * 30)
    # Of the sixteen from the 12th on eight are slow: the median lies between; from the 13th not.
    assert recovery_seconds(slow_first, 1.0) == 1.3
    assert recovery_seconds(turn(1.0, [9.0] * 50), 1.0) is None
    # Refusals in between count as late.
    refused = [index / 10 + 0.01 for index in range(40) for _ in range(2)]
    late = recovery_seconds(turn(1.0, [0.5] * 60, refused), 1.0)
    assert late is not None
    assert late > 3.0


def test_a_ratio_is_of_a_requests_cpu_time() -> None:
    slow, fast = turn(4.0, [1.0, 1.0]), turn(3.0, [0.5] * 3)
    ratio = cpu_ratio([slow], [fast])
    assert ratio.median == pytest.approx(2.0)
    assert ratio.wall == pytest.approx(2.0)


def test_the_page_is_that_of_the_figures_and_names_what_was_not_measured() -> None:
    content = json.loads((RESULTS / "serving.json").read_text(encoding="utf-8"))
    assert (RESULTS / "README.md").read_text(encoding="utf-8") == page(content)
    content["detail"].pop("overload", None)
    content["detail"]["not_measured"] = ["litserve"]
    assert "Not measured in this run: litserve, overload." in page(content)
