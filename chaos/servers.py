"""Reward servers that fail, lie or attack: no number may be made up, and no wait may be endless."""

from __future__ import annotations

import functools
import gzip
import json
import math
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

from chaos.stage import Stage
from chaos.trial import Command, Ended, Fault, Trial, verb
from chaos.values import NUMBERS, OSC, TEXTS, change, dumps

TIMEOUT = 1.5
"""Seconds that a request may take; a run that asks twice at most must end soon after."""
SECRET = "tok-4f9a2c77d1"
Behaviour = Callable[[Random, socket.socket, bytes], None]
"""What a server does with a connection, given the request's body."""


def trials(stage: Stage, seed: int, count: int) -> Iterator[Trial]:
    """`smorm eval` of a server on loopback that behaves in one of many ways."""
    _bomb()  # packed once, before the trials are forked
    names = list(BEHAVIOURS)
    for index in range(count):
        random = Random(f"servers-{seed}-{index}")
        name = names[index % len(names)]
        act = _ask(stage, random, BEHAVIOURS[name])
        yield Trial(f"servers/{name}/{index}", [Command(act)], _judge, seconds=30.0)


def _ask(stage: Stage, random: Random, behaviour: Behaviour) -> Callable[[Path], None]:
    def act(folder: Path) -> None:
        address = _serve(random, behaviour)
        token = folder / "token"
        token.write_text(f"{SECRET}\n", encoding="utf-8")
        section = {"url": address, "protocol": "smorm", "timeout": TIMEOUT,
                   "token_file": "token"}  # fmt: skip
        (folder / "server.yaml").write_text(json.dumps(section), encoding="utf-8")
        verb("eval", "server.yaml", "--suite", f"pairs={stage.pairs}", "-o", "out.json")(folder)

    return act


def _judge(folder: Path, ended: Ended) -> Iterator[tuple[Fault, str]]:
    if ended.seconds > 4 * TIMEOUT + 4:
        yield Fault.HANG, f"{ended.seconds:.1f} s with a deadline of {TIMEOUT} s a request"
    if SECRET in ended.output:
        yield Fault.EXECUTION, "the token was printed"
    out = folder / "out.json"
    if not out.exists():
        return
    text = out.read_text(encoding="utf-8")
    if SECRET in text:
        yield Fault.EXECUTION, "the token was written"
    if ended.code == 0 and not _finite(json.loads(text)):
        yield Fault.WRONG, "a result without finite numbers"


def _finite(value: Any) -> bool:
    if isinstance(value, dict):
        return all(map(_finite, value.values()))
    if isinstance(value, list):
        return all(map(_finite, value))
    return not isinstance(value, float) or math.isfinite(value)


