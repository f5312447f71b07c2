"""Hostile clients of a server, byte by byte: each behaviour yields what was wrong."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Callable, Iterator
from random import Random

import orjson

from chaos.served.bodies import MAX_BODY, encoded, valid
from chaos.served.traffic import SECONDS, Answer, Talk

Wire = Callable[[Random, int, Talk], Iterator[str]]
BODY_SECONDS = 20.0
"""In which a body must have arrived: the server's own limit."""
_REFUSALS = (400, 404, 408, 411, 413, 414, 415, 422, 431)


class Connection:
    """A socket to the server."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), SECONDS)
        self._received = b""

    def __enter__(self) -> Connection:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def send(self, data: bytes) -> None:
        """Send what the server still takes: it may have answered and gone."""
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self.socket.sendall(data)

    def answer(self) -> Answer | None:
        """The next answer; None where the server closed before it was whole. TimeoutError: it
        hangs."""
        while True:
            head, blank, rest = self._received.partition(b"\r\n\r\n")
            if blank:
                lines = head.decode("latin-1").split("\r\n")
                headers = {}
                for line in lines[1:]:
                    name, _, value = line.partition(":")
                    headers[name.lower()] = value.strip()
                status = int(lines[0].split()[1])
                size = int(headers.get("content-length", 0))
                closes = "content-length" not in headers and status >= 200
                if closes:
                    while self._receive():
                        pass
                    rest = self._received.partition(b"\r\n\r\n")[2]
                    return Answer(status, headers, rest)
                if len(rest) >= size:
                    self._received = rest[size:]
                    return Answer(status, headers, rest[:size])
            if not self._receive():
                return None

    def _receive(self) -> bool:
        try:
            piece = self.socket.recv(65_536)
        except ConnectionResetError:
            return False
        self._received += piece
        return bool(piece)


def request(body: bytes, *headers: str, path: str = "/v1/score", length: bool = True) -> bytes:
    """A POST as bytes."""
    lines = [f"POST {path} HTTP/1.1", "Host: x", "Content-Type: application/json", *headers]
    if length:
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body


def _refused(answer: Answer | None, *statuses: int) -> Iterator[str]:
    """An end of the connection is an answer to what is no request."""
    if answer is not None and answer.status not in (*_REFUSALS, *statuses):
        yield f"status {answer.status}"


def _right(answer: Answer | None, talk: Talk) -> Iterator[str]:
    problem = "no answer" if answer is None else talk.wrong(answer)
    if problem is not None:
        yield problem


def _huge_headers(random: Random, port: int, talk: Talk) -> Iterator[str]:
    many = [f"X-{index}: y" for index in range(random.choice((2_000, 20_000)))]
    huge = [f"X-Huge: {'a' * random.choice((70_000, 5_000_000))}"]
    with Connection(port) as connection:
        connection.send(request(b"{}", *random.choice((many, huge))))
        yield from _refused(connection.answer())


def _endless_header(random: Random, port: int, talk: Talk) -> Iterator[str]:
    with Connection(port) as connection:
        connection.send(b"POST /v1/score HTTP/1.1\r\nX-Endless: ")
        for _ in range(200):
            connection.send(b"a" * 1_000)
        yield from _refused(connection.answer())


def _wrong_length(random: Random, port: int, talk: Talk) -> Iterator[str]:
    body = orjson.dumps(talk.body())
    length = random.choice(
        ("-1", "0x10", "1e3", "", "9" * 30, "99999999999", f"{len(body) - 5}", "+5", "5, 6", "٣")
    )
    data = request(body, f"Content-Length: {length}".encode().decode("latin-1"), length=False)
    with Connection(port) as connection:
        connection.send(data)
        yield from _refused(connection.answer())


def _two_lengths(random: Random, port: int, talk: Talk) -> Iterator[str]:
    body = orjson.dumps(talk.body())
    codings = ("chunked", "gzip, chunked", "bogus")
    headers = ["Content-Length: 3", *(f"Transfer-Encoding: {coding}" for coding in codings)]
    second = random.choice(headers)
    with Connection(port) as connection:
        connection.send(request(body, second))
        yield from _refused(connection.answer(), 501)


def _chunked(random: Random, port: int, talk: Talk) -> Iterator[str]:
    """Chunks of any sizes are a body."""
    body = orjson.dumps(talk.body())
    with Connection(port) as connection:
        connection.send(request(b"", "Transfer-Encoding: chunked", length=False))
        while body:
            size = random.choice((1, 7, 500))
            piece, body = body[:size], body[size:]
            connection.send(f"{len(piece):x};a=b\r\n".encode() + piece + b"\r\n")
        connection.send(b"0\r\nX-Trailer: y\r\n\r\n")
        yield from _right(connection.answer(), talk)


def _bad_chunks(random: Random, port: int, talk: Talk) -> Iterator[str]:
    chunks = (b"zz\r\nabc\r\n", b"-5\r\nabc\r\n", b"fffffffffffffffffff\r\nabc",
              b"5\r\nabcdefgh\r\n0", b"\r\n\r\n", b"5" * 9_000, b"3\r\nabc0\r\n\r\n",
              b"1;" + b"x" * 70_000)  # fmt: skip
    with Connection(port) as connection:
        connection.send(request(b"2\r\n{}\r\n", "Transfer-Encoding: chunked", length=False))
        connection.send(random.choice(chunks))
        if random.random() < 0.5:
            connection.socket.shutdown(socket.SHUT_WR)
        yield from _refused(connection.answer())


def _endless_chunks(random: Random, port: int, talk: Talk) -> Iterator[str]:
    with Connection(port) as connection:
        connection.send(request(b"", "Transfer-Encoding: chunked", length=False))
        for _ in range(5 * MAX_BODY // 1_000_000):
            connection.send(b"f4240\r\n" + b" " * 1_000_000 + b"\r\n")
        yield from _refused(connection.answer())


def _half_closed(random: Random, port: int, talk: Talk) -> Iterator[str]:
    data = request(orjson.dumps(talk.body()))
    with Connection(port) as connection:
        connection.send(data[: random.randrange(1, len(data) + 1)])
        connection.socket.shutdown(socket.SHUT_WR)
        answer = connection.answer()
        if answer is not None and answer.status == 200:
            yield from _right(answer, talk)
        else:
            yield from _refused(answer, 499)


def _gone(random: Random, port: int, talk: Talk) -> Iterator[str]:
    """A client that goes at any moment, politely or not."""
    data = request(orjson.dumps(talk.body()))
    with Connection(port) as connection:
        connection.send(data[: random.choice((5, len(data) - 3, len(data)))])
        time.sleep(random.choice((0.0, 0.01, 0.1)))
        if random.random() < 0.5:
            linger = b"\x01\x00\x00\x00\x00\x00\x00\x00"
            connection.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    yield from ()


def _slow(random: Random, port: int, talk: Talk) -> Iterator[str]:
    """A body in pieces: all of it in time, or too late."""
    data = request(orjson.dumps(talk.body()))
    head = data.index(b"\r\n\r\n") + 4
    in_time = random.random() < 0.5
    pause = (0.2 if in_time else 2.0) * BODY_SECONDS / 10
    with Connection(port) as connection:
        connection.send(data[:head])
        body, size = data[head:], -(-(len(data) - head) // 10)
        for start in range(0, len(body), size):
            connection.send(body[start : start + size])
            time.sleep(pause)
        answer = connection.answer()
        if answer is not None and answer.status == 408 and not in_time:
            return
        if in_time or answer is not None:
            yield from _right(answer, talk)


def _pipelined(random: Random, port: int, talk: Talk) -> Iterator[str]:
    data = request(orjson.dumps(talk.body()))
    with Connection(port) as connection:
        connection.send(data * 5)
        for _ in range(5):
            yield from _right(connection.answer(), talk)


def _pipelined_noise(random: Random, port: int, talk: Talk) -> Iterator[str]:
    """What follows a good request must not spoil its answer."""
    with Connection(port) as connection:
        connection.send(request(orjson.dumps(talk.body())) + random.randbytes(200) + b"\r\n\r\n")
        yield from _right(connection.answer(), talk)
        yield from _refused(connection.answer())


def _expects(random: Random, port: int, talk: Talk) -> Iterator[str]:
    body = orjson.dumps(talk.body())
    with Connection(port) as connection:
        connection.send(request(body, "Expect: 100-continue")[: -len(body)])
        answer = connection.answer()
        if answer is None or answer.status != 100:
            yield f"not 100 Continue: {answer}"
            return
        connection.send(body)
        yield from _right(connection.answer(), talk)


def _expects_too_much(random: Random, port: int, talk: Talk) -> Iterator[str]:
    with Connection(port) as connection:
        connection.send(request(b"", "Expect: 100-continue", f"Content-Length: {9 * MAX_BODY}",
                                length=False))  # fmt: skip
        answer = connection.answer()
        if answer is None or answer.status != 413:
            yield f"not 413: {answer}"


def _noise(random: Random, port: int, talk: Talk) -> Iterator[str]:
    data = random.choice((
        random.randbytes(random.choice((1, 50, 5_000))),
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + random.randbytes(300),  # TLS
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"GET /livez\r\n\r\n",
        b"GET http://evil.example/livez HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /livez HTTP/1.1\r\n\r\n",
        b"GET /livez HTTP/9.9\r\nHost: x\r\n\r\n",
        b"GET /livez HTTP/1.1\nHost: x\n\n",
        b"\r\n" * 5_000,
        b"CONNECT evil.example:443 HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /\x00livez HTTP/1.1\r\nHost: x\r\n\r\n",
        b"POST /v1/score HTTP/1.1\r\nHost: x\r\nX: a\r\n b\r\nContent-Length: 2\r\n\r\n{}",
        b"\x00" * 1_000,
    ))  # fmt: skip
    with Connection(port) as connection:
        connection.send(data)
        connection.socket.shutdown(socket.SHUT_WR)
        yield from _refused(connection.answer(), 200, 405, 426, 505)


def _old(random: Random, port: int, talk: Talk) -> Iterator[str]:
    """HTTP/1.0, which closes after the answer."""
    data = request(orjson.dumps(talk.body())).replace(b"HTTP/1.1", b"HTTP/1.0", 1)
    with Connection(port) as connection:
        connection.send(data)
        yield from _right(connection.answer(), talk)


def _websocket(random: Random, port: int, talk: Talk) -> Iterator[str]:
    path, _ = valid(random)
    lines = [f"GET {path} HTTP/1.1", "Host: x", "Upgrade: websocket", "Connection: Upgrade",
             "Sec-WebSocket-Version: 13",
             "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="]  # fmt: skip
    with Connection(port) as connection:
        connection.send("\r\n".join(lines).encode() + b"\r\n\r\n")
        yield from _refused(connection.answer(), 405)


def _changed_bytes(random: Random, port: int, talk: Talk) -> Iterator[str]:
    """A request with a few bytes changed anywhere, its head included."""
    path, value = valid(random)
    data = bytearray(request(encoded(value), path=path))
    for _ in range(random.randrange(1, 6)):
        data[random.randrange(len(data))] = random.randrange(256)
    with Connection(port) as connection:
        connection.send(bytes(data))
        connection.socket.shutdown(socket.SHUT_WR)
        yield from _refused(connection.answer(), 200, 405, 499, 501, 505)


WIRES: dict[str, Wire] = {
    "huge-headers": _huge_headers,
    "endless-header": _endless_header,
    "wrong-length": _wrong_length,
    "two-lengths": _two_lengths,
    "chunked": _chunked,
    "bad-chunks": _bad_chunks,
    "endless-chunks": _endless_chunks,
    "half-closed": _half_closed,
    "gone": _gone,
    "pipelined": _pipelined,
    "pipelined-noise": _pipelined_noise,
    "expects-continue": _expects,
    "expects-too-much": _expects_too_much,
    "noise": _noise,
    "http-1.0": _old,
    "websocket": _websocket,
    "changed-bytes": _changed_bytes,
}
SLOW: Wire = _slow
"""Takes up to a minute, mostly of waiting."""
