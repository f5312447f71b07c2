"""Requests to a server, until there is an answer or the time is over.

Only what may pass is tried again (408, 425, 429, 5xx and broken connections), after a random pause
that grows, and only until the deadline, which is one for all of it: names looked up, connections,
headers and content, however slowly a server drips them."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import math
import os
import random
import socket
import threading
import time
import weakref
from collections.abc import Callable, Coroutine, Mapping
from concurrent.futures import Future
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any, TypeVar

import httpx2
import orjson
from tenacity import (
    AsyncRetrying,
    RetryCallState,
    retry_if_exception_type,
    stop_after_attempt,
    stop_before_delay,
    wait_random_exponential,
)

from smorm.errors import ConfigError, SmormError
from smorm.limits import read_limited
from smorm.printing import address_of, keep_secret, keep_secrets_of, shorten

T = TypeVar("T")

RETRIED = frozenset({408, 425, 429})
# What a server answers to what it cannot score, as opposed to who asks, or where.
REFUSALS = frozenset({400, 413, 422})
# An answer larger than this is refused while it is read.
ANSWER_BYTES = 64 << 20
LONGEST_PAUSE = 30.0  # seconds between two tries, where the server does not ask for more
_HINTS = {
    401: " (is the token right?)",
    403: " (is the token right?)",
    404: " (is this the address of a server of that kind?)",
}


class RewardServerError(SmormError):
    """A server gave no score: it refused, failed until the deadline, or answered anything else than
    scores. `status` is the one of its answer where it refused."""

    status: int | None = None


class RefusedError(RewardServerError):
    """The server refused what it was asked to score; another conversation it may take."""


class MayPassError(Exception):
    """Another try may go well; `retry_after` are the seconds that the server asks to wait."""

    def __init__(self, reason: str, retry_after: float = 0.0) -> None:
        super().__init__(reason)
        self.retry_after = retry_after


class Transport:
    """One server's address, and how it is asked. Requests run in the event loop of `run`.

    Args:
        url: the server's address; its query is sent with every request, and shown nowhere.
        token: sent as `Authorization: Bearer`.
        timeout: seconds that one request may take, with all tries and pauses.
        concurrency: requests under way at a time.
        tries: how often a request is sent at most.
        pause: about the seconds before the second try, about doubled for each further one.

    Raises ConfigError: not an http address, or a token that no header can hold."""

    def __init__(
        self,
        url: str,
        token: str | None = None,
        timeout: float = 60.0,
        concurrency: int = 8,
        tries: int = 5,
        pause: float = 0.5,
    ) -> None:
        parsed = _parsed_address(url)
        self.url, self._query = address_of(str(parsed)).rstrip("/"), parsed.query.decode()
        keep_secrets_of(url)
        for name, value in (("timeout", timeout), ("concurrency", concurrency), ("tries", tries)):
            if not value > 0:
                raise ConfigError(f"{name} {value}: expected a number above 0")
        self.timeout, self.concurrency, self.tries, self.pause = timeout, concurrency, tries, pause
        # In a header alone, which no log of addresses holds.
        self._headers = {"Content-Type": "application/json"}
        if token is not None:
            if not token or not token.isascii() or not token.isprintable() or " " in token:
                raise ConfigError("the token is empty, or holds characters that no header can hold")
            keep_secret(token)
            self._headers["Authorization"] = f"Bearer {token}"
        # Some of the first pause at least, and never more than the longest.
        self._backoff = wait_random_exponential(1.5 * pause, LONGEST_PAUSE, min=0.5 * pause)
        self._process: int | None = None

    def run(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        """Start work in the loop of all clients of this process."""
        loop = _background_loop(os.getpid())
        # A fork has neither the thread of its parent nor a right to its connections.
        if self._process != os.getpid():
            self._process = os.getpid()
            # A redirect would take the token to another server. No timeout of its own, which would
            # be between two bytes: the deadline holds for all.
            self._client = httpx2.AsyncClient(
                headers=self._headers, follow_redirects=False, timeout=None
            )
            self._slots = asyncio.Semaphore(self.concurrency)
            # Of one that nobody closed.
            end = weakref.finalize(self, _close_connections, self._client, loop, os.getpid())
            end.atexit = False
        return asyncio.run_coroutine_threadsafe(work, loop)

    async def close(self) -> None:
        """Close the connections."""
        await self._client.aclose()

    async def request(
        self,
        method: str,
        path: str,
        body: Callable[[float], bytes] | None = None,
        read: Callable[[Any], T] = lambda answer: answer,
        ends: float = math.inf,
    ) -> T:
        """What `read` makes of the answer's JSON.

        Args:
            body: makes the content of each try, told the seconds that are left.
            read: may raise `MayPassError` for an answer after which it should be tried again.
            ends: a deadline of `time.monotonic` beside the request's own timeout."""
        # Monotonic: a clock that is set back must not prolong the wait.
        seconds = None if ends == math.inf else ends - time.monotonic()
        try:
            async with asyncio.timeout(seconds):
                await self._slots.acquire()
        except TimeoutError as error:
            raise RewardServerError(
                f"{self.url}{path}: no score: the time was over before it was sent"
            ) from error
        try:
            return await self._until(
                min(ends, time.monotonic() + self.timeout), method, path, body, read
            )
        finally:
            self._slots.release()

    async def _until(
        self,
        ends: float,
        method: str,
        path: str,
        body: Callable[[float], bytes] | None,
        read: Callable[[Any], T],
    ) -> T:
        seconds = ends - time.monotonic()
        retrying = AsyncRetrying(
            retry=retry_if_exception_type(MayPassError),
            stop=stop_after_attempt(self.tries) | stop_before_delay(seconds),
            wait=self._wait,
            sleep=asyncio.sleep,
            reraise=True,
        )
        try:
            return await retrying(self._try, method, path, body, read, ends)
        except MayPassError as error:
            tries = retrying.statistics["attempt_number"]
            times = "once" if tries == 1 else f"{tries} times"
            raise RewardServerError(
                f"{self.url}{path}: no score (tried {times} in {seconds:.3g} s): {error}"
            ) from error

    async def _try(
        self,
        method: str,
        path: str,
        body: Callable[[float], bytes] | None,
        read: Callable[[Any], T],
        ends: float,
    ) -> T:
        url, seconds = f"{self.url}{path}", max(ends - time.monotonic(), 0.001)
        content = b"" if body is None else body(seconds)
        try:
            async with asyncio.timeout(seconds):
                status, headers, answer = await self._send(method, url, content)
        except (httpx2.TransportError, TimeoutError) as error:
            raise MayPassError(_cause(error)) from error
        if status != 200:
            reason = f"{status}: {_shown(answer)}"
            if status not in RETRIED and status < 500:
                raise _refusal(status, url, reason, headers)
            raise MayPassError(reason, _seconds_of(headers.get("retry-after", "")))
        try:
            return read(_parsed(answer))
        except RewardServerError as error:
            error.args = (f"{url}: {error}",)
            raise

    async def _send(
        self, method: str, url: str, body: bytes
    ) -> tuple[int, Mapping[str, str], bytes]:
        address = f"{url}?{self._query}" if self._query else url
        content = bytearray()
        async with self._client.stream(method, address, content=body) as response:
            async for piece in response.aiter_bytes():
                content += piece
                if len(content) > ANSWER_BYTES:
                    raise RewardServerError(f"{url}: an answer of more than {ANSWER_BYTES:,} bytes")
            return response.status_code, response.headers, bytes(content)

    def _wait(self, state: RetryCallState) -> float:
        """Random, so that clients whom one failure hit do not all come back at one time; never
        sooner than the server asks."""
        pause = self._backoff(state)
        error = state.outcome.exception() if state.outcome else None
        if isinstance(error, MayPassError) and error.retry_after:
            return max(pause, error.retry_after + random.uniform(0, self.pause))
        return pause


