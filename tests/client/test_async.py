"""The async client: the same scores, from any loop, and nothing left of a cancelled call."""

from __future__ import annotations

import asyncio
import gc
import os
import threading
import time

import pytest

from smorm.client import AsyncRewardClient, RewardClient, RewardServerError
from tests.rewards.reward_servers import Asked, Reply, RewardServer, counting, said


def test_it_gives_what_the_sync_client_gives_in_every_loop_that_it_is_used_in():
    texts = ["a" * length for length in range(40)]
    with RewardServer(counting) as server, RewardClient(server.url, "smorm") as reference:
        client = AsyncRewardClient(server.url, "smorm", batch=3)

        async def scores() -> list[float]:
            return (await client.score(said(*texts))).tolist()

        expected = reference.score(said(*texts)).tolist()
        assert asyncio.run(scores()) == expected
        assert asyncio.run(scores()) == expected
        asyncio.run(client.close())


def test_a_client_that_nobody_closed_leaves_no_connection():
    with RewardServer(counting) as server:
        client = RewardClient(server.url, "smorm")
        client.score(said("one"))
        connections = client._transport._client
        del client
        gc.collect()
        until = time.monotonic() + 60
        while not connections.is_closed:
            assert time.monotonic() < until
            time.sleep(0.01)


def test_what_comes_together_is_introduced_once():
    def reply(asked: Asked) -> Reply:
        return Reply(content={}) if asked.path == "/v1/info" else counting(asked)

    async def main(url: str) -> list[float]:
        async with AsyncRewardClient(url) as client:
            answers = await asyncio.gather(*(client.score(said("a" * n)) for n in range(20)))
        return [float(answer[0]) for answer in answers]

    with RewardServer(reply) as server:
        assert asyncio.run(main(server.url)) == list(map(float, range(20)))
        assert [asked.path for asked in server.asked].count("/v1/info") == 1


def test_a_failed_introduction_is_begun_anew():
    answers = [Reply(404, b""), Reply(404, b""), Reply(content={})]

    def reply(asked: Asked) -> Reply:
        return answers.pop(0) if asked.method == "GET" else counting(asked)

    async def main(url: str) -> list[float]:
        async with AsyncRewardClient(url) as client:
            with pytest.raises(RewardServerError, match="name its protocol"):
                await client.score(said("abc"))
            return (await client.score(said("abc"))).tolist()

    with RewardServer(reply) as server:
        assert asyncio.run(main(server.url)) == [3.0]


def test_a_cancelled_call_is_given_up_and_the_client_goes_on():
    begun = threading.Event()

    def reply(asked: Asked) -> Reply:
        if asked.body["items"][0]["messages"][-1]["content"] == "hang":
            begun.set()
            server.let_go.wait(60)
        return counting(asked)

    async def main(url: str) -> list[float]:
        async with AsyncRewardClient(url, "smorm", concurrency=1, timeout=300) as client:
            call = asyncio.create_task(client.score(said("hang")))
            await asyncio.to_thread(begun.wait, 60)
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call
            # Its place among the requests under way is free again: this would wait 300 seconds.
            return (await asyncio.wait_for(client.score(said("abc")), 60)).tolist()

    with RewardServer(reply) as server:
        assert asyncio.run(main(server.url)) == [3.0]


def test_a_first_failure_ends_the_other_requests_of_a_call():
    def reply(asked: Asked) -> Reply:
        text = asked.body["items"][0]["messages"][-1]["content"]
        if text == "bad":
            return Reply(422, b"bad")
        server.let_go.wait(60)
        return counting(asked)

    with (
        RewardServer(reply) as server,
        RewardClient(server.url, "smorm", batch=1, concurrency=4, timeout=300) as client,
        pytest.raises(RewardServerError, match="422: bad"),
    ):
        client.score(said("slow", "slow", "bad"))


def test_a_fork_has_connections_of_its_own():
    with RewardServer(counting) as server, RewardClient(server.url, "smorm") as client:
        assert client.score(said("abc")).tolist() == [3.0]
        read, write = os.pipe()
        child = os.fork()
        if child == 0:
            # Nothing of the test run may go on in here.
            try:
                os.write(write, str(client.score(said("four")).tolist()).encode())
            finally:
                os._exit(0)
        os.close(write)
        with os.fdopen(read) as pipe:
            assert pipe.read() == "[4.0]"
        os.waitpid(child, 0)
        assert client.score(said("fifth")).tolist() == [5.0]
