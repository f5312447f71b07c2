"""Workers that fail, clients that go, tokens, full queues: only what is to blame fails."""

from __future__ import annotations

import concurrent.futures
import socket
import threading
import time

import pytest

from smorm.serving.settings import Limits, ServeOptions
from tests.serving.conftest import SECTIONS
from tests.serving.servers import Running, running


def ask(server: Running, *responses: str) -> list[dict]:
    items = [{"prompt": "p", "response": response} for response in responses]
    return server.post("/v1/score", {"model": "faulty", "items": items})["items"]


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
        stalled = pool.submit(ask, server, "stall")
        time.sleep(0.5)
        body = {"model": "faulty", "items": [{"prompt": "p", "response": "x"}], "deadline_ms": 200}
        items = server.post("/v1/score", body)["items"]
        assert kind_of(items[0]) == "deadline"
        assert kind_of(stalled.result()[0]) == "stalled"


def test_what_a_gone_client_asked_for_is_not_computed(server: Running) -> None:
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        stalled = pool.submit(ask, server, "stall")
        time.sleep(0.5)
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
        for path in (
            "/v1/info",
            "/readyz",
            "/metrics",
            "/docs",
            "/openapi.json",
            "/v1/models",
            "/x",
        ):
            for header in ("", "Bearer wrong", "Basic first-token", "first-token"):
                response = server.client.get(path, headers={"Authorization": header})
                assert response.status_code == 401, (path, header)
                assert response.headers["www-authenticate"] == "Bearer"
        assert server.client.get("/v1/info").status_code == 200
        second = {"Authorization": "bearer second"}
        assert server.client.get("/v1/info", headers=second).status_code == 200
        for path in ("/livez", "/"):
            assert server.client.get(path, headers={"Authorization": ""}).status_code == 200


def test_a_full_queue_refuses_our_routes_and_holds_openrlhfs() -> None:
    limits = Limits(waiting_items=2, batch_seconds=3.0)
    options = ServeOptions(
        {"faulty": SECTIONS["faulty"], "joint": SECTIONS["joint"]}, limits=limits
    )
    with running(options) as server, concurrent.futures.ThreadPoolExecutor(8) as pool:
        pool.submit(ask, server, "stall")
        time.sleep(0.5)
        waiting = [pool.submit(ask, server, f"waits {index}") for index in range(2)]
        until = time.monotonic() + 5
        while server.service.batcher.waiting < 2 and time.monotonic() < until:
            time.sleep(0.01)
        body = {"model": "faulty", "items": [{"prompt": "p", "response": "refused"}]}
        response = server.client.post("/v1/score", json=body)
        assert response.status_code == 429
        assert response.headers["retry-after"] == "1"
        held = pool.submit(server.post, "/get_reward", {"model": "joint", "query": "held"})
        assert len(held.result(60)["rewards"]) == 1
        assert [kind_of(item) for one in waiting for item in one.result(60)] == ["ok", "ok"]


def test_a_slow_body_is_cut_off_and_others_go_on() -> None:
    options = ServeOptions({"faulty": SECTIONS["faulty"]}, limits=Limits(body_seconds=0.5))
    with running(options) as server:
        host, port = server.url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port))) as raw:
            raw.sendall(b"POST /v1/score HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{")
            assert [kind_of(item) for item in ask(server, "fine")] == ["ok"]
            raw.settimeout(10)
            assert raw.recv(1000).startswith(b"HTTP/1.1 408")


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
