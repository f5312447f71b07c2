"""What stands before every route: bearer tokens, limits of bodies while they are read, and who has
gone. Nothing of a request's text is ever logged."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import hmac
import itertools
import secrets
import time
import traceback
from collections.abc import Awaitable, Callable, Mapping, MutableMapping, Sequence
from pathlib import Path
from typing import Any

import orjson

from smorm.errors import ConfigError
from smorm.limits import read_limited
from smorm.printing import get_logger, keep_secret
from smorm.serving import pages
from smorm.serving.metrics import Metrics
from smorm.serving.settings import Limits

log = get_logger(__name__)

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]
Answer = tuple[int, list[tuple[bytes, bytes]], bytes]
"""Status, headers with lower-case names, body."""

OPEN = frozenset({"/livez", *pages.FILES})
"""Paths without a token: liveness, and the pages, which hold nothing."""
GONE = "smorm.gone"
"""Key of a request's scope: an event that is set when the client has gone."""
REQUEST_ID = "smorm.request_id"
_DISCARDED = 4
"""How many times the limit of a body is read before the connection is closed."""


class Refused(Exception):  # noqa: N818  (an answer, not a fault of ours)
    """An answer of an error's form; `headers` beside it."""

    def __init__(
        self, status: int, kind: str, message: str, field: str | None = None, **headers: str
    ):
        super().__init__(message)
        self.status, self.kind, self.message, self.field = status, kind, message, field
        self.headers = headers

    def body(self, request_id: str) -> bytes:
        """`{"error": {"type", "message", "field", "request_id"}}`."""
        error = {"type": self.kind, "message": self.message, "field": self.field,
                 "request_id": request_id}  # fmt: skip
        return orjson.dumps({"error": error})


class Guard:
    """ASGI middleware around the whole app: what it refuses meets nothing of FastAPI."""

    def __init__(
        self, app: App, *, tokens: Sequence[str], limits: Limits, metrics: Metrics,
        routes: Sequence[str], check_room: Callable[[str], None],
    ) -> None:  # fmt: skip
        """`check_room` raises `Refused` for a path whose requests have no room at present."""
        self.app, self.limits, self.metrics = app, limits, metrics
        self.routes, self._check_room = frozenset(routes), check_room
        # One random draw for all requests: each costs a system call.
        self._ids = map(f"{secrets.token_hex(4)}{{:08x}}".format, itertools.count(1))
        # Digests have one length: comparing them tells nothing of a token's own.
        self._digests = [_digest(token) for token in tokens]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        request_id = scope[REQUEST_ID] = next(self._ids)
        route = scope["path"] if scope["path"] in self.routes else "other"
        began, status, answered = time.monotonic(), 500, False
        self.metrics.open_requests.inc()

        async def counted(message: MutableMapping[str, Any]) -> None:
            nonlocal status, answered
            if message["type"] == "http.response.start":
                status, answered = message["status"], True
                message["headers"] = [*message.get("headers", ()), _id_header(request_id)]
            await send(message)

        try:
            await self._guarded(scope, receive, counted)
        except Refused as refused:
            self.metrics.refusals.labels(refused.kind).inc()
            await _send(counted, refused, request_id)
        except asyncio.CancelledError:
            # The server ends and waits no longer. Swallowed: uvicorn would print a traceback.
            if not answered:
                stopping = Refused(503, "stopping", "the server is stopping")
                await _send(counted, stopping, request_id)
        except Exception as error:
            # A fault of this program's. Its message, and a traceback, might quote the request.
            where = traceback.extract_tb(error.__traceback__)[-1]
            log.error("%s %s: %s in %s:%s", request_id, route, type(error).__name__,
                      Path(where.filename).name, where.lineno)  # fmt: skip
            if not answered:
                await _send(counted, Refused(500, "internal", "the server failed"), request_id)
        finally:
            seconds = time.monotonic() - began
            self.metrics.open_requests.dec()
            self.metrics.requests.labels(route, str(status)).inc()
            self.metrics.request_seconds.labels(route).observe(seconds)
            log.debug("%s %s %d in %.3f s", request_id, route, status, seconds)

    def refuse_early(self, scope: Mapping[str, Any]) -> Answer | None:
        """The answer to a request that has no room, from its head alone: in an overload most
        requests end here, and a task for each would leave no time for the others. None: the app
        decides. The rest of the request is to be read, and thrown away."""
        began = time.monotonic()
        try:
            self._check_room(scope["path"])
            return None
        except Refused as full:
            refused = full
        if not 0 <= _content_length(scope) <= self.limits.body_bytes:
            return None
        try:
            self._check_token(scope)
        except Refused as unknown:
            refused = unknown
        self.metrics.refusals.labels(refused.kind).inc()
        route = scope["path"]  # one of ours: others have no room to be checked
        self.metrics.requests.labels(route, str(refused.status)).inc()
        self.metrics.request_seconds.labels(route).observe(time.monotonic() - began)
        return _answer_of(refused, next(self._ids))

    async def _guarded(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] not in OPEN:
            self._check_token(scope)
        body = await self._read_body(scope, receive)
        for name, value in scope["headers"]:
            if name == b"content-encoding" and value.lower() != b"identity":
                raise Refused(415, "compressed", "send the body as it is, without an encoding")
        # Before the body is parsed: in an overload most requests end here.
        self._check_room(scope["path"])
        gone = scope[GONE] = asyncio.Event()
        watcher = asyncio.create_task(_watch(receive, gone))
        replayed = False

        async def replay() -> MutableMapping[str, Any]:
            nonlocal replayed
            if not replayed:
                replayed = True
                return {"type": "http.request", "body": body, "more_body": False}
            await gone.wait()
            return {"type": "http.disconnect"}

        try:
            await self.app(scope, replay, send)
        finally:
            watcher.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await watcher

    def _check_token(self, scope: Mapping[str, Any]) -> None:
        if not self._digests:
            return
        header = b""
        for name, value in scope["headers"]:
            if name == b"authorization":
                header = value
        scheme, _, token = header.partition(b" ")
        digest = hashlib.sha256(token.strip()).digest()
        # Every token is compared, also after one was equal: the time says nothing.
        matches = [hmac.compare_digest(digest, known) for known in self._digests]
        if scheme.lower() != b"bearer" or not any(matches):
            raise Refused(
                401, "unauthorized", "a bearer token is needed", **{"WWW-Authenticate": "Bearer"}
            )

    async def _read_body(self, scope: Scope, receive: Receive) -> bytes:
        """The whole body; refused where it is too large, or too slow."""
        limit = self.limits.body_bytes
        too_large = Refused(413, "too_large", f"over the limit of {limit:,} bytes")
        if _content_length(scope) > _DISCARDED * limit:
            raise too_large
        body = bytearray()
        size = 0
        try:
            async with asyncio.timeout(self.limits.body_seconds):
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise Refused(499, "gone", "the client has gone")
                    chunk = message.get("body", b"")
                    size += len(chunk)
                    # A little too much is read to its end, and thrown away: a client that is still
                    # sending when the connection is closed would not see the answer.
                    if size <= limit:
                        body += chunk
                    ended = not message.get("more_body", False)
                    if size > _DISCARDED * limit or (ended and size > limit):
                        raise too_large
                    if ended:
                        return bytes(body)
        except TimeoutError:
            raise Refused(
                408, "too_slow", f"the body did not arrive in {self.limits.body_seconds:g} s"
            ) from None


