"""Rewards from a running server: ours, vLLM or SGLang.

A failure is an error that quotes the server, never a number: a reward of 0 or None in its place
trains a policy on noise. Only what may pass is tried again (408, 425, 429, 5xx and broken
connections), with a random pause that grows, and only until the deadline, which is one for all of
it: names looked up, connections, headers and content, however slowly a server drips them."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import random
import socket
import threading
import time
from collections.abc import Coroutine, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, Self, TypeVar

import httpx2
import numpy as np
import orjson

from smorm.arrays import Floats
from smorm.data.records import Item
from smorm.errors import ConfigError, DataError, SmormError
from smorm.limits import read_limited
from smorm.model.store import resolve
from smorm.printing import address_of, keep_secret, keep_secrets_of, shorten
from smorm.rewards.protocol import Results, Reward, RewardView, ScoringOptions, split_rows
from smorm.rewards.section import RewardSection
from smorm.rewards.wires import Answer, RefusedError, Wire, wires_of
from smorm.text.chat import Messages, Renderer
from smorm.text.tokenizers import load_tokenizer

T = TypeVar("T")

PROTOCOLS = ("auto", "smorm", "vllm", "sglang")
RETRIED = frozenset({408, 425, 429})
# An answer larger than this is refused while it is read.
ANSWER_BYTES = 64 << 20
_GRACE = 5.0  # seconds after the deadline in which a request must have been given up
# What a server answers to what it cannot score, as opposed to who asks, or where.
_REFUSALS = frozenset({400, 413, 422})
_HINTS = {
    401: " (is the token right?)",
    403: " (is the token right?)",
    404: " (is this the address of a server of that kind?)",
}


class RewardClient(contextlib.AbstractContextManager["RewardClient"]):
    """A reward server as a function from conversations to scores.

    Args:
        url: the server's address, without an endpoint's path. A query (`?api_key=...`) is sent
            with every request, and shown nowhere.
        protocol: smorm, vllm or sglang; `auto` asks the server which it is.
        token: sent as `Authorization: Bearer`.
        timeout: seconds that one request may take, from the first byte of the first try to the
            last byte of the answer, with all tries and pauses.
        views: of a server of ours, the views to score by; without any the server's own.
        renderer: of the model that is served. An engine (vLLM, SGLang) then gets token ids; without
            one vLLM gets messages, which it renders itself, and SGLang cannot be asked.
        batch: conversations a request, where the protocol takes several.
        concurrency: requests under way at a time.
        tries: how often a request is sent at most.
        pause: seconds before the second try, about doubled for each further one.

    Raises:
        ConfigError: not an http address, a token that no header can hold, or an unknown protocol.
        SmormError: the server does not say what it is (`protocol="auto"`)."""

    def __init__(
        self,
        url: str,
        protocol: str = "auto",
        token: str | None = None,
        timeout: float = 60.0,
        *,
        views: Sequence[str] = (),
        renderer: Renderer | None = None,
        batch: int = 32,
        concurrency: int = 8,
        tries: int = 5,
        pause: float = 0.5,
    ) -> None:
        if protocol not in PROTOCOLS:
            raise ConfigError(f"protocol {protocol!r}: expected one of {', '.join(PROTOCOLS)}")
        parsed = _parsed_address(url)
        self.url, self._query = address_of(str(parsed)).rstrip("/"), parsed.query.decode()
        keep_secrets_of(url)
        self.timeout, self.batch, self.concurrency = timeout, batch, concurrency
        self.tries, self.pause = tries, pause
        # In a header alone, which no log of addresses holds.
        headers = {}
        if token is not None:
            if not token or not token.isascii() or not token.isprintable() or " " in token:
                raise ConfigError("the token is empty, or holds characters that no header can hold")
            keep_secret(token)
            headers["Authorization"] = f"Bearer {token}"
        # A redirect would take the token to another server.
        # No timeout of its own, which would be between two bytes: the deadline holds for all.
        self._client = httpx2.AsyncClient(headers=headers, follow_redirects=False, timeout=None)
        self._loop = _background_loop(os.getpid())
        self.protocol, self.model_id = self._introduce(protocol)
        self.wires = wires_of(self.protocol, renderer, views)

    def score(self, conversations: Sequence[Messages]) -> Floats:
        """Scores [N], or [N, C] of C > 1 views or labels, in the conversations' order. SmormError
        where the server refused, failed until the deadline, or gave anything but one finite score
        (or C) for each conversation; DataError where one is not valid Unicode."""
        rows = self.answer(conversations).rows
        return rows[:, 0] if rows.shape[1] == 1 else rows

    def answer(
        self,
        conversations: Sequence[Messages],
        wire: Wire | None = None,
        *,
        batch: int | None = None,
        concurrency: int | None = None,
    ) -> Answer:
        """As `score`, with the tokens that the server counted, by one of its `wires`."""
        wire = wire or self.wires[0]
        size = wire.batch or batch or self.batch
        batches = [conversations[at : at + size] for at in range(0, len(conversations), size)]
        # No request at all, which a server could refuse as empty.
        if not batches:
            return Answer(np.zeros((0, 1)), [])
        with ThreadPoolExecutor(concurrency or self.concurrency) as pool:
            # The first failure decides: `map` then cancels the requests that have not begun.
            answers = list(pool.map(partial(self._post, wire), batches))
        rows = [answer.rows for answer in answers]
        widths = sorted({block.shape[1] for block in rows})
        # Answers of two models would else be taken for those of one.
        if len(widths) > 1:
            raise SmormError(f"{self.url}: some answers have {widths} scores a conversation")
        tokens = chain.from_iterable(answer.tokens for answer in answers)
        return Answer(np.concatenate(rows), list(tokens))

    def close(self) -> None:
        """Close the connections."""
        self._wait_for(self._client.aclose(), _GRACE)

    def __exit__(self, *_: object) -> None:
        self.close()

    def _post(self, wire: Wire, conversations: Sequence[Messages]) -> Answer:
        name = {}
        if self.model_id is not None:
            name["model"] = self.model_id
        try:
            body = orjson.dumps({**name, **wire.body(conversations)})
        except TypeError as error:  # a lone surrogate
            raise DataError(f"a conversation cannot be sent: {error}") from error
        answer = self._request("POST", wire.path, body)
        try:
            return wire.read(answer, len(conversations))
        except SmormError as error:
            raise type(error)(f"{self.url}{wire.path}: {error}") from error

    def _introduce(self, protocol: str) -> tuple[str, str | None]:
        """Which protocol the server speaks, and its model's name: by `/v1/info`, `/v1/models`."""
        # Ours serves one model, and needs no name of it.
        if protocol == "smorm":
            return protocol, None
        if protocol == "auto" and isinstance(self._page("/v1/info"), Mapping):
            return "smorm", None
        first: Mapping[str, Any] = {}
        # Whatever else a page holds, it names no model: an unknown server may answer anything.
        with contextlib.suppress(KeyError, IndexError, TypeError):
            first = dict(self._page("/v1/models")["data"][0])
        if protocol != "auto":
            return protocol, first.get("id")
        owner = str(first.get("owned_by", "")).lower()
        if owner not in ("vllm", "sglang"):
            raise SmormError(
                f"{self.url}: neither /v1/info nor /v1/models says what server this is: name its "
                "protocol (smorm, vllm or sglang)"
            )
        return owner, first.get("id")

    def _page(self, path: str) -> Any:
        with contextlib.suppress(_NoSuchPageError):
            return self._request("GET", path, None)
        return None

    def _request(self, method: str, path: str, body: bytes | None) -> Any:
        url, deadline = f"{self.url}{path}", time.monotonic() + self.timeout
        address = f"{url}?{self._query}" if self._query else url
        # Monotonic: a clock that is set back must not prolong the wait.
        reason, tried = "the time was over before it was sent", 0
        while tried < self.tries and time.monotonic() < deadline:
            tried += 1
            wait = 0.0
            try:
                status, headers, content = self._send(method, address, body, deadline)
            except (httpx2.TransportError, TimeoutError) as error:
                reason = _cause(error)
            else:
                if status == 200:
                    return _parsed(content, url)
                reason = f"{status}: {_shown(content)}"
                if status not in RETRIED and status < 500:
                    raise _refusal(status, url, reason, headers)
                # What the server asks for counts (a number, not a date), up to the deadline.
                if (pause := headers.get("retry-after", "")).isdecimal():
                    wait = float(pause)
            # Random, so that clients whom one failure hit do not all come back at one time.
            wait = max(wait, self.pause * 2 ** (tried - 1) * random.uniform(0.5, 1.5))
            if time.monotonic() + wait >= deadline:
                break
            if tried < self.tries:
                time.sleep(wait)
        times = "once" if tried == 1 else f"{tried} times"
        raise SmormError(f"{url}: no score (tried {times} in {self.timeout:g} s): {reason}")

    def _send(
        self, method: str, url: str, body: bytes | None, deadline: float
    ) -> tuple[int, Mapping[str, str], bytes]:
        """One try: status, headers and content. `TimeoutError` at the deadline."""
        remaining = max(deadline - time.monotonic(), 0.001)
        return self._wait_for(self._fetch(method, url, body, remaining), remaining + _GRACE)

    async def _fetch(
        self, method: str, url: str, body: bytes | None, seconds: float
    ) -> tuple[int, Mapping[str, str], bytes]:
        headers = {"Content-Type": "application/json"}
        content = bytearray()
        async with (
            asyncio.timeout(seconds),
            self._client.stream(method, url, content=body, headers=headers) as response,
        ):
            async for piece in response.aiter_bytes():
                content += piece
                if len(content) > ANSWER_BYTES:
                    raise SmormError(f"{self.url}: an answer of more than {ANSWER_BYTES:,} bytes")
            return response.status_code, response.headers, bytes(content)

    def _wait_for(self, work: Coroutine[Any, Any, T], seconds: float) -> T:
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result(seconds)
        except BaseException:
            # Ctrl-C as well: nothing is left that waits for a server.
            future.cancel()
            raise


