"""`smorm.verl.compute_score` as verl 0.9.1 calls it, and calls that share requests."""

from __future__ import annotations

import asyncio
import functools
import inspect
import threading

import numpy as np
import pytest

from smorm import RewardModel
from smorm.client import ItemError, RewardServerError, Score
from smorm.client.sharing import SharedRequests
from smorm.errors import ConfigError, DataError
from smorm.verl import compute_score
from tests.rewards.reward_servers import Asked, Reply, RewardServer, counting, said
from tests.serving.servers import Running

PROMPT = [{"role": "user", "content": "What is 2 + 2?"}]
ANSWERS = [f"It is {number}." for number in range(40)]
REWARD_KWARGS = {"view": "M", "model": "joint"}


async def _call_with_kwargs_async(raw_fn, extra_kwargs, *args, **kwargs):
    # verl/trainer/ppo/reward.py of verl 0.9.1
    merged_kwargs = {**kwargs, **extra_kwargs}
    return await raw_fn(*args, **merged_kwargs)


def wrapped(**reward_kwargs):
    """The function as verl's `get_custom_reward_fn` makes it."""
    return functools.partial(_call_with_kwargs_async, compute_score, reward_kwargs)


async def run_single(function, answer: str, extra_info: dict) -> dict:
    """The call of `NaiveRewardManager.run_single` of verl 0.9.1."""
    assert inspect.iscoroutinefunction(function)
    extra_info["num_turns"] = extra_info.get("num_turns", np.int64(2))
    extra_info["rollout_reward_scores"] = {}
    return await function(
        data_source="openai/gsm8k", solution_str=answer, ground_truth="4", extra_info=extra_info
    )


def test_many_rollouts_at_a_time_get_their_own_scores_in_few_requests(
    server: Running, model: RewardModel
):
    # As they come: a list, or an array of an object's kind; from Parquet with keys that are null.
    infos = [
        {"raw_prompt": np.array(PROMPT, dtype=object)},
        {"prompt": [{"role": "user", "content": PROMPT[0]["content"], "tool_calls": None}]},
        {"prompt": PROMPT[0]["content"], "index": 3},
    ]

    async def main() -> list[dict]:
        function = wrapped(url=server.url, **REWARD_KWARGS)
        calls = [
            run_single(function, answer, dict(infos[index % 3]))
            for index, answer in enumerate(ANSWERS)
        ]
        return await asyncio.gather(*calls)

    before = requests_of(server)
    rewards = asyncio.run(main())
    scores = model.score([(PROMPT[0]["content"], answer) for answer in ANSWERS])
    values = [reward["score"] for reward in rewards]
    assert values == pytest.approx(scores.view("M").tolist(), abs=1e-5)
    assert all(type(value) is float for reward in rewards for value in reward.values())
    names = ["score", "smorm/preference", *(f"smorm/{name}" for name in model.attributes)]
    assert all(list(reward) == names for reward in rewards)
    assert rewards[7]["smorm/preference"] == pytest.approx(scores.preference[7], abs=1e-5)
    assert requests_of(server) - before == 2


def requests_of(server: Running) -> float:
    text = server.client.get("/metrics").text
    lines = [line for line in text.splitlines() if "requests_total" in line and "/v1/score" in line]
    return sum(float(line.rpartition(" ")[2]) for line in lines)


def test_a_rollout_without_a_score_fails_alone(server: Running):
    async def main() -> list:
        function = wrapped(url=server.url, **REWARD_KWARGS)
        answers = ["fine", "b " * 8_000, "\ud800", "fine"]
        calls = [run_single(function, answer, {"raw_prompt": PROMPT}) for answer in answers]
        return await asyncio.gather(*calls, return_exceptions=True)

    first, long, surrogate, last = asyncio.run(main())
    assert first == last
    assert isinstance(long, ItemError)
    assert long.kind == "too_long"
    assert isinstance(surrogate, DataError)


def test_where_it_is_and_what_lets_it_in_come_from_the_environment(monkeypatch, tmp_path):
    def reply(asked: Asked) -> Reply:
        assert asked.headers["Authorization"] == "Bearer s3cret-token"
        return counting(asked)

    (tmp_path / "token").write_text("s3cret-token\n")
    with RewardServer(reply) as server:
        monkeypatch.setenv("SMORM_REWARD_URL", server.url)
        monkeypatch.setenv("SMORM_REWARD_TOKEN_FILE", str(tmp_path / "token"))
        reward = asyncio.run(run_single(wrapped(), "four", {"raw_prompt": PROMPT}))
    assert reward == {"score": 4.0}
    monkeypatch.delenv("SMORM_REWARD_URL")
    with pytest.raises(ConfigError, match="SMORM_REWARD_URL"):
        asyncio.run(run_single(wrapped(), "four", {"raw_prompt": PROMPT}))


