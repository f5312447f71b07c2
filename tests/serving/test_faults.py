"""Workers that fail, clients that go, tokens, full queues: only what is to blame fails."""

from __future__ import annotations

import asyncio
import concurrent.futures
import os
import shutil
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator, MutableMapping
from pathlib import Path

import orjson
import pytest
from safetensors.torch import load_file, save_file

from smorm.errors import SmormError
from smorm.serving.app import api_routes, routers
from smorm.serving.guard import OPEN, Guard, Receive, Scope, Send
from smorm.serving.metrics import Metrics
from smorm.serving.run import serve
from smorm.serving.settings import Limits, ServeOptions
from smorm.serving.worker import Worker
from tests.serving.conftest import SECTIONS
from tests.serving.servers import Running, running

STALLED = 1.5  # seconds: what stalls is waited for; three times what the slowest batch takes


@pytest.fixture(scope="module")
def server() -> Iterator[Running]:
    """A function that fails on demand, and no model that each start would load again."""
    with running(
        ServeOptions({"faulty": SECTIONS["faulty"]}, limits=Limits(batch_seconds=STALLED))
    ) as one:
        yield one


def ask(server: Running, *responses: str) -> list[dict]:
    items = [{"prompt": "p", "response": response} for response in responses]
    # A worker that is started again may take long where many tests share a machine.
    body = {"model": "faulty", "items": items, "deadline_ms": 200_000}
    return server.post("/v1/score", body)["items"]


def wait_for(condition: Callable[[], bool]) -> None:
    until = time.monotonic() + 200
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.02)


def is_ready(server: Running) -> bool:
    return bool(server.client.get("/readyz").status_code == 200)


def kind_of(item: dict) -> str:
    return item["error"]["type"] if "error" in item else "ok"


@pytest.mark.parametrize(
    ("poison", "kind"),
    [("raise", "model_failed"), ("nan", "model_failed"), ("exit", "model_failed")],
)
def test_the_bad_item_alone_fails(server: Running, poison: str, kind: str) -> None:
    items = ask(server, "one", "three", poison, "seventy")
    assert [kind_of(item) for item in items] == ["ok", "ok", kind, "ok"]
    assert [item["views"]["faulty"] for item in items if "views" in item] == [3.0, 5.0, 7.0]
    assert server.client.get("/readyz").status_code == 200


def test_a_worker_that_stalls_is_started_again(server: Running) -> None:
    began = time.monotonic()
    (item,) = ask(server, "stall")
    assert kind_of(item) == "stalled"
    assert time.monotonic() - began < 60
    assert [kind_of(each) for each in ask(server, "fine")] == ["ok"]


def test_a_deadline_is_kept_while_another_batch_stalls(server: Running) -> None:
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        before = batches(server)
        stalled = pool.submit(ask, server, "stall")
        wait_for(lambda: batches(server) == before + 1)
        body = {"model": "faulty", "items": [{"prompt": "p", "response": "x"}], "deadline_ms": 200}
        items = server.post("/v1/score", body)["items"]
        assert kind_of(items[0]) == "deadline"
        assert kind_of(stalled.result()[0]) == "stalled"


def test_a_deadline_is_kept_by_the_batch_that_stalls_too(server: Running) -> None:
    body = {"model": "faulty", "items": [{"prompt": "p", "response": "stall"}], "deadline_ms": 200}
    (item,) = server.post("/v1/score", body)["items"]
    assert kind_of(item) == "deadline"
    # Whatever waits behind it is scored once the worker was started again.
    assert [kind_of(each) for each in ask(server, "fine")] == ["ok"]


def test_an_idle_worker_that_ended_is_started_again_though_nobody_asks() -> None:
    with running(ServeOptions({"faulty": SECTIONS["faulty"]})) as server:
        first = server.workers[0]._process.pid
        os.kill(first, signal.SIGKILL)
        wait_for(lambda: not is_ready(server))
        wait_for(lambda: is_ready(server))
        assert server.workers[0]._process.pid != first
        assert [kind_of(item) for item in ask(server, "fine")] == ["ok"]


