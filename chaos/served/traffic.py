"""Requests whose right scores are known, each on a connection of its own."""

from __future__ import annotations

import http.client
import itertools
import threading
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import orjson

from smorm import RewardModel

SECONDS = 240.0
"""A server that has not answered then hangs: no deadline of a request is as long."""
MARK = "uzer-text-5f1c"
"""Stands in every text that is sent, and may stand in nothing that a server prints."""
TOLERANCE = 1e-5


@dataclass(frozen=True, slots=True)
class Answer:
    """Of one request."""

    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return orjson.loads(self.body)


@dataclass(frozen=True, slots=True)
class Talk:
    """A request to `/v1/score`, and the values that are right."""

    model: str
    items: list[dict[str, Any]]
    values: list[float]
    deadline: float = 60.0  # seconds

    def body(self) -> dict[str, Any]:
        milliseconds = int(self.deadline * 1000)
        return {"model": self.model, "items": self.items, "deadline_ms": milliseconds}

    def wrong(self, answer: Answer, errors: Collection[str] = ()) -> str | None:
        """What is wrong with the answer; items may have errors of these types."""
        if answer.status != 200:
            kind = answer.json()["error"]["type"]
            return None if kind in errors else f"{answer.status} {kind}"
        items = answer.json()["items"]
        if len(items) != len(self.values):
            return f"{len(items)} items for {len(self.values)}"
        for item, value in zip(items, self.values, strict=True):
            if "error" in item:
                if item["error"]["type"] not in errors:
                    return f"an error for a good item: {item['error']}"
            elif abs(next(iter(item["views"].values())) - value) > TOLERANCE:
                return f"{item['views']}, not {value}"
        return None


def send(
    port: int, method: str, path: str, body: bytes | None = None,
    headers: dict[str, str] | None = None,
) -> Answer:  # fmt: skip
    """One request on a connection of its own; OSError and HTTPException where there is no whole
    answer."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=SECONDS)
    try:
        connection.request(method, path, body, headers or {})
        response = connection.getresponse()
        content = response.read()
        return Answer(response.status, {k.lower(): v for k, v in response.getheaders()}, content)
    finally:
        connection.close()


def post(port: int, path: str, value: Any) -> Answer:
    """A JSON request."""
    return send(port, "POST", path, orjson.dumps(value), {"Content-Type": "application/json"})


def talks_of(model: Path) -> list[Talk]:
    """Requests to the rewards `joint` and `length`, of one to five items."""
    reward = RewardModel.load(model)
    talks = []
    for number in range(24):
        prompt = f"{MARK} question {number % 5}"
        responses = [
            f"answer {number} " * (1 + (number + each) % 9) for each in range(number % 5 + 1)
        ]
        items = [{"prompt": prompt, "response": text} for text in responses]
        values = reward.score([(prompt, text) for text in responses]).view().tolist()
        talks.append(Talk("joint", items, values))
        talks.append(Talk("length", items, [float(len(text)) for text in responses]))
    return talks


class Traffic:
    """Threads that send good requests one after the other until the block ends."""

    def __init__(
        self, port: int, talks: Sequence[Talk], threads: int = 3, errors: Collection[str] = ()
    ) -> None:
        self.port, self.talks, self.errors = port, talks, errors
        self.problems: list[str] = []
        self.counts: Counter[str] = Counter()
        self._ending = threading.Event()
        self._threads = [
            threading.Thread(target=self._send_all, args=(index,)) for index in range(threads)
        ]

    def __enter__(self) -> Traffic:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:  # fmt: skip
        self._ending.set()
        for thread in self._threads:
            thread.join()

    def stop_sending(self) -> None:
        """Begin no more requests."""
        self._ending.set()

    def _send_all(self, index: int) -> None:
        for talk in itertools.islice(itertools.cycle(self.talks), index * 7, None):
            if self._ending.is_set():
                return
            try:
                answer = post(self.port, "/v1/score", talk.body())
                problem = talk.wrong(answer, self.errors)
                self.counts[self._outcome(answer)] += 1
            except (OSError, http.client.HTTPException, ValueError) as failure:
                problem = f"no answer: {type(failure).__name__}: {failure}"
                self.counts["no answer"] += 1
            if problem is not None:
                self.problems.append(problem)

    @staticmethod
    def _outcome(answer: Answer) -> str:
        """The type of the first error, or that there was none."""
        value = answer.json()
        for part in (value, *value.get("items", ())):
            if "error" in part:
                return str(part["error"]["type"])
        return "right"
