"""The clients: the same calls, to be waited for or awaited. All work is the session's."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Coroutine, Sequence
from typing import Any, Literal, TypeVar, overload

from smorm.arrays import Floats
from smorm.client.results import Comparison, ItemError, Score
from smorm.client.session import Errors, Session
from smorm.client.transport import Transport
from smorm.client.wires import Answer, Wire
from smorm.data.items import conversations_of
from smorm.text.chat import Messages, Renderer

T = TypeVar("T")


class _Client:
    def __init__(
        self,
        url: str,
        protocol: str = "auto",
        token: str | None = None,
        timeout: float = 60.0,
        *,
        model: str | None = None,
        views: Sequence[str] = (),
        truncation: Literal["refuse", "left_prompt"] = "refuse",
        renderer: Renderer | None = None,
        batch: int = 32,
        concurrency: int = 8,
        tries: int = 5,
        pause: float = 0.5,
    ) -> None:
        self._transport = Transport(url, token, timeout, concurrency, tries, pause)
        self._session = Session(
            self._transport, protocol, model, views, renderer, batch, truncation
        )
        self._opened()

    def _opened(self) -> None:
        """After the arguments were checked."""

    @property
    def url(self) -> str:
        """The server's address, without what may be secret in it."""
        return self._transport.url

    @property
    def protocol(self) -> str:
        """What the server speaks; `auto` until it was asked."""
        return self._session.protocol

    @property
    def model_id(self) -> str | None:
        """The served model's name, where one was given or the server named one."""
        return self._session.model

    @property
    def views(self) -> tuple[str, ...]:
        """The requested views."""
        return self._session.views


class RewardClient(_Client, contextlib.AbstractContextManager["RewardClient"]):
    """A reward server as a function from conversations to scores, for any number of threads.

    Args:
        url: the server's address, without an endpoint's path. A query (`?api_key=...`) is sent
            with every request, and shown nowhere.
        protocol: smorm, vllm or sglang; `auto` asks the server which it is.
        token: sent as `Authorization: Bearer`.
        timeout: seconds that one request may take, from the first byte of the first try to the
            last byte of the answer, with all tries and pauses.
        model: a served name, where a server of ours has several.
        views: of a server of ours, the views to score by; without any the server's own.
        truncation: of a server of ours, what becomes of a conversation over the model's limit:
            `refuse`, or `left_prompt`, which shortens its prompt.
        renderer: of the model that is served. An engine (vLLM, SGLang) then gets token ids; without
            one vLLM gets messages, which it renders itself, and SGLang cannot be asked.
        batch: conversations a request, where the protocol takes several.
        concurrency: requests under way at a time.
        tries: how often a request is sent at most; again only after 408, 425, 429, 5xx and broken
            connections.
        pause: about the seconds before the second try, about doubled for each further one up to
            half a minute, random, and never less than the server's `Retry-After`.

    Raises:
        ConfigError: not an http address, a token that no header can hold, or an unknown protocol.
        RewardServerError: the server does not say what it is (`protocol="auto"`)."""

    def _opened(self) -> None:
        self._wait_for(self._session.introduce())

    def score(self, rows: Any, *, deadline: float | None = None) -> Floats:
        """Scores [N] of N responses, or [N, C] by C > 1 views or labels, in order.

        Args:
            rows: one row, or a sequence of them: `{"prompt", "response"}`, `{"prompt",
                "responses"}`, `{"messages"}`, `(prompt, response)`, a list of messages. Each
                response of each row has a score.
            deadline: seconds that the whole call may take; without it only each request's timeout
                holds.

        Raises:
            RewardServerError: the server refused, failed until the deadline, or gave anything but
                one finite score (or C) for each response; `ItemError` where one alone has none.
            DataError: a row that cannot be read, or is not valid Unicode."""
        return self._wait_for(self._session.score(conversations_of(rows), deadline))

    @overload
    def details(
        self, rows: Any, *, errors: Literal["raise"] = "raise", deadline: float | None = None
    ) -> list[Score]: ...
    @overload
    def details(
        self, rows: Any, *, errors: Literal["return"], deadline: float | None = None
    ) -> list[Score | ItemError]: ...
    def details(self, rows: Any, *, errors: Errors = "raise", deadline: float | None = None) -> Any:
        """All that a server of ours says of each response [N]: every view, row, token count.

        `errors` is what becomes of a response that has no score while others have theirs: `raise`
        its `ItemError`, or `return` it in its place. Otherwise as `score`; ConfigError where the
        server is not ours."""
        return self._wait_for(self._session.details(conversations_of(rows), errors, deadline))

    def compare(
        self,
        prompt: Any,
        responses: Sequence[Any],
        *,
        tools: Any = None,
        deadline: float | None = None,
    ) -> Comparison:
        """Which of two or more responses to a prompt (texts or messages) is best by each view, and
        by how much. Raises as `score`; ConfigError where the server is not ours."""
        return self._wait_for(self._session.compare(prompt, responses, tools, deadline))

    def info(self) -> dict[str, Any]:
        """Rows, scales, views, fingerprints and limits of a server of ours."""
        return self._wait_for(self._session.info())

    @property
    def wires(self) -> list[Wire]:
        """Every way to ask this server, the one to score with first."""
        return self._session.wires

    def answer(
        self,
        conversations: Sequence[Messages],
        wire: Wire | None = None,
        *,
        batch: int | None = None,
        concurrency: int | None = None,
    ) -> Answer:
        """As `score`, with the tokens that the server counted, by one of its `wires`."""
        work = self._session.answer(conversations, wire, batch=batch, concurrency=concurrency)
        return self._wait_for(work)

    def close(self) -> None:
        """Close the connections."""
        self._wait_for(self._transport.close())

    def __exit__(self, *_: object) -> None:
        self.close()

    def _wait_for(self, work: Coroutine[Any, Any, T]) -> T:
        future = self._transport.run(work)
        try:
            return future.result()
        except BaseException:
            # Ctrl-C as well: nothing is left that waits for a server.
            future.cancel()
            raise