@functools.cache
def _background_loop(process: int) -> asyncio.AbstractEventLoop:
    """The event loop of all clients of a process, which runs in a thread of its own: only there
    can a request be given up wherever it hangs, whatever thread or loop the caller is in."""
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, name="smorm-requests", daemon=True).start()
    return loop


class ServerReward(Reward):
    """A server as a reward: a column for each view that was requested when it was opened."""

    kind = "url"

    def __init__(self, client: RewardClient, views: Sequence[str] = ()) -> None:
        self.client, self.views, self.name = client, tuple(views), client.url

    @classmethod
    def open(cls, section: RewardSection, options: ScoringOptions) -> Self:
        views = options.views or (section.view,)
        names = list(map(str, filter(None, views)))
        token = renderer = None
        if section.token_file is not None:
            token = read_token(section.token_file)
        if section.tokenizer is not None:
            renderer = Renderer(load_tokenizer(str(resolve(section.tokenizer))))
        url, protocol, timeout = str(section.url), section.protocol, section.timeout
        client = RewardClient(url, protocol, token, timeout, views=names, renderer=renderer)
        # A key that nothing reads would be taken for one that works.
        engines = ("vllm", "sglang")
        uses = (("view", names, ("smorm",)), ("tokenizer", section.tokenizer, engines))
        for key, value, readers in uses:
            if value and client.protocol not in readers:
                raise ConfigError(
                    f"{key}: {client.url} is a server of {client.protocol}, which has no use for "
                    "it: leave it out"
                )
        return cls(client, names)

    @property
    def provenance(self) -> dict[str, Any]:
        model = self.client.model_id
        return {"url": self.client.url, "model": model if model is None else shorten(model)}

    def score(self, items: Sequence[Item]) -> Results:
        """The server's scores; a failure of the server stops everything."""
        # Flat, so that requests are full whatever the number of responses of an item.
        conversations = []
        for item in items:
            conversations += [item.prompt + response for response in item.responses]
        answer = self.client.answer(conversations)
        width = answer.rows.shape[1]
        if width != max(1, len(self.views)):
            raise SmormError(
                f"{self.client.url}: gives {width} scores an answer: serve a model with one row, "
                "such as an exported view"
            )
        return split_rows(answer.rows, answer.tokens, items)

    def view(self, value: Any = None) -> RewardView:
        """One of the views that it was opened with; None is the first, or the server's own."""
        if value is None and not self.views:
            return super().view()
        if value is None:
            value = self.views[0]
        if value not in self.views:
            raise ConfigError(f"view {value}: {self.client.url} was not asked for it")
        index = self.views.index(value)
        return RewardView(value, lambda rows: rows[:, index], {"name": value})