def _serve(random: Random, behaviour: Behaviour) -> str:
    """A server in threads of this process, which end with it."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=64)

    def accept() -> None:
        while True:
            connection, _ = listener.accept()
            threading.Thread(target=handle, args=(connection,), daemon=True).start()

    def handle(connection: socket.socket) -> None:
        with connection:
            try:
                behaviour(random, connection, _read_request(connection))
            except OSError:  # the client has gone
                return

    threading.Thread(target=accept, daemon=True).start()
    return f"http://127.0.0.1:{listener.getsockname()[1]}"


def _read_request(connection: socket.socket) -> bytes:
    """The body of one request."""
    received = b""
    while b"\r\n\r\n" not in received:
        piece = connection.recv(65_536)
        if not piece:
            return b""
        received += piece
    head, _, body = received.partition(b"\r\n\r\n")
    length = 0
    for line in head.lower().split(b"\r\n"):
        if line.startswith(b"content-length:"):
            length = int(line.partition(b":")[2])
    while len(body) < length:
        body += connection.recv(65_536)
    return body


def _reply(status: str, body: bytes, *headers: str) -> bytes:
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", "Connection: close", *headers]
    return "\r\n".join(lines).encode("utf-8") + b"\r\n\r\n" + body


def _right_answer(body: bytes) -> dict[str, Any]:
    items = json.loads(body)["items"] if body else []
    return {"items": [{"views": {"F": 0.5 + len(str(item)) / 100}, "tokens": 3} for item in items]}


def _answers(change_of: Callable[[Random, Any], Any]) -> Behaviour:
    """A server whose right answer is changed."""

    def behave(random: Random, connection: socket.socket, body: bytes) -> None:
        content = dumps(change_of(random, _right_answer(body)))
        connection.sendall(_reply("200 OK", content.encode("utf-8", "surrogatepass")))

    return behave


def _says(status: str, body: bytes, *headers: str) -> Behaviour:
    return lambda random, connection, _: connection.sendall(_reply(status, body, *headers))


def _fewer(random: Random, answer: Any) -> Any:
    return {"items": answer["items"][:-1]}


def _wrong_number(random: Random, answer: Any) -> Any:
    for item in answer["items"]:
        item["views"]["F"] = random.choice((*NUMBERS[7:], "0.5", None, [1.0], {}))
    return answer


def _odd_text(random: Random, connection: socket.socket, body: bytes) -> None:
    text = random.choice(TEXTS).encode("utf-8", "surrogatepass")
    status = random.choice(("200 OK", "400 Bad", "401 Unauthorized", "404 Not Found", "422 No"))
    connection.sendall(_reply(status, text))


def _repeats_token(random: Random, connection: socket.socket, body: bytes) -> None:
    text = f"no such token: Bearer {SECRET}, {SECRET}".encode()
    connection.sendall(
        _reply(random.choice(("401 Unauthorized", "403 Forbidden", "400 Bad")), text)
    )


def _drips_body(random: Random, connection: socket.socket, body: bytes) -> None:
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
    _drip(connection, b" ")


def _drips_headers(random: Random, connection: socket.socket, body: bytes) -> None:
    connection.sendall(b"HTTP/1.1 200 OK\r\n")
    _drip(connection, b"X-A: b\r\n")


def _drips_status(random: Random, connection: socket.socket, body: bytes) -> None:
    _drip(connection, b"HTTP/1.1 100 Continue\r\n\r\n")


def _drip(connection: socket.socket, piece: bytes) -> None:
    for _ in range(600):
        connection.sendall(piece)
        time.sleep(0.05)


def _endless(random: Random, connection: socket.socket, body: bytes) -> None:
    connection.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    for _ in range(4_000):
        connection.sendall(b"10000\r\n" + b" " * 65_536 + b"\r\n")


def _endless_header(random: Random, connection: socket.socket, body: bytes) -> None:
    connection.sendall(b"HTTP/1.1 200 OK\r\nX-Long: ")
    for _ in range(1_000):
        connection.sendall(b"a" * 65_536)


def _silent(random: Random, connection: socket.socket, body: bytes) -> None:
    time.sleep(20)


def _closes(random: Random, connection: socket.socket, body: bytes) -> None:
    right = json.dumps(_right_answer(body)).encode()
    reply = _reply("200 OK", right)
    connection.sendall(reply[: random.randrange(len(reply))])


def _noise(random: Random, connection: socket.socket, body: bytes) -> None:
    connection.sendall(random.randbytes(random.choice((1, 100, 5_000))))


@functools.cache
def _bomb() -> bytes:
    """200 MiB of spaces, packed."""
    return gzip.compress(b" " * (200 << 20), 1)


def _packed(random: Random, connection: socket.socket, body: bytes) -> None:
    connection.sendall(_reply("200 OK", _bomb(), "Content-Encoding: gzip"))


def _redirects(random: Random, connection: socket.socket, body: bytes) -> None:
    location = random.choice(("/v1/score", "http://evil.example/", "file:///etc/passwd", OSC))
    connection.sendall(_reply(random.choice(("301 M", "302 F", "307 T", "308 P")), b"",
                              f"Location: {location}"))  # fmt: skip


BEHAVIOURS: dict[str, Behaviour] = {
    "changed": _answers(lambda random, answer: change(random, answer)),
    "fewer": _answers(_fewer),
    "more": _answers(lambda random, answer: {"items": answer["items"] * 2}),
    "numbers": _answers(_wrong_number),
    "odd-text": _odd_text,
    "repeats-token": _repeats_token,
    "drips-body": _drips_body,
    "drips-headers": _drips_headers,
    "drips-status": _drips_status,
    "endless": _endless,
    "endless-header": _endless_header,
    "silent": _silent,
    "closes": _closes,
    "noise": _noise,
    "gzip-bomb": _packed,
    "redirects": _redirects,
    "503": _says("503 Busy", b"later", "Retry-After: 9999999"),
    "429": _says("429 Slow", b"later", "Retry-After: -1"),
    "empty": _says("200 OK", b""),
    "204": _says("204 No Content", b""),
    "html": _says("502 Bad Gateway", b"<html>" + b"x" * 50_000),
    "escapes": _says("400 Bad", OSC.encode() + b"\x1b[2J\x9b31m\r\r"),
}
