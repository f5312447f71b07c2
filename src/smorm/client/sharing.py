"""Single calls that come together as few requests: what waits goes out at once, without a timer."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from smorm.client.results import ItemError, Score
from smorm.text.chat import Messages

ScoreAll = Callable[[Sequence[Messages]], Awaitable[Sequence[Score | ItemError]]]


class SharedRequests:
    """Calls for one conversation each, of one event loop.

    Calls of the same moment are one request. While `concurrency` requests are under way, further
    calls wait together, up to `batch` a request, and go out when one of those ends.

    Args:
        score_all: one request: a result of each conversation, in order."""

    def __init__(self, score_all: ScoreAll, batch: int = 32, concurrency: int = 8) -> None:
        self._score_all, self.batch, self.concurrency = score_all, batch, concurrency
        self._waiting: list[tuple[Messages, asyncio.Future[Score]]] = []
        self._requests: set[asyncio.Task[None]] = set()
        self._scheduled = False

    async def score(self, conversation: Messages) -> Score:
        """The conversation's score. Its own `ItemError`, or what failed of the request; a call that
        is cancelled before its request leaves is not sent."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Score] = loop.create_future()
        self._waiting.append((conversation, future))
        # After the calls that were made in this same turn of the loop.
        if not self._scheduled:
            self._scheduled = True
            loop.call_soon(self._send)
        return await future

    def _send(self) -> None:
        self._scheduled = False
        self._waiting = [entry for entry in self._waiting if not entry[1].done()]
        while self._waiting and len(self._requests) < self.concurrency:
            entries, self._waiting = self._waiting[: self.batch], self._waiting[self.batch :]
            request = asyncio.create_task(self._request(entries))
            self._requests.add(request)
            request.add_done_callback(self._ended)

    def _ended(self, request: asyncio.Task[None]) -> None:
        self._requests.discard(request)
        self._send()

    async def _request(self, entries: Sequence[tuple[Messages, asyncio.Future[Score]]]) -> None:
        """Complete the future of every entry, on every path."""
        try:
            results = await self._score_all([conversation for conversation, _ in entries])
            for (_, future), result in zip(entries, results, strict=True):
                if future.done():
                    continue
                if isinstance(result, ItemError):
                    future.set_exception(result)
                else:
                    future.set_result(result)
        except Exception as error:
            for _, future in entries:
                if not future.done():
                    future.set_exception(error)
        finally:
            for _, future in entries:
                future.cancel()