def test_a_worker_that_fails_at_everything_is_not_ready_and_started_again(server: Running) -> None:
    first = server.workers[0]._process.pid
    (item,) = ask(server, "break")
    assert kind_of(item) == "model_failed"
    # The probe behind it fails as well: that the process lives says nothing.
    wait_for(lambda: server.workers[0]._process not in (None, first) and is_ready(server))
    assert [kind_of(each) for each in ask(server, "fine")] == ["ok"]
    assert server.workers[0]._process.pid != first


@pytest.mark.slow
def test_a_stopped_worker_is_noticed_though_it_reads_nothing() -> None:
    limits = Limits(batch_seconds=STALLED)
    with running(ServeOptions({"faulty": SECTIONS["faulty"]}, limits=limits)) as server:
        os.kill(server.workers[0]._process.pid, signal.SIGSTOP)
        # More than its pipe holds.
        (item,) = ask(server, "x" * 399_000)
        assert kind_of(item) == "stalled"
        assert [kind_of(each) for each in ask(server, "fine")] == ["ok"]


def test_what_a_reward_started_ends_with_its_worker(server: Running, tmp_path: Path) -> None:
    file = tmp_path / "pid"
    (item,) = ask(server, f"child {file}")
    assert kind_of(item) == "stalled"
    child = Path(f"/proc/{file.read_text('ascii')}/stat")
    wait_for(lambda: not child.exists() or " Z " in child.read_text("ascii"))


def test_of_two_workers_one_may_end() -> None:
    with running(ServeOptions({"faulty": SECTIONS["faulty"]}, ("cpu", "cpu"))) as server:
        os.kill(server.workers[0]._process.pid, signal.SIGKILL)
        for number in range(50):
            assert is_ready(server)
            assert [kind_of(item) for item in ask(server, "x" * number)] == ["ok"]
        wait_for(lambda: server.workers[0].alive and server.service.batcher._healthy[0])


def test_an_item_whose_worker_is_ended_from_outside_is_scored_by_the_next(server: Running) -> None:
    before, first = batches(server), server.workers[0]._process.pid
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        asked = pool.submit(ask, server, "slow")
        wait_for(lambda: batches(server) == before + 1)
        os.kill(first, signal.SIGKILL)
        assert [kind_of(item) for item in asked.result()] == ["ok"]
    assert server.workers[0]._process.pid != first


def test_a_closed_worker_is_not_started_again() -> None:
    worker = Worker(ServeOptions({"faulty": SECTIONS["faulty"]}), "cpu")
    worker.close()
    with pytest.raises(SmormError, match="not started any more"):
        worker.start()
    assert not worker.alive


def test_a_model_without_finite_scores_is_not_served(tmp_path: Path) -> None:
    folder = tmp_path / "broken"
    shutil.copytree(SECTIONS["joint"]["model"], folder)
    weights = load_file(folder / "model.safetensors")
    weights["model.norm.weight"] = weights["model.norm.weight"] * float("nan")
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    (folder / "manifest.json").unlink()
    with pytest.raises(SmormError, match="first batch of cpu"):
        serve(ServeOptions({"broken": {"model": str(folder)}}), "127.0.0.1", 0, print)


def test_what_a_gone_client_asked_for_is_not_computed(server: Running) -> None:
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        begun = batches(server)
        stalled = pool.submit(ask, server, "stall")
        wait_for(lambda: batches(server) == begun + 1)
        before = server.service.batcher.waiting
        body = b'{"model": "faulty", "items": [{"prompt": "p", "response": "left behind"}]}'
        host, port = server.url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port))) as raw:
            raw.sendall(
                b"POST /v1/score HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
                + f"Content-Length: {len(body)}\r\n\r\n".encode() + body
            )  # fmt: skip
            until = time.monotonic() + 10
            while server.service.batcher.waiting == before and time.monotonic() < until:
                time.sleep(0.01)
            (job,) = server.service.batcher._waiting
        while not job.future.done() and time.monotonic() < until:
            time.sleep(0.01)
        assert job.future.cancelled()
        stalled.result()


