"""The deadline of a request holds however slowly a server answers."""

from __future__ import annotations

import gzip
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import pytest

from smorm.client import RewardClient
from smorm.errors import SmormError
from tests.rewards.reward_servers import RewardServer, counting, said

TIMEOUT = 0.5  # seconds
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
ANSWER = b'{"items": [{"views": {"F": 3.0}}]}'


@contextmanager
def raw_server(answer: Callable[[socket.socket], None]) -> Iterator[str]:
    """A server that reads a request of each connection and leaves the rest to `answer`."""
    ended = threading.Event()
    threads = []

    def serve(connection: socket.socket) -> None:
        with connection, suppress(OSError):
            connection.settimeout(5)
            connection.recv(65536)
            answer(connection)
            ended.wait(5)

    def accept() -> None:
        with suppress(OSError):
            while True:
                connection, _ = listener.accept()
                threads.append(threading.Thread(target=serve, args=(connection,)))
                threads[-1].start()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        acceptor = threading.Thread(target=accept)
        acceptor.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        ended.set()
        listener.shutdown(socket.SHUT_RDWR)
    for thread in (acceptor, *threads):
        thread.join()


def drip(content: bytes, connection: socket.socket) -> None:
    """Send the content again and again, a byte every 20 ms, for four times the deadline."""
    end = time.monotonic() + 4 * TIMEOUT
    while time.monotonic() < end:
        for byte in content:
            connection.sendall(bytes([byte]))
            time.sleep(0.02)


def interim(connection: socket.socket) -> None:
    end = time.monotonic() + 4 * TIMEOUT
    while time.monotonic() < end:
        connection.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
        time.sleep(0.02)


def headers(connection: socket.socket) -> None:
    connection.sendall(HEAD)
    drip(b"X-A: b\r\n", connection)


def body(connection: socket.socket) -> None:
    connection.sendall(HEAD + b"Content-Length: 100000\r\n\r\n")
    drip(ANSWER, connection)


def chunks(connection: socket.socket) -> None:
    connection.sendall(HEAD + b"Transfer-Encoding: chunked\r\n\r\n")
    drip(b"1\r\n \r\n", connection)


def compressed(connection: socket.socket) -> None:
    packed = gzip.compress(ANSWER * 1000)
    head = HEAD + b"Content-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(packed)
    connection.sendall(head + packed[:12])
    drip(packed[12:], connection)


def nothing(connection: socket.socket) -> None:
    pass


@pytest.mark.parametrize("answer", [interim, headers, body, chunks, compressed, nothing])
def test_a_slow_answer_is_given_up_at_the_deadline(answer):
    with raw_server(answer) as url:
        start = time.monotonic()
        with (
            RewardClient(url, "smorm", timeout=TIMEOUT) as reward,
            pytest.raises(SmormError, match="did not end in time"),
        ):
            reward.score(said("abc"))
        assert TIMEOUT * 0.9 < time.monotonic() - start < 2 * TIMEOUT + 1


def test_a_server_that_reads_nothing_is_given_up_too():
    # The request is larger than what the kernel buffers.
    def unread(connection: socket.socket) -> None:
        time.sleep(2 * TIMEOUT)

    with raw_server(unread) as url:
        start = time.monotonic()
        with (
            RewardClient(url, "smorm", timeout=TIMEOUT) as reward,
            pytest.raises(SmormError, match="did not end in time"),
        ):
            reward.score(said("a" * 30_000_000))
        assert time.monotonic() - start < 2 * TIMEOUT + 3


def test_a_slow_answer_within_the_deadline_is_read():
    def slow(connection: socket.socket) -> None:
        connection.sendall(b"HTTP/1.1 100 Continue\r\n\r\n" + HEAD)
        connection.sendall(b"Content-Length: %d\r\n\r\n" % len(ANSWER))
        for byte in ANSWER:
            connection.sendall(bytes([byte]))
            time.sleep(0.005)

    with raw_server(slow) as url, RewardClient(url, "smorm", timeout=20) as reward:
        assert reward.score(said("abc")).tolist() == [3.0]


def test_many_requests_go_over_few_connections():
    connections = set()
    with RewardServer(counting) as server:
        accept = server._http.get_request

        def counted():
            connection, address = accept()
            connections.add(address)
            return connection, address

        server._http.get_request = counted
        server._http.RequestHandlerClass.protocol_version = "HTTP/1.1"
        with RewardClient(server.url, "smorm", timeout=20, batch=1, concurrency=2) as reward:
            texts = ["a" * length for length in range(60)]
            assert reward.score(said(*texts)).tolist() == list(map(float, range(60)))
    assert len(connections) <= 4


def test_a_refused_connection_is_told_as_the_system_names_it():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://localhost:{listener.getsockname()[1]}"
    with (
        RewardClient(url, "smorm", timeout=5, tries=1) as reward,
        pytest.raises(SmormError, match="ConnectError: Connection refused"),
    ):
        reward.score(said("abc"))
