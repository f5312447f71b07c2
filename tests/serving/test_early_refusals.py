"""Requests that have no room are answered from their head alone: before a task is made for them."""

from __future__ import annotations

import re
import socket

import orjson
import pytest

from smorm.serving.settings import Limits, ServeOptions

from .conftest import SECTIONS
from .servers import Running, running

LIMITS = Limits(body_bytes=1000)


def request(token: str = "right", length: int = 2, *lines: str, path: str = "/v1/score") -> bytes:
    """A request whose body is no JSON: whoever reads it answers 400."""
    head = [
        f"POST {path} HTTP/1.1", "Host: x", f"Authorization: Bearer {token}",
        f"Content-Length: {length}", *lines,
    ]  # fmt: skip
    return "\r\n".join([*head, "", "x" * length]).encode()


def read(raw: socket.socket, count: int) -> list[tuple[int, dict[bytes, bytes], dict]]:
    """So many answers of a connection: status, headers, error."""
    buffer, answers = b"", []
    while len(answers) < count:
        while b"\r\n\r\n" not in buffer or len(buffer) < length_of(buffer):
            received = raw.recv(65536)
            assert received, buffer
            buffer += received
        end = length_of(buffer)
        head, _, body = buffer[:end].partition(b"\r\n\r\n")
        status, *lines = head.split(b"\r\n")
        headers = dict(line.split(b": ", 1) for line in lines)
        answers.append((int(status.split()[1]), headers, orjson.loads(body)["error"]))
        buffer = buffer[end:]
    return answers


def length_of(buffer: bytes) -> int:
    found = re.search(rb"content-length: (\d+)", buffer)
    assert found is not None
    return buffer.index(b"\r\n\r\n") + 4 + int(found[1])


def connect(server: Running) -> socket.socket:
    host, port = server.url.removeprefix("http://").split(":")
    return socket.create_connection((host, int(port)), timeout=20)


def refusals(server: Running, kind: str) -> float:
    found = re.search(
        rf'smorm_refusals_total{{reason="{kind}"}} (\S+)', server.client.get("/metrics").text
    )
    return float(found[1]) if found else 0.0


@pytest.fixture(scope="module")
def full():
    """A server without room."""
    options = ServeOptions({"faulty": SECTIONS["faulty"]}, limits=LIMITS, tokens=("right",))
    with running(options) as server:
        # A queue that stays full as long as the tests take; test_faults.py fills a real one.
        server.service.batcher.has_room_for = lambda jobs: False
        yield server


def test_requests_are_refused_one_after_another_and_all_are_counted(full: Running) -> None:
    before = refusals(full, "overloaded")
    with connect(full) as raw:
        for _ in range(3):
            raw.sendall(request())
            ((status, headers, error),) = read(raw, 1)
            assert (status, error["type"]) == (429, "overloaded")
            assert int(headers[b"retry-after"]) >= 1
            assert headers[b"x-request-id"].decode() == error["request_id"]
    assert refusals(full, "overloaded") == before + 3


def test_a_thousand_in_one_breath_are_all_refused_in_order(full: Running) -> None:
    with connect(full) as raw:
        raw.sendall(request() * 1000)
        answers = read(raw, 1000)
    assert {status for status, _, _ in answers} == {429}
    assert len({error["request_id"] for _, _, error in answers}) == 1000


def test_what_is_not_known_to_be_small_goes_the_usual_way(full: Running) -> None:
    with connect(full) as raw:
        raw.sendall(request(length=1001))
        assert read(raw, 1)[0][0] == 413
    with connect(full) as raw:
        chunked = request(length=0).replace(b"Content-Length: 0", b"Transfer-Encoding: chunked")
        raw.sendall(chunked + b"2\r\nxx\r\n0\r\n\r\n")
        assert read(raw, 1)[0][0] == 429


def test_without_its_token_a_request_is_not_told_that_the_server_is_busy(full: Running) -> None:
    with connect(full) as raw:
        raw.sendall(request("wrong") + request())
        (status, headers, error), (after, _, _) = read(raw, 2)
    assert (status, error["type"], after) == (401, "unauthorized", 429)
    assert headers[b"WWW-Authenticate".lower()] == b"Bearer"


def test_a_body_that_comes_later_is_thrown_away(full: Running) -> None:
    with connect(full) as raw:
        head, _, body = request(length=900).partition(b"\r\n\r\n")
        raw.sendall(head + b"\r\n\r\n")
        assert read(raw, 1)[0][0] == 429
        raw.sendall(body + request())
        assert read(raw, 1)[0][0] == 429


def test_a_connection_is_closed_where_the_client_wants_it(full: Running) -> None:
    with connect(full) as raw:
        raw.sendall(request("right", 2, "Connection: close"))
        ((status, headers, _),) = read(raw, 1)
        assert (status, headers[b"connection"]) == (429, b"close")
        assert raw.recv(100) == b""


def test_a_client_that_waits_to_be_asked_for_its_body_is_answered(full: Running) -> None:
    with connect(full) as raw:
        head, _, body = request("right", 2, "Expect: 100-continue").partition(b"\r\n\r\n")
        raw.sendall(head + b"\r\n\r\n")
        assert raw.recv(1000).startswith(b"HTTP/1.1 100")
        raw.sendall(body)
        assert read(raw, 1)[0][0] == 429
