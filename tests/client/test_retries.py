"""Whatever a server does, a call ends in the right scores or in an error that quotes it."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tenacity import Future, RetryCallState

from smorm.client import RewardClient, RewardServerError
from smorm.client.transport import LONGEST_PAUSE, MayPassError, Transport, _seconds_of
from smorm.errors import ConfigError
from tests.rewards.reward_servers import Asked, Reply, RewardServer, counting, said

TEXTS = ["abc", "de"]
SCORES = [3.0, 2.0]
ERROR = {"error": {"type": "model_failed", "message": "the worker ended"}}
BAD = {"error": {"type": "bad_item", "message": "no such role"}}


def partly(error: dict) -> Reply:
    """The first of two items has its score."""
    return Reply(content={"items": [{"views": {"F": 3.0}}, error]})


# What a server may do, and what is then true of it: it is asked again, it is quoted.
AGAIN = {
    "408": Reply(408, b"too slow: quote"),
    "425": Reply(425, b"early: quote"),
    "429": Reply(429, b"full: quote"),
    "500": Reply(500, b"broken: quote"),
    "503": Reply(503, b"draining: quote"),
    "599": Reply(599, b"unknown: quote"),
    "gone": Reply(0),
    "an item that failed": partly(ERROR),
}
FINAL = {
    "400": Reply(400, b"bad: quote"),
    "404": Reply(404, b"nothing: quote"),
    "422": Reply(422, b"no such view: quote"),
    "302": Reply(302, b"moved: quote", {"Location": "http://127.0.0.1:9/quote"}),
    "204": Reply(204, b""),
    "no JSON": Reply(content=b"<html>quote"),
    "NaN": Reply(content=b'{"items": [{"views": {"F": NaN}}, {"views": {"F": 1.0}}]}'),
    "null": Reply(content={"items": [{"views": {"F": None}}] * 2}),
    "too few": Reply(content={"items": [{"views": {"F": 1.0}}]}),
    "a bad item": partly(BAD),
    "no list": Reply(content={"scores": [1.0, 2.0]}),
}


class Script:
    """A server that does one thing after another, and then answers well."""

    def __init__(self) -> None:
        self.steps: list[Reply] = []
        self.server = RewardServer(self._reply)

    def _reply(self, asked: Asked) -> Reply:
        step = self.steps.pop(0) if self.steps else None
        if step is None:
            return counting(asked)
        # Of an item that is asked again alone, the answer is one item too.
        content = step.content
        if len(asked.body["items"]) == 1 and isinstance(content, dict) and "items" in content:
            return Reply(content={"items": content["items"][1:]})
        return step


@pytest.fixture(scope="module")
def script() -> Iterator[Script]:
    made = Script()
    with made.server:
        yield made


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(
    passing=st.lists(st.sampled_from(list(AGAIN)), max_size=5),
    final=st.none() | st.sampled_from(list(FINAL)),
    tries=st.integers(1, 4),
)
def test_a_call_ends_in_the_right_scores_or_an_error(script, passing, final, tries):
    script.steps = [AGAIN[name] for name in passing]
    if final is not None:
        script.steps.append(FINAL[final])
    before = len(script.server.posts())
    needed = len(passing) + 1
    with RewardClient(script.server.url, "smorm", timeout=60, tries=tries, pause=0.001) as client:
        if final is None and needed <= tries:
            assert client.score(said(*TEXTS)).tolist() == SCORES
        else:
            with pytest.raises(RewardServerError):
                client.score(said(*TEXTS))
    assert len(script.server.posts()) - before == min(needed, tries)


@pytest.mark.parametrize("name", [name for name in AGAIN if name != "gone"])
def test_what_was_tried_to_the_end_is_quoted_with_how_often(script, name):
    script.steps = [AGAIN[name]] * 3
    with (
        RewardClient(script.server.url, "smorm", tries=3, pause=0.001, timeout=60) as client,
        pytest.raises(RewardServerError, match=r"quote|model_failed: the worker ended") as raised,
    ):
        client.score(said(*TEXTS))
    assert script.server.url in str(raised.value)


def test_items_that_have_their_scores_are_not_asked_again(script):
    script.steps = [partly(ERROR)]
    before = len(script.server.posts())
    with RewardClient(script.server.url, "smorm", pause=0.001) as client:
        assert client.score(said(*TEXTS)).tolist() == SCORES
    first, second = script.server.posts()[before:]
    assert len(first.body["items"]) == 2
    assert second.body["items"] == first.body["items"][1:]


def test_a_request_that_is_too_large_is_sent_in_parts():
    def reply(asked: Asked) -> Reply:
        return Reply(413, b"too large") if len(asked.body["items"]) > 2 else counting(asked)

    with RewardServer(reply) as server, RewardClient(server.url, "smorm") as client:
        texts = ["a" * length for length in range(7)]
        assert client.score(said(*texts)).tolist() == [float(len(text)) for text in texts]
    with (
        RewardServer(lambda _: Reply(413, b"too large")) as server,
        RewardClient(server.url, "smorm") as client,
        pytest.raises(RewardServerError, match="413: too large") as raised,
    ):
        client.score(said("abc", "de", "f"))
    assert raised.value.status == 413


def state(attempt: int, error: Exception) -> RetryCallState:
    made = RetryCallState(None, None, (), {})
    made.attempt_number = attempt
    made.outcome = Future(attempt)
    made.outcome.set_exception(error)
    return made


@given(
    attempt=st.integers(1, 200),
    pause=st.floats(0.001, 10),
    asked=st.none() | st.floats(0, 10_000),
)
def test_a_pause_grows_is_random_and_bounded_and_never_sooner_than_asked(attempt, pause, asked):
    transport = Transport("http://localhost", pause=pause)
    waits = [transport._wait(state(attempt, MayPassError("busy", asked or 0.0))) for _ in range(3)]
    for wait in waits:
        assert 0.5 * pause <= wait or asked
        assert wait <= max(LONGEST_PAUSE, (asked or 0.0) + pause)
        assert wait >= (asked or 0.0)
        assert wait <= max(1.5 * pause * 2 ** min(attempt - 1, 60), (asked or 0.0) + pause)
    # One that all clients share would bring them back at one time.
    assert len(set(waits)) > 1


def test_a_pause_may_be_asked_for_by_seconds_or_by_a_date():
    soon = format_datetime(datetime.now(UTC) + timedelta(seconds=100), usegmt=True)
    assert _seconds_of("7") == 7.0
    assert 90 < _seconds_of(soon) <= 100
    past = format_datetime(datetime.now(UTC) - timedelta(days=1), usegmt=True)
    for nothing in ("", "soon", "-3", "1.5", past, "9" * 5_000 + "x"):
        assert _seconds_of(nothing) == 0.0


def test_a_deadline_holds_for_a_whole_call_of_many_requests():
    def reply(asked: Asked) -> Reply:
        server.let_go.wait(0.2)
        return counting(asked)

    with (
        RewardServer(reply) as server,
        RewardClient(server.url, "smorm", batch=1, concurrency=1, timeout=60) as client,
    ):
        began = time.monotonic()
        with pytest.raises(RewardServerError, match="no score"):
            client.score(said(*["abc"] * 200), deadline=1.0)
        # All of them would have taken 40 seconds.
        assert time.monotonic() - began < 20
        assert len(server.posts()) < 100
        assert client.score(said("abc"), deadline=30).tolist() == [3.0]


def test_the_server_is_told_when_nobody_waits_any_more(script):
    before = len(script.server.posts())
    with RewardClient(script.server.url, "smorm", timeout=7.0) as client:
        client.score(said("abc"))
        client.score(said("abc"), deadline=2.0)
    first, second = script.server.posts()[before:]
    assert 5_000 < first.body["deadline_ms"] <= 7_000
    assert 500 < second.body["deadline_ms"] <= 2_000


def test_many_threads_share_a_client():
    failures: list[object] = []
    with RewardServer(counting) as server, RewardClient(server.url, "smorm", timeout=60) as client:

        def ask(length: int) -> None:
            texts = ["a" * (length + more) for more in range(3)]
            if client.score(said(*texts)).tolist() != [float(len(text)) for text in texts]:
                failures.append(length)

        threads = [threading.Thread(target=ask, args=(length,)) for length in range(24)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not failures
    assert len(server.posts()) == 24


@pytest.mark.parametrize("option", ["timeout", "tries", "concurrency"])
def test_a_bound_that_would_end_every_request_is_refused(option):
    with pytest.raises(ConfigError, match=option):
        RewardClient("http://localhost", "smorm", **{option: 0})