def test_every_route_but_liveness_and_the_page_needs_a_token() -> None:
    options = ServeOptions({"faulty": SECTIONS["faulty"]}, tokens=("first-token", "second"))
    with running(options) as server:
        paths = {route.path for route in api_routes(routers(server.service))}
        paths |= {"/openapi.json", "/x", "/livez/", "/docs/", "/web"}
        assert {"/v1/score", "/get_reward", "/metrics", "/openapi.json", "/readyz"} <= paths
        headers = ("", "Bearer wrong", "Basic first-token", "first-token", "Bearer first-token x",
                   "Bearer first-toke")  # fmt: skip
        for path in sorted(paths - OPEN):
            for method in ("GET", "HEAD", "POST", "PUT", "OPTIONS"):
                response = server.client.request(method, path, headers={"Authorization": ""})
                assert response.status_code == 401, (path, method)
                assert response.headers["www-authenticate"] == "Bearer"
            for header in headers:
                response = server.client.post(path, headers={"Authorization": header})
                assert response.status_code == 401, (path, header)
        assert server.client.get("/v1/info").status_code == 200
        second = {"Authorization": "bearer second"}
        assert server.client.get("/v1/info", headers=second).status_code == 200
        assert "/livez" in OPEN
        for path in OPEN:
            assert server.client.get(path, headers={"Authorization": ""}).status_code == 200


@pytest.mark.slow
def test_a_full_queue_refuses_our_routes_and_holds_openrlhfs() -> None:
    limits = Limits(waiting_items=2, batch_seconds=3.0)
    options = ServeOptions(
        {"faulty": SECTIONS["faulty"], "joint": SECTIONS["joint"]}, limits=limits
    )
    with running(options) as server, concurrent.futures.ThreadPoolExecutor(8) as pool:
        pool.submit(ask, server, "stall")
        wait_for(lambda: batches(server) == 1)
        waiting = [pool.submit(ask, server, f"waits {index}") for index in range(2)]
        wait_for(lambda: server.service.batcher.waiting == 2)
        body = {"model": "faulty", "items": [{"prompt": "p", "response": "refused"}]}
        response = server.client.post("/v1/score", json=body)
        assert response.status_code == 429
        assert response.headers["retry-after"] == "1"
        held = pool.submit(server.post, "/get_reward", {"model": "joint", "query": "held"})
        assert len(held.result(200)["rewards"]) == 1
        assert [kind_of(item) for one in waiting for item in one.result(200)] == ["ok", "ok"]


def test_a_slow_body_is_cut_off_and_others_go_on() -> None:
    options = ServeOptions({"faulty": SECTIONS["faulty"]}, limits=Limits(body_seconds=0.5))
    with running(options) as server:
        host, port = server.url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port))) as raw:
            raw.sendall(b"POST /v1/score HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{")
            assert [kind_of(item) for item in ask(server, "fine")] == ["ok"]
            raw.settimeout(10)
            assert raw.recv(1000).startswith(b"HTTP/1.1 408")


def test_a_connection_that_never_becomes_a_request_is_closed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("smorm.serving.run.KEEP_ALIVE_SECONDS", 0.5)
    options = ServeOptions({"faulty": SECTIONS["faulty"]})
    with running(options) as server:
        host, port = server.url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port))) as raw:
            raw.settimeout(0.1)
            raw.sendall(b"POST /v1/score HTTP/1.1\r\n")

            def closed() -> bool:
                try:
                    raw.sendall(b"X-More: y\r\n")
                    return raw.recv(100) == b""
                except TimeoutError:
                    return False
                except (BrokenPipeError, ConnectionResetError):
                    return True

            wait_for(closed)
        assert [kind_of(item) for item in ask(server, "fine")] == ["ok"]