async def _watch(receive: Receive, gone: asyncio.Event) -> None:
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            gone.set()
            return


async def _send(send: Send, refused: Refused, request_id: str) -> None:
    status, headers, body = _answer_of(refused, request_id)
    await send({"type": "http.response.start", "status": status, "headers": headers[:-1]})
    await send({"type": "http.response.body", "body": body})


def _answer_of(refused: Refused, request_id: str) -> Answer:
    body = refused.body(request_id)
    headers = [(b"content-type", b"application/json")]
    headers += [(name.lower().encode(), value.encode()) for name, value in refused.headers.items()]
    headers.append((b"content-length", str(len(body)).encode()))
    # What of the body was not read would be taken for the next request.
    if refused.status in (408, 413):
        headers.append((b"connection", b"close"))
    headers.append(_id_header(request_id))
    return refused.status, headers, body


def _id_header(request_id: str) -> tuple[bytes, bytes]:
    return b"x-request-id", request_id.encode()


def _content_length(scope: Mapping[str, Any]) -> int:
    """Bytes of the body; -1 where the head does not say."""
    for name, value in scope["headers"]:
        if name == b"content-length":
            return int(value)
    return -1


def read_tokens(path: Path) -> tuple[str, ...]:
    """Bearer tokens of a file, one a line; ConfigError where there is none, or one of other
    characters than visible ASCII."""
    try:
        lines = read_limited(path, "token_bytes", ConfigError).decode("utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"--token-file {path}: cannot be read: {error}") from error
    tokens = tuple(line.strip() for line in lines if line.strip())
    if not tokens:
        raise ConfigError(f"--token-file {path}: holds no token")
    for token in tokens:
        if not token.isascii() or not token.isprintable() or " " in token:
            raise ConfigError(
                f"--token-file {path}: a token has characters that no header can hold"
            )
        keep_secret(token)
    return tokens


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode("ascii")).digest()