class _NoSuchPageError(SmormError):
    """The server has no such page."""


def read_token(path: Path, name: str = "token_file") -> str:
    """A bearer token from the file that `name` gives."""
    try:
        token = read_limited(path, "token_bytes", ConfigError).decode("utf-8").strip()
        keep_secret(token)
        return token
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{name} {path}: cannot be read: {error}") from error


def _refusal(status: int, url: str, reason: str, headers: Mapping[str, str]) -> SmormError:
    if 300 <= status < 400:
        target = shorten(headers.get("location", "another address"))
        return SmormError(
            f"{url}: moved to {target}: name that address (the token is not sent to another one by "
            "itself)"
        )
    error = SmormError
    if status in _REFUSALS:
        error = RefusedError
    elif status in (404, 405):
        error = _NoSuchPageError
    return error(f"{url}: the server refused: {reason}{_HINTS.get(status, '')}")


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


def _parsed(content: bytes, url: str) -> Any:
    try:
        return orjson.loads(content)  # refuses NaN and infinity
    except orjson.JSONDecodeError as error:
        raise SmormError(f"{url}: the answer is not JSON ({error}): {_shown(content)}") from error


def _shown(content: bytes) -> str:
    return shorten(content.decode("utf-8", errors="replace"), 300) or "(nothing)"