class AsyncRewardClient(_Client, contextlib.AbstractAsyncContextManager["AsyncRewardClient"]):
    """`RewardClient` to be awaited, from any event loop; arguments and errors are the same, but the
    server is first asked what it is by the first call. Cancelling a call ends its requests."""

    async def score(self, rows: Any, *, deadline: float | None = None) -> Floats:
        """As `RewardClient.score`."""
        return await self._awaited(self._session.score(conversations_of(rows), deadline))

    @overload
    async def details(
        self, rows: Any, *, errors: Literal["raise"] = "raise", deadline: float | None = None
    ) -> list[Score]: ...
    @overload
    async def details(
        self, rows: Any, *, errors: Literal["return"], deadline: float | None = None
    ) -> list[Score | ItemError]: ...
    async def details(
        self, rows: Any, *, errors: Errors = "raise", deadline: float | None = None
    ) -> Any:
        """As `RewardClient.details`."""
        return await self._awaited(self._session.details(conversations_of(rows), errors, deadline))

    async def compare(
        self,
        prompt: Any,
        responses: Sequence[Any],
        *,
        tools: Any = None,
        deadline: float | None = None,
    ) -> Comparison:
        """As `RewardClient.compare`."""
        return await self._awaited(self._session.compare(prompt, responses, tools, deadline))

    async def info(self) -> dict[str, Any]:
        """As `RewardClient.info`."""
        return await self._awaited(self._session.info())

    async def close(self) -> None:
        """Close the connections."""
        await self._awaited(self._transport.close())

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def _awaited(self, work: Coroutine[Any, Any, T]) -> T:
        return await asyncio.wrap_future(self._transport.run(work))
