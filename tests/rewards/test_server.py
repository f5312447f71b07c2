"""A client of reward servers: right numbers in the right places, or an error that says why."""

from __future__ import annotations

import itertools
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smorm import RewardModel
from smorm.client import RewardClient
from smorm.client import transport as client_module
from smorm.client.transport import read_token
from smorm.errors import ConfigError, DataError, SmormError
from smorm.model.export import export_all_rows, export_view
from smorm.text.chat import Message
from tests.rewards.reward_servers import (
    Asked,
    Engine,
    Reply,
    RewardServer,
    counting,
    said,
    sglang,
    smorm,
    vllm,
)
from tests.tiny import trained

TALKS = [
    *said("a short answer", "another, longer answer 🙂", "", "x"),
    (
        Message("user", "one"),
        Message("assistant", "two"),
        Message("user", "three"),
        Message("assistant", "four"),
    ),
]


@pytest.fixture(scope="module")
def model() -> RewardModel:
    return RewardModel.load(trained())


@pytest.fixture(scope="module")
def folded(tmp_path_factory) -> Engine:
    folder = tmp_path_factory.mktemp("export") / "F"
    one = RewardModel.load(trained())
    export_view(folder, one.network, one.tokenizer, one.card, one.view("F"))
    return Engine(folder)


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Engine:
    folder = tmp_path_factory.mktemp("export") / "rows"
    one = RewardModel.load(trained())
    export_all_rows(folder, one.network, one.tokenizer, one.card)
    return Engine(folder)


def expected(model: RewardModel, view: str = "F") -> np.ndarray:
    records = [
        {"messages": [{"role": m.role, "content": m.content} for m in talk]} for talk in TALKS
    ]
    return model.score(records, view).view()


def quick(server: RewardServer, protocol: str = "smorm", **options) -> RewardClient:
    """A client that waits for little."""
    return RewardClient(server.url, protocol, timeout=5.0, **{"pause": 0.01, **options})


@pytest.mark.parametrize("kind", ["vllm", "sglang", "smorm"])
def test_a_server_of_each_kind_is_known_by_itself_and_gives_the_models_scores(model, folded, kind):
    reply = {"vllm": vllm(folded), "sglang": sglang(folded), "smorm": smorm(model)}[kind]
    with RewardServer(reply) as server, quick(server, "auto", views=["F"],
                                              renderer=model.renderer) as reward:  # fmt: skip
        assert reward.protocol == kind
        np.testing.assert_allclose(reward.score(TALKS), expected(model), atol=1e-5)


@pytest.mark.parametrize("place", range(5))
def test_every_endpoint_of_vllm_gives_the_same_and_is_asked_for_raw_scores(model, folded, place):
    with (
        RewardServer(vllm(folded)) as server,
        quick(server, "vllm", renderer=model.renderer) as one,
    ):
        answer = one.answer(TALKS, one.wires[place])
        np.testing.assert_allclose(answer.rows[:, 0], expected(model), atol=1e-5)
        assert all(asked.body["use_activation"] is False for asked in server.posts())
        assert all(asked.body["model"] == "rm" for asked in server.posts())
        counted = [count for count in answer.tokens if count is not None]
        assert counted in ([], [len(model.renderer.render(talk)) for talk in TALKS])


def test_a_model_of_several_rows_gives_them_all(model, whole):
    with RewardServer(vllm(whole)) as server, quick(server, "vllm") as reward:
        rows = reward.score(TALKS)
    assert rows.shape == (len(TALKS), 6)
    np.testing.assert_allclose(rows[:, 0], expected(model), atol=1e-5)


def test_the_token_goes_into_the_header_and_a_wrong_one_is_told():
    def reply(asked: Asked) -> Reply:
        if asked.headers.get("Authorization") != "Bearer s3cret":
            return Reply(401, {"error": {"message": "unknown token"}})
        return counting(asked)

    with RewardServer(reply) as server:
        with quick(server, token="s3cret") as reward:
            assert reward.score(said("four")).tolist() == [4.0]
        with quick(server, token="wr0ng") as reward, pytest.raises(SmormError) as told:
            reward.score(said("four"))
    assert "401" in str(told.value)
    assert "unknown token" in str(told.value)
    assert "wr0ng" not in str(told.value)
    assert len(server.posts()) == 2


