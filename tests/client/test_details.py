"""The client against a real server: rows as files have them, and errors as the caller says."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smorm import RewardModel
from smorm.client import ItemError, RewardClient, RewardServerError, Score
from smorm.errors import ConfigError, DataError
from tests.rewards.reward_servers import Reply, RewardServer, said
from tests.serving.servers import Running

TALKS = [("What is 2 + 2?", "4"), ("What is 2 + 2?", "It is four."), ("Name a river.", "")]
MESSAGES = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
LONG = "b " * 8_000


def client_of(server: Running, name: str = "joint", **options) -> RewardClient:
    return RewardClient(server.url, model=name, **{"timeout": 120, **options})


def test_every_kind_of_row_has_the_score_of_the_library(server: Running, model: RewardModel):
    rows = [
        TALKS[0],
        {"prompt": TALKS[1][0], "response": TALKS[1][1]},
        {"messages": MESSAGES},
        MESSAGES,
        (MESSAGES[:1], MESSAGES[1:]),
        {"prompt": "Name a river.", "responses": ["The Nile.", "Rome"]},
        {"prompt": "Which?", "chosen": "this", "rejected": "that"},
    ]
    expected = model.score(rows, "L").view()
    with client_of(server, views=["L"]) as client:
        assert client.protocol == "smorm"
        np.testing.assert_allclose(client.score(rows), expected, atol=1e-5)
        for row in (*rows[:4], rows[5]):
            np.testing.assert_allclose(client.score(row), model.score([row], "L").view(), atol=1e-5)


def test_details_hold_what_the_model_gives(server: Running, model: RewardModel):
    scores = model.score(TALKS)
    with client_of(server, views=["M", "F"]) as client:
        details = client.details(TALKS)
        assert client.score(TALKS).shape == (3, 2)
    for index, detail in enumerate(details):
        assert float(detail) == detail.value == detail.views["M"]
        assert detail.value == pytest.approx(scores.view("M")[index], abs=1e-5)
        assert detail.preference == pytest.approx(scores.preference[index], abs=1e-5)
        assert list(detail.attributes) == list(model.attributes)
        values = list(detail.attributes.values())
        assert values == pytest.approx(scores.attributes[index].tolist(), abs=1e-5)
        assert detail.tokens == scores.tokens[index]
        assert not detail.truncated


def test_a_response_without_a_score_is_raised_or_returned_as_the_caller_says(server: Running):
    rows = [TALKS[0], ("prompt", LONG), TALKS[1]]
    with client_of(server, batch=2) as client:
        details = client.details(rows, errors="return")
        assert [type(detail) for detail in details] == [Score, ItemError, Score]
        assert details[1].kind == "too_long"
        for call in (client.score, client.details):
            with pytest.raises(ItemError, match=r"response 2 of 3: .*too_long: .*the limit"):
                call(rows)
        with pytest.raises(ConfigError, match="raise or return"):
            client.details(rows, errors="ignore")  # type: ignore[call-overload]


def test_a_prompt_is_shortened_where_the_client_asks_for_it(server: Running, model: RewardModel):
    row = ("a " * 3_000, "fine")
    with client_of(server) as client, pytest.raises(ItemError, match="too_long"):
        client.score(row)
    with client_of(server, truncation="left_prompt", views=["M"]) as client:
        (detail,) = client.details(row)
    expected = model.score([row], "M", overlong="truncate_prompt")
    assert detail.truncated
    assert detail.value == pytest.approx(expected.view()[0], abs=1e-5)


def test_compare_and_info(server: Running, model: RewardModel):
    texts = ["Rome", "The Nile.", "It is the Nile."]
    values = model.score([("Name a river.", text) for text in texts], "M").view()
    with client_of(server, views=["M", "F"]) as client:
        compared = client.compare("Name a river.", texts)
        info = client.info()
    assert list(compared.views) == ["M", "F"]
    assert compared.views["M"].best == int(np.argmax(values))
    assert compared.views["M"].order[0] == compared.views["M"].best
    assert [float(score) for score in compared.responses] == pytest.approx(values, abs=1e-5)
    assert 0 <= compared.probability <= 1
    assert info["models"]["joint"]["default_view"] == "M"


def test_what_cannot_be_asked_for_is_told(server: Running):
    with client_of(server, views=["Z"]) as client, pytest.raises(RewardServerError, match="422"):
        client.score(TALKS)
    with (
        client_of(server, "none") as client,
        pytest.raises(RewardServerError, match="unknown_model"),
    ):
        client.score(TALKS)
    with client_of(server, "faulty", tries=2, pause=0.01) as client:
        with pytest.raises(ItemError, match=r"model_failed: .*asked to raise"):
            client.score([("p", "raise")])
        assert client.score([("p", "four"), ("p", "six")]).tolist() == [4.0, 3.0]
    with client_of(server) as client:
        for rows in (["text"], [7], [{"prompt": "x"}], [("a", "b", "c")], "text"):
            with pytest.raises(DataError):
                client.score(rows)
        with pytest.raises(DataError, match="instruction"):
            client.score({"prompt": "x", "response": "y", "instruction": "unread"})
    with pytest.raises(ConfigError, match="a list of names"):
        RewardClient(server.url, views="M")


def test_only_our_own_server_has_details():
    with (
        RewardServer(lambda _: Reply(404, b"")) as server,
        RewardClient(server.url, "vllm") as client,
    ):
        for call in (client.details, lambda rows: client.compare("p", rows)):
            with pytest.raises(ConfigError, match="only smorm's has it"):
                call(said("a", "b"))


VERDICT = {"order": [1, 0], "best": 1, "margin": 0.5}
ENTRIES = [{"views": {"F": 1.0}}, {"views": {"F": 1.5}}]
GOOD = {"responses": ENTRIES, "views": {"F": VERDICT}, "probability": 0.4}
WRONG = {
    "no verdict": {**GOOD, "views": {}},
    "no such order": {**GOOD, "views": {"F": {**VERDICT, "order": [0, 0]}}},
    "best is not first": {**GOOD, "views": {"F": {**VERDICT, "best": 0}}},
    "a margin below 0": {**GOOD, "views": {"F": {**VERDICT, "margin": -1.0}}},
    "no margin": {**GOOD, "views": {"F": {**VERDICT, "margin": None}}},
    "a response too few": {**GOOD, "responses": ENTRIES[:1]},
    "a response without a score": {**GOOD, "responses": [ENTRIES[0], {"views": {}}]},
    "a probability of 2": {**GOOD, "probability": 2.0},
    "a list": [GOOD],
}


@pytest.mark.parametrize("name", list(WRONG))
def test_a_comparison_that_holds_no_verdict_is_an_error(name):
    with (
        RewardServer(lambda _: Reply(content=WRONG[name])) as server,
        RewardClient(server.url, "smorm") as client,
        pytest.raises(RewardServerError),
    ):
        client.compare("p", ["a", "b"])


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.floats(-9, 9) | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["items", "views", "F", "error", "tokens", "preference", "attributes",
                             "changes", "type", "message"]),
            inner, max_size=4,
        )
    ),
    max_leaves=12,
)  # fmt: skip


@pytest.mark.slow
@settings(max_examples=80, deadline=None)
@given(entries=st.lists(JSON, max_size=2) | JSON, wrapped=st.booleans())
def test_whatever_a_server_answers_a_score_is_one_finite_number(answering, entries, wrapped):
    server, answers = answering
    answers[:] = [{"items": entries} if wrapped else entries]
    with RewardClient(server.url, "smorm", views=["F"], tries=1) as client:
        try:
            (detail,) = client.details(said("abc"))
        except RewardServerError:
            return
    assert type(detail.value) is float
    assert np.isfinite([detail.value, *detail.attributes.values()]).all()
    assert detail.value == answers[0]["items"][0]["views"]["F"]


@pytest.fixture(scope="module")
def answering():
    answers: list[object] = []
    with RewardServer(lambda _: Reply(content=answers[0])) as server:
        yield server, answers
