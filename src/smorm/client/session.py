"""From rows to scores, once for the sync and the async client. Runs in the loop of `Transport.run`.
N conversations, C views or labels."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from functools import partial
from itertools import chain
from typing import Any, Literal, TypeVar

import numpy as np
import orjson

from smorm.arrays import Floats
from smorm.client.results import (
    PASSING_KINDS,
    Comparison,
    ItemError,
    Score,
    read_comparison,
)
from smorm.client.transport import MayPassError, RewardServerError, Transport
from smorm.client.wires import Answer, SmormScore, Wire, wires_of
from smorm.errors import ConfigError, DataError
from smorm.text.chat import Messages, Renderer

T = TypeVar("T")

PROTOCOLS = ("auto", "smorm", "vllm", "sglang")
Errors = Literal["raise", "return"]
_TOO_LARGE = 413
_LONGEST_DEADLINE = 600_000  # milliseconds, of our server


class Session:
    """A server, what it speaks, and what is asked of it."""

    def __init__(
        self,
        transport: Transport,
        protocol: str,
        model: str | None,
        views: Sequence[str],
        renderer: Renderer | None,
        batch: int,
        truncation: str,
    ) -> None:
        if protocol not in PROTOCOLS:
            raise ConfigError(f"protocol {protocol!r}: expected one of {', '.join(PROTOCOLS)}")
        if isinstance(views, str):
            raise ConfigError(f"views: expected a list of names, such as [{views!r}]")
        self.transport, self.batch, self.model = transport, batch, model
        self.protocol, self.views, self.wires = protocol, tuple(views), list[Wire]()
        self._renderer, self._truncation = renderer, truncation
        self._introduction: asyncio.Task[None] | None = None

    async def introduce(self, ends: float = math.inf) -> None:
        """Learn once which protocol the server speaks, and its model's name."""
        if self.wires:
            return
        # One task for all calls that come first together; a failed one is begun anew.
        if self._introduction is None or self._introduction.done():
            self._introduction = asyncio.create_task(self._introduce())
        try:
            async with asyncio.timeout(None if ends == math.inf else ends - time.monotonic()):
                await asyncio.shield(self._introduction)
        except TimeoutError as error:
            raise RewardServerError(
                f"{self.transport.url}: did not say in time what server it is"
            ) from error

    async def answer(
        self,
        conversations: Sequence[Messages],
        wire: Wire | None = None,
        *,
        batch: int | None = None,
        concurrency: int | None = None,
        deadline: float | None = None,
    ) -> Answer:
        """Scores [N, C] by one of the server's wires, by default the first."""
        ends = _end_of(deadline)
        await self.introduce(ends)
        chosen = wire or self.wires[0]
        # No request at all, which a server could refuse as empty.
        if not conversations:
            return Answer(np.zeros((0, 1)), [])
        size = chosen.batch or batch or self.batch
        works = [
            partial(self._rows, chosen, request, ends, index * size, len(conversations))
            for index, request in enumerate(_in_requests(conversations, size))
        ]
        answers = await _all(works, concurrency or self.transport.concurrency)
        widths = sorted({answer.rows.shape[1] for answer in answers})
        # Answers of two models would else be taken for those of one.
        if len(widths) > 1:
            raise RewardServerError(
                f"{self.transport.url}: some answers have {widths} scores a conversation"
            )
        tokens = chain.from_iterable(answer.tokens for answer in answers)
        return Answer(np.concatenate([answer.rows for answer in answers]), list(tokens))

    async def score(
        self, conversations: Sequence[Messages], deadline: float | None = None
    ) -> Floats:
        """Scores [N], or [N, C] of C > 1."""
        answer = await self.answer(conversations, deadline=deadline)
        return answer.rows[:, 0] if answer.rows.shape[1] == 1 else answer.rows

    async def details(
        self, conversations: Sequence[Messages], errors: Errors, deadline: float | None
    ) -> list[Score | ItemError]:
        """What our own server says of each response [N]."""
        if errors not in ("raise", "return"):
            raise ConfigError(f"errors {errors!r}: expected raise or return")
        ends = _end_of(deadline)
        await self.introduce(ends)
        wire = self._own("details")
        requests = _in_requests(conversations, self.batch)
        works = [partial(self._results, wire, request, ends) for request in requests]
        results = list(chain.from_iterable(await _all(works, self.transport.concurrency)))
        if errors == "raise":
            self._without_errors(results, 0, len(results))
        return results

    async def compare(
        self, prompt: Any, responses: Sequence[Any], tools: Any, deadline: float | None
    ) -> Comparison:
        """Who wins by each view."""
        ends = _end_of(deadline)
        await self.introduce(ends)
        wire = self._own("compare")
        body: dict[str, Any] = {
            "prompt": prompt,
            "responses": list(responses),
            "truncation": wire.truncation,
        }
        if tools:
            body["tools"] = tools
        if self.views:
            body["views"] = list(self.views)
        return await self.transport.request(
            "POST",
            "/v1/compare",
            self._timed(body),
            lambda answer: read_comparison(answer, len(responses), self.views),
            ends,
        )

    async def info(self) -> dict[str, Any]:
        """What our own server says of itself."""
        info = await self._page("/v1/info")
        if not isinstance(info, Mapping):
            raise RewardServerError(f"{self.transport.url}: no server of ours: it has no /v1/info")
        return dict(info)

    async def _rows(
        self, wire: Wire, conversations: Sequence[Messages], ends: float, start: int, total: int
    ) -> Answer:
        """Of one request, whose first conversation is the call's number `start` of `total`."""
        if isinstance(wire, SmormScore):
            results = await self._results(wire, conversations, ends)
            return wire.answer_of(self._without_errors(results, start, total))
        name = {} if self.model is None else {"model": self.model}
        content = encoded({**name, **wire.body(conversations)})
        count = len(conversations)
        return await self.transport.request(
            "POST", wire.path, lambda _: content, lambda answer: wire.read(answer, count), ends
        )

    async def _results(
        self, wire: SmormScore, conversations: Sequence[Messages], ends: float
    ) -> list[Score | ItemError]:
        """Of one request. Items that failed on the server alone are asked for again, without those
        that have their scores; a request that is too large is sent as two."""
        body = wire.body(conversations)
        # Encoded once, whatever the number of tries.
        items = [orjson.Fragment(encoded(item)) for item in body["items"]]
        results: list[Score | ItemError | None] = [None] * len(items)

        def missing() -> list[int]:
            return [
                index
                for index, result in enumerate(results)
                if result is None
                or (isinstance(result, ItemError) and result.kind in PASSING_KINDS)
            ]

        def content(seconds: float) -> bytes:
            pending = [items[index] for index in missing()]
            return self._timed({**body, "items": pending})(seconds)

        def read(answer: Any) -> None:
            pending = missing()
            scores = wire.results(answer, len(pending))
            for index, result in zip(pending, scores, strict=True):
                results[index] = result
            if again := missing():
                raise MayPassError(f"the server gave an error in its place: {results[again[0]]}")

        try:
            await self.transport.request("POST", wire.path, content, read, ends)
        except RewardServerError as error:
            if error.status == _TOO_LARGE and len(items) > 1:
                middle = len(items) // 2
                first = await self._results(wire, conversations[:middle], ends)
                return first + await self._results(wire, conversations[middle:], ends)
            # Some have their scores, and of each other one its own error is known.
            if any(result is None for result in results):
                raise
        return [result for result in results if result is not None]

    def _without_errors(
        self, results: Sequence[Score | ItemError], start: int, total: int
    ) -> list[Score]:
        """The results; the first error is raised, with the place of its response."""
        scores: list[Score] = []
        for index, result in enumerate(results, start):
            if isinstance(result, ItemError):
                which = f"response {index + 1} of {total}: " if total > 1 else ""
                raise ItemError(result.kind, result.text, f"{self.transport.url}: {which}")
            scores.append(result)
        return scores

    def _timed(self, body: dict[str, Any]) -> Callable[[float], bytes]:
        """A body of our own routes, which tell the server after how long nobody waits any more."""
        name = {} if self.model is None else {"model": self.model}

        def content(seconds: float) -> bytes:
            deadline = min(max(1, math.ceil(seconds * 1000)), _LONGEST_DEADLINE)
            return encoded({**name, **body, "deadline_ms": deadline})

        return content

    def _own(self, what: str) -> SmormScore:
        wire = self.wires[0]
        if not isinstance(wire, SmormScore):
            raise ConfigError(
                f"{what}: {self.transport.url} is a server of {self.protocol}: only smorm's has it"
            )
        return wire

    async def _introduce(self) -> None:
        protocol, model = self.protocol, self.model
        if protocol == "auto" and isinstance(await self._page("/v1/info"), Mapping):
            protocol = "smorm"
        # Ours needs a name only where it serves several.
        if protocol != "smorm":
            first: Mapping[str, Any] = {}
            page = await self._page("/v1/models")
            # Whatever else a page holds, it names no model: an unknown server may answer anything.
            try:
                first = dict(page["data"][0])
            except (KeyError, IndexError, TypeError, ValueError):
                first = {}
            if protocol == "auto":
                protocol = str(first.get("owned_by", "")).lower()
                if protocol not in ("vllm", "sglang"):
                    raise RewardServerError(
                        f"{self.transport.url}: neither /v1/info nor /v1/models says what server "
                        "this is: name its protocol (smorm, vllm or sglang)"
                    )
            model = model or first.get("id")
        wires = wires_of(protocol, self._renderer, self.views, self._truncation)
        self.protocol, self.model, self.wires = protocol, model, wires

    async def _page(self, path: str) -> Any:
        try:
            return await self.transport.request("GET", path)
        except RewardServerError as error:
            if error.status in (404, 405):
                return None
            raise


def _in_requests(conversations: Sequence[T], size: int) -> list[Sequence[T]]:
    return [conversations[at : at + size] for at in range(0, len(conversations), size)]


def _end_of(deadline: float | None) -> float:
    return math.inf if deadline is None else time.monotonic() + deadline


async def _all(works: Sequence[Callable[[], Coroutine[Any, Any, T]]], concurrency: int) -> list[T]:
    """The results of all works, so many at a time. The first failure decides: the others are
    cancelled."""
    slots = asyncio.Semaphore(concurrency)

    async def one(work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        async with slots:
            return await work()

    tasks = [asyncio.create_task(one(work)) for work in works]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()


def encoded(value: Any) -> bytes:
    """A body as JSON; DataError for what no JSON holds."""
    try:
        return orjson.dumps(value)
    except TypeError as error:  # a lone surrogate, or what no JSON type holds
        raise DataError(f"a conversation cannot be sent: {error}") from error