@settings(max_examples=15, deadline=None)
@given(
    texts=st.lists(st.text(max_size=30), min_size=1, max_size=20),
    batch=st.integers(1, 7),
    concurrency=st.integers(1, 4),
)
def test_scores_come_in_the_order_of_the_conversations(echo, texts, batch, concurrency):
    with quick(echo, batch=batch, concurrency=concurrency) as reward:
        assert reward.score(said(*texts)).tolist() == [float(len(text)) for text in texts]


@pytest.fixture(scope="module")
def echo():
    with RewardServer(counting) as server:
        yield server


def test_nothing_to_score_asks_nothing(echo):
    before = len(echo.posts())
    with quick(echo) as reward:
        assert reward.score([]).shape == (0,)
    assert len(echo.posts()) == before


@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503])
def test_what_may_pass_is_tried_again(status):
    answers = itertools.chain([Reply(status, b"busy")] * 2, itertools.repeat(None))
    with RewardServer(lambda asked: next(answers) or counting(asked)) as server:
        with quick(server) as reward:
            assert reward.score(said("abc")).tolist() == [3.0]
        assert len(server.posts()) == 3


@pytest.mark.parametrize("status", [400, 403, 404, 413, 422])
def test_what_will_not_pass_is_not_tried_again(status):
    with RewardServer(lambda _: Reply(status, {"error": "field items: too many"})) as server:
        with quick(server) as reward, pytest.raises(SmormError, match="too many") as told:
            reward.score(said("abc"))
        assert str(status) in str(told.value)
        assert len(server.posts()) == 1


def test_a_server_that_never_recovers_is_given_up_and_quoted():
    with RewardServer(lambda _: Reply(500, b"CUDA out of memory")) as server:
        with quick(server, tries=3) as reward, pytest.raises(SmormError, match="out of memory"):
            reward.score(said("abc"))
        assert len(server.posts()) == 3


def test_the_pause_that_the_server_asks_for_is_kept():
    answers = itertools.chain([Reply(429, b"", {"Retry-After": "1"})], itertools.repeat(None))
    with RewardServer(lambda asked: next(answers) or counting(asked)) as server:
        start = time.monotonic()
        with quick(server) as reward:
            reward.score(said("abc"))
        assert time.monotonic() - start >= 1.0


def test_a_pause_beyond_the_deadline_is_not_waited_for():
    with RewardServer(lambda _: Reply(503, b"draining", {"Retry-After": "3600"})) as server:
        start = time.monotonic()
        with quick(server) as reward, pytest.raises(SmormError, match="draining"):
            reward.score(said("abc"))
        assert time.monotonic() - start < 3


def test_a_server_that_hangs_is_left_at_the_deadline():
    def reply(asked: Asked) -> Reply:
        server.let_go.wait(20)
        return counting(asked)

    with RewardServer(reply) as server:
        start = time.monotonic()
        with (
            RewardClient(server.url, "smorm", timeout=0.4) as reward,
            pytest.raises(
                SmormError, match=r"tried once in 0.4 s\): the answer did not end in time"
            ),
        ):
            reward.score(said("abc"))
        assert time.monotonic() - start < 3


def test_a_server_that_is_not_there_is_told():
    with RewardServer(counting) as server:
        pass
    with quick(server, tries=2) as reward, pytest.raises(SmormError, match="ConnectError"):
        reward.score(said("abc"))


ITEMS = {
    "NaN": (b'{"items": [{"views": {"F": NaN}}]}', "not JSON"),
    "null": ({"items": [{"views": {"F": None}}]}, "None as a score"),
    "true": ({"items": [{"views": {"F": True}}]}, "True as a score"),
    "text": ({"items": [{"views": {"F": "0.5"}}]}, "'0.5' as a score"),
    "too few": ({"items": []}, "0 scores for 1 conversations"),
    "too many": ({"items": [{"views": {"F": 1.0}}] * 2}, "2 scores for 1 conversations"),
    "another view": ({"items": [{"views": {"M": 1.0}}]}, "no view 'F', but M"),
    "no list": ({"rewards": [1.0]}, "no list 'items'"),
    "an error in its place": ({"items": [{"error": {"message": "too long"}}]}, "too long"),
    "a page": (b"<html>Bad gateway</html>", "Bad gateway"),
    "nothing": (b"", "nothing"),
}


@pytest.mark.parametrize("name", list(ITEMS))
def test_an_answer_without_a_score_is_an_error_and_never_a_number(name):
    content, told = ITEMS[name]
    with (
        RewardServer(lambda _: Reply(content=content)) as server,
        quick(server, views=["F"]) as reward,
        pytest.raises(SmormError, match=told),
    ):
        reward.score(said("abc"))