@pytest.mark.parametrize(
    ("extra_info", "message"),
    [
        ({"index": 3, "question": "2 + 2?"}, "no prompt, .*index, question.*reward manager"),
        ({"raw_prompt": PROMPT, "num_turns": 4}, "4 turns, .*flat_turns=true"),
    ],
)
def test_what_would_be_scored_wrongly_is_refused(extra_info, message):
    with pytest.raises(DataError, match=message):
        asyncio.run(run_single(wrapped(url="http://localhost"), "four", extra_info))


def test_several_turns_are_scored_as_one_where_that_is_asked_for():
    with RewardServer(counting) as server:
        function = wrapped(url=server.url, flat_turns=True)
        call = run_single(function, "four", {"raw_prompt": PROMPT, "num_turns": 4})
        assert asyncio.run(call) == {"score": 4.0}


def test_a_key_that_is_not_known_is_refused():
    with pytest.raises(TypeError, match="veiw"):
        asyncio.run(run_single(wrapped(veiw="M"), "four", {"raw_prompt": PROMPT}))


def test_each_loop_has_a_client_of_its_own():
    with RewardServer(counting) as server:
        function = wrapped(url=server.url)
        for text in ("abc", "four"):
            reward = asyncio.run(run_single(function, text, {"raw_prompt": PROMPT}))
            assert reward == {"score": float(len(text))}


def test_a_server_that_fails_is_an_error_of_every_rollout_and_no_reward():
    async def main(url: str) -> list:
        function = wrapped(url=url, tries=1, timeout=60)
        calls = [run_single(function, "four", {"raw_prompt": PROMPT}) for _ in range(5)]
        return await asyncio.gather(*calls, return_exceptions=True)

    with RewardServer(lambda _: Reply(500, b"out of memory")) as server:
        failures = asyncio.run(main(server.url))
    assert all(isinstance(failure, RewardServerError) for failure in failures)
    assert all("out of memory" in str(failure) for failure in failures)


def score_of(text: str) -> Score:
    return Score(float(len(text)), {}, None, {}, None, False)


def test_what_waits_goes_out_when_a_request_ends_and_not_before():
    sizes: list[int] = []
    gate = asyncio.Event()

    async def score_all(conversations):
        sizes.append(len(conversations))
        await gate.wait()
        return [score_of(conversation[-1].content) for conversation in conversations]

    async def main() -> list[float]:
        shared = SharedRequests(score_all, batch=4, concurrency=2)
        first = [asyncio.create_task(shared.score(talk)) for talk in said("a", "bb", "ccc")]
        for _ in range(10):
            await asyncio.sleep(0)
        assert sizes == [3]
        later = [asyncio.create_task(shared.score(talk)) for talk in said(*["dddd"] * 9)]
        for _ in range(10):
            await asyncio.sleep(0)
        # Two are under way; five wait, and one of them is not wanted any more.
        assert sizes == [3, 4]
        later[-1].cancel()
        gate.set()
        scores = await asyncio.gather(*first, *later[:-1])
        assert sizes == [3, 4, 4]
        return [score.value for score in scores]

    assert asyncio.run(main()) == [1.0, 2.0, 3.0, *[4.0] * 8]


def test_every_call_ends_whatever_becomes_of_its_request():
    async def fails(conversations):
        raise RuntimeError("broken")

    async def too_few(conversations):
        return [score_of("a")] * (len(conversations) - 1)

    async def cancelled(conversations):
        raise asyncio.CancelledError

    async def main(score_all) -> list:
        shared = SharedRequests(score_all)
        return await asyncio.gather(
            *(shared.score(talk) for talk in said("a", "b")), return_exceptions=True
        )

    expected = (RuntimeError, (ValueError, Score), asyncio.CancelledError)
    for score_all, kinds in zip((fails, too_few, cancelled), expected, strict=True):
        results = asyncio.run(asyncio.wait_for(main(score_all), 60))
        assert all(isinstance(result, kinds) for result in results)


def test_loops_of_several_threads_do_not_share_their_calls():
    results: list[float] = []
    with RewardServer(counting) as server:

        def work(text: str) -> None:
            call = run_single(wrapped(url=server.url), text, {"raw_prompt": PROMPT})
            results.append(asyncio.run(call)["score"])

        threads = [threading.Thread(target=work, args=("a" * n,)) for n in range(1, 6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert sorted(results) == [1.0, 2.0, 3.0, 4.0, 5.0]