def _close_connections(
    client: httpx2.AsyncClient, loop: asyncio.AbstractEventLoop, process: int
) -> None:
    # The loop's thread is not in a fork.
    if os.getpid() == process:
        asyncio.run_coroutine_threadsafe(client.aclose(), loop)


@functools.cache
def _background_loop(process: int) -> asyncio.AbstractEventLoop:
    """The event loop of all clients of a process, which runs in a thread of its own: only there
    can a request be given up wherever it hangs, whatever thread or loop the caller is in."""
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, name="smorm-requests", daemon=True).start()
    return loop


def read_token(path: Path, name: str = "token_file") -> str:
    """A bearer token from the file that `name` gives."""
    try:
        token = read_limited(path, "token_bytes", ConfigError).decode("utf-8").strip()
        keep_secret(token)
        return token
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{name} {path}: cannot be read: {error}") from error


def _seconds_of(retry_after: str) -> float:
    """Seconds that a `Retry-After` asks for (a number, or a date); 0 where it asks for nothing."""
    if retry_after.isdecimal():
        return float(retry_after)
    with contextlib.suppress(ValueError):
        moment = parsedate_to_datetime(retry_after)
        if moment.tzinfo is not None:
            return max(0.0, (moment - datetime.now(UTC)).total_seconds())
    return 0.0


def _refusal(status: int, url: str, reason: str, headers: Mapping[str, str]) -> RewardServerError:
    message = f"{url}: the server refused: {reason}{_HINTS.get(status, '')}"
    if 300 <= status < 400:
        target = shorten(headers.get("location", "another address"))
        message = (
            f"{url}: moved to {target}: name that address (the token is not sent to another one by "
            "itself)"
        )
    error = RefusedError(message) if status in REFUSALS else RewardServerError(message)
    error.status = status
    return error


def _parsed_address(url: str) -> httpx2.URL:
    try:
        parsed = httpx2.URL(url)
    except httpx2.InvalidURL as error:
        raise ConfigError(f"{url}: not an address: {error}") from error
    if parsed.scheme not in ("http", "https") or not parsed.host:
        raise ConfigError(f"{url}: expected an address such as http://localhost:8000")
    if parsed.userinfo:
        raise ConfigError("the address holds a user or password: put a token into a file instead")
    return parsed


def _cause(error: Exception) -> str:
    """What went wrong with a connection, as the operating system names it where it does."""
    if isinstance(error, TimeoutError):
        return "the answer did not end in time"
    cause: BaseException | None = error
    # The library's own text is only that all attempts failed.
    while cause is not None:
        if isinstance(cause, socket.gaierror):
            return f"{type(error).__name__}: {cause.strerror}"
        if isinstance(cause, OSError) and cause.errno:
            return f"{type(error).__name__}: {os.strerror(cause.errno)}"
        if isinstance(cause, BaseExceptionGroup):  # one for each address of a name
            cause = cause.exceptions[0]
        else:
            cause = cause.__cause__ or cause.__context__
    return f"{type(error).__name__}: {shorten(error)}".rstrip(": ")


def _parsed(content: bytes) -> Any:
    try:
        return orjson.loads(content)  # refuses NaN and infinity
    except orjson.JSONDecodeError as error:
        raise RewardServerError(f"the answer is not JSON ({error}): {_shown(content)}") from error


def _shown(content: bytes) -> str:
    return shorten(content.decode("utf-8", errors="replace"), 300) or "(nothing)"