DATA = {
    "empty": ([{"index": 0, "probs": []}], "scores of one number"),
    "infinite": (b'{"data": [{"index": 0, "probs": [1e999]}]}', "not JSON"),
    "another index": ([{"index": 1, "probs": [1.0]}], r"the indices \[1\]"),
    "no scores": ([{"index": 0}], "None where scores"),
}


@pytest.mark.parametrize("name", list(DATA))
def test_so_is_one_of_vllms(name):
    data, told = DATA[name]

    def reply(asked: Asked) -> Reply:
        if asked.method == "GET":
            return Reply(404, {})
        return Reply(content=data if isinstance(data, bytes) else {"data": data})

    with (
        RewardServer(reply) as server,
        quick(server, "vllm") as reward,
        pytest.raises(SmormError, match=told),
    ):
        reward.score(said("abc"))


def test_answers_of_different_widths_are_refused():
    widths = itertools.count(1)

    def reply(asked: Asked) -> Reply:
        if asked.method == "GET":
            return Reply(404, {})
        return Reply(content={"data": [{"index": 0, "probs": [1.0] * next(widths)}]})

    with (
        RewardServer(reply) as server,
        quick(server, "vllm") as reward,
        pytest.raises(SmormError, match=r"\[1, 2\] scores a conversation"),
    ):
        reward.score(said("a", "b"))


def test_entries_are_put_into_the_order_of_their_index(model, folded):
    def reply(asked: Asked) -> Reply:
        answer = vllm(folded)(asked)
        if asked.path == "/classify":
            answer.content["data"].reverse()
        return answer

    with RewardServer(reply) as server, quick(server, "vllm", renderer=model.renderer) as reward:
        rows = reward.answer(TALKS, reward.wires[0]).rows
    np.testing.assert_allclose(rows[:, 0], expected(model), atol=1e-5)


def test_another_address_is_not_followed_with_the_token():
    moved = Reply(307, b"", {"Location": "http://127.0.0.1:9/v1/score"})
    with (
        RewardServer(lambda _: moved) as server,
        quick(server, token="s3cret") as reward,
        pytest.raises(SmormError, match="moved to"),
    ):
        reward.score(said("abc"))


def test_an_answer_without_an_end_is_not_read(monkeypatch):
    monkeypatch.setattr(client_module, "ANSWER_BYTES", 1000)
    with (
        RewardServer(lambda _: Reply(content=b"[" * 5000)) as server,
        quick(server) as reward,
        pytest.raises(SmormError, match="more than 1,000 bytes"),
    ):
        reward.score(said("abc"))


def test_a_server_that_does_not_say_what_it_is_must_be_named():
    with (
        RewardServer(lambda _: Reply(404, b"")) as server,
        pytest.raises(SmormError, match="name its protocol"),
    ):
        quick(server, "auto")


def test_text_protocols_need_a_renderer():
    with (
        RewardServer(lambda _: Reply(404, b"")) as server,
        pytest.raises(ConfigError, match="SGLang takes token ids or text"),
    ):
        quick(server, "sglang")


@pytest.mark.parametrize(
    "url", ["localhost:8000", "ftp://localhost", "http://", "http://me:pw@localhost", "http://[::1"]
)
def test_what_is_no_address_is_refused_without_its_password(url):
    with pytest.raises(ConfigError) as told:
        RewardClient(url, "smorm")
    assert "pw" not in str(told.value)


def test_a_token_file_without_end_is_refused():
    with pytest.raises(ConfigError, match=r"/dev/zero: .*SMORM_LIMIT_TOKEN_BYTES"):
        read_token(Path("/dev/zero"))


@pytest.mark.parametrize("token", ["", "two words", "line\nbreak", "naïve"])
def test_a_token_that_no_header_can_hold_is_refused(token):
    with pytest.raises(ConfigError, match="token"):
        RewardClient("http://localhost", "smorm", token)


def test_an_unknown_protocol_is_refused():
    with pytest.raises(ConfigError, match="expected one of auto, smorm, vllm, sglang"):
        RewardClient("http://localhost", "tei")


def test_a_lone_surrogate_is_bad_data(echo):
    with quick(echo) as reward, pytest.raises(DataError, match="cannot be sent"):
        reward.score(said("\ud800"))