def test_a_fault_of_the_server_is_an_error_without_the_users_text(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def broken(scope: Scope, receive: Receive, send: Send) -> None:
        raise ValueError("a user's text")

    async def answer() -> list[dict]:
        guard = Guard(
            broken, tokens=(), limits=Limits(), metrics=Metrics(), routes=["/x"],
            check_room=lambda path: None,
        )  # fmt: skip
        sent: list[dict] = []
        arrived = iter([{"type": "http.request", "body": b"{}"}])

        async def receive() -> dict:
            message = next(arrived, None)
            if message is None:
                await asyncio.Event().wait()
            return message or {}

        async def send(message: MutableMapping) -> None:
            sent.append(dict(message))

        await guard({"type": "http", "path": "/x", "headers": []}, receive, send)
        return sent

    start, body = asyncio.run(answer())
    assert start["status"] == 500
    assert orjson.loads(body["body"])["error"]["type"] == "internal"
    assert "ValueError in test_faults.py" in caplog.text
    assert "text" not in caplog.text.replace("test", "")


def test_requests_in_threads_of_one_process_do_not_mix(server: Running) -> None:
    found: dict[int, float] = {}

    def one(size: int) -> None:
        (item,) = ask(server, "x" * size)
        found[size] = item["views"]["faulty"]

    threads = [threading.Thread(target=one, args=(size,)) for size in range(1, 25)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {size: float(size) for size in range(1, 25)}


def batches(server: Running) -> float:
    """How many items have gone into batches."""
    count = server.service.metrics.registry.get_sample_value("smorm_queue_seconds_count")
    return 0.0 if count is None else count


@pytest.mark.slow
def test_a_queue_of_seconds_refuses_before_the_body_is_read_as_json() -> None:
    limits = Limits(waiting_seconds=0.5, batch_seconds=3.0)
    options = ServeOptions(SECTIONS, limits=limits)
    with running(options) as server, concurrent.futures.ThreadPoolExecutor(8) as pool:
        batcher = server.service.batcher
        stalled = pool.submit(ask, server, "stall")
        wait_for(lambda: batches(server) == 1)
        waits = pool.submit(ask, server, "waits")
        wait_for(lambda: batcher.waiting == 1)
        # As after batches of one token in a second: what waits is seconds of work.
        batcher._speed = 1.0
        assert batcher.waiting_seconds > 0.5
        response = server.client.post("/v1/score", content=b"{")
        assert response.status_code == 429, response.text
        assert int(response.headers["retry-after"]) >= 1
        # A held route waits for room instead.
        held = pool.submit(server.post, "/get_reward", {"model": "joint", "query": "held"})
        assert len(held.result(60)["rewards"]) == 1
        assert [kind_of(item) for item in waits.result(60)] == ["ok"]
        assert [kind_of(item) for item in stalled.result(60)] == ["stalled"]


def test_what_is_being_tokenised_takes_room_too() -> None:
    """A crowd must not be let in at once to be refused when it is tokenised."""
    options = ServeOptions({"faulty": SECTIONS["faulty"]}, limits=Limits(waiting_items=3))
    with running(options) as server, concurrent.futures.ThreadPoolExecutor(3) as pool:
        batcher, go_on = server.service.batcher, threading.Event()
        server.service._threads["faulty"].submit(go_on.wait)
        asked = [pool.submit(ask, server, "fine") for _ in range(3)]
        wait_for(lambda: batcher._expected == 3)
        response = server.client.post("/v1/score", content=b"{")
        go_on.set()
        assert response.status_code == 429, response.text
        assert [kind_of(one.result()[0]) for one in asked] == ["ok", "ok", "ok"]
        assert batcher._expected == 0


def test_a_request_whose_deadline_comes_before_its_turn_is_refused_at_once(
    server: Running,
) -> None:
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        batcher, before = server.service.batcher, batches(server)
        stalled = pool.submit(ask, server, "stall")
        wait_for(lambda: batches(server) == before + 1)
        waits = pool.submit(ask, server, "waits")
        wait_for(lambda: batcher.waiting == 1)
        speed, batcher._speed = batcher._speed, 0.1
        body = {"model": "faulty", "items": [{"prompt": "p", "response": "x"}], "deadline_ms": 900}
        response = server.client.post("/v1/score", json=body)
        batcher._speed = speed
        assert response.status_code == 429, response.text
        assert [kind_of(item) for item in waits.result(60)] == ["ok"]
        stalled.result()
