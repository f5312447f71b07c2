"""Parity with running servers: each kind passes, and what a server does wrong is named."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from smorm import RewardModel
from smorm.client import RewardClient
from smorm.data.census import Census
from smorm.errors import SmormError
from smorm.evaluation.parity.check import Parity, against_server, measure_model
from smorm.evaluation.parity.conversations import built_in
from smorm.evaluation.parity.paths import ModelPaths, PathResult
from smorm.evaluation.result import CauseKind
from smorm.model.export import export_all_rows, export_view
from tests.rewards.reward_servers import (
    Engine,
    Reply,
    RewardServer,
    Rows,
    sglang,
    shifted,
    sigmoid,
    smorm,
    softmax,
    vllm,
)
from tests.tiny import trained


@pytest.fixture(scope="module")
def ours() -> ModelPaths:
    model = RewardModel.load(trained())
    return measure_model(model, built_in(model.renderer, Census(), longest=128)[::4], quick=True)


@pytest.fixture(scope="module")
def engine(tmp_path_factory) -> Engine:
    model = RewardModel.load(trained())
    folder = tmp_path_factory.mktemp("served") / "L"
    parts = (model.network, model.tokenizer, model.card, model.view("L"))
    return Engine(export_view(folder, *parts).folder)


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Engine:
    model = RewardModel.load(trained())
    folder = tmp_path_factory.mktemp("served") / "rows"
    return Engine(export_all_rows(folder, model.network, model.tokenizer, model.card).folder)


@pytest.mark.slow
def test_messages_of_more_than_texts_are_sent_as_ids_alone_and_counted(ours, engine):
    fields = '{"reasoning_content": "because"}'
    first = ours.conversations[0]
    thinking = replace(first, response=(replace(first.response[0], fields=fields),))
    mixed = replace(ours, conversations=[thinking, *ours.conversations[1:]])
    found = against(mixed, vllm(engine))
    assert found.passed, found.failures
    unsent = {row.path.name.partition(" of ")[2][:3]: row.path.unsent for row in served(found)}
    assert unsent == {"ids": frozenset(), "mes": {0}, "tex": frozenset()}
    assert any(note.startswith("1 conversations with reasoning") for note in found.notes)


def served(found: Parity) -> list[PathResult]:
    return [row for row in found.rows if row.path.kind == "server"]


def against(ours: ModelPaths, reply, view: str = "L") -> Parity:
    with RewardServer(reply) as server:
        given = {"views": [view], "renderer": ours.model.renderer, "timeout": 5.0, "pause": 0.01}
        with RewardClient(server.url, **given) as remote:
            return against_server(ours, remote, view)


@pytest.mark.slow
def test_vllm_agrees_by_each_endpoint_alone_and_among_others(ours, engine):
    found = against(ours, vllm(engine))
    assert found.passed, found.failures
    rows = served(found)
    kinds = [row.path.name.partition(",")[0] for row in rows]
    assert kinds[0] == "vllm /classify of ids"
    assert {kind: kinds.count(kind) for kind in kinds} == {
        "vllm /classify of ids": 4, "vllm /pooling of ids": 4, "vllm /classify of messages": 2,
        "vllm /pooling of messages": 2, "vllm /classify of text": 4,
    }  # fmt: skip
    assert {row.path.batch for row in rows} == {1, 2, 8, 32}
    assert all(row.same_tokens for row in rows if row.path.batch == 1)
    assert any("constant" in note for note in found.notes)


def test_sglang_agrees_and_its_text_has_one_bos(ours, engine):
    found = against(ours, sglang(engine))
    assert found.passed, found.failures
    assert all(row.same_tokens for row in served(found))
    assert {row.path.sends_ids for row in served(found)} == {True, False}


@pytest.mark.slow
@pytest.mark.parametrize("serve", [vllm, sglang])
def test_of_ids_control_tokens_stay_text_and_every_conversation_is_in_the_gate(ours, engine, serve):
    assert any(conversation.control for conversation in ours.conversations)
    found = against(ours, serve(engine))
    for row in served(found):
        assert found.comparison.gated(row.path).all() == row.path.sends_ids
        assert (row.outside_gate > 0.01) != row.path.sends_ids


def test_our_own_server_agrees_with_the_views_constant_and_keeps_control_tokens(ours):
    found = against(ours, smorm(ours.model))
    assert found.passed, found.failures
    assert found.comparison.constant != 0
    for row in served(found):
        assert found.comparison.gated(row.path).all()
        assert row.same_tokens


@pytest.mark.slow
def test_all_rows_of_a_server_are_compared_row_by_row(ours, whole):
    found = against(ours, vllm(whole))
    assert found.passed, found.failures
    assert found.comparison.view is None


def last_of(rows: Rows) -> Rows:
    return [row[-1:] for row in rows]


def backwards(rows: Rows) -> Rows:
    return rows[::-1]


def noisy(rows: Rows) -> Rows:
    """Wrong only with neighbours, as a pooler that reads a padded position."""
    return rows if len(rows) == 1 else [[value * 1.5 for value in row] for row in rows]


TWISTS = {
    "sigmoid": (vllm, sigmoid, "activation: the scores are the sigmoid of ours"),
    "softmax": (vllm, softmax, "activation: the scores are the softmax of one label"),
    "shift": (sglang, shifted(0.25), r"offset: all scores are shifted by the same constant \+0.25"),
    "reorder": (sglang, backwards, "order: the same scores, given to other conversations"),
    "neighbours": (sglang, noisy, "batching: only conversations with neighbours differ"),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", list(TWISTS))
def test_what_a_server_does_to_the_scores_is_named(ours, engine, name):
    serve, twist, told = TWISTS[name]
    found = against(ours, serve(engine, twist))
    assert not found.passed
    assert len(found.failures) == 1, found.failures
    assert re.match(told, found.failures[0].text), found.failures


@pytest.mark.slow
def test_the_softmax_over_all_rows_is_named(ours, whole):
    (cause,) = map(str, against(ours, vllm(whole, softmax)).failures)
    assert cause.startswith("activation: the scores are the softmax of ours")


@pytest.mark.slow
def test_the_last_row_in_place_of_the_view_is_named(ours, whole):
    (cause,) = map(str, against(ours, vllm(whole, last_of)).failures)
    assert cause.startswith("head: these are the scores of the row 'style'")


def test_the_constant_that_a_server_adds_or_lacks_is_named(ours, engine):
    constant = against(ours, sglang(engine)).comparison.constant
    (adds,) = map(str, against(ours, sglang(engine, shifted(constant))).failures)
    assert "the target adds the view's constant" in adds
    (lacks,) = map(str, against(ours, smorm(ours.model, shifted(-constant))).failures)
    assert "the target lacks the view's constant" in lacks


@pytest.mark.slow
def test_a_doubled_bos_is_seen_by_the_number_of_tokens(ours, engine):
    found = against(ours, vllm(engine, double_bos=True))
    assert any(
        "one more in each conversation, most likely a doubled BOS" in c
        for c in map(str, found.failures)
    )
    assert all("messages" in row.path.name for row in found.rows if not row.passed)


@pytest.mark.parametrize(
    "twist", [lambda rows: rows[:-1], lambda rows: [[float("nan")]] * len(rows)]
)
def test_too_few_scores_or_nan_are_an_error(ours, engine, twist):
    with pytest.raises(SmormError, match=r"gave 0 scores for 1 conversations|not JSON"):
        against(ours, sglang(engine, twist))


def test_an_endpoint_that_is_missing_is_a_path_that_fails(ours, engine):
    def reply(asked):
        answer = vllm(engine)(asked)
        if asked.path == "/pooling":
            answer.status, answer.content = 400, {"detail": "pooling is off"}
        return answer

    found = against(ours, reply)
    failed = [row.path.name for row in found.rows if not row.passed]
    assert failed == ["vllm /pooling of ids, batch 1", "vllm /pooling of messages, 1 at a time"]
    assert {failure.cause for failure in found.failures} == {CauseKind.REFUSED}
    assert "pooling is off" in found.failures[0].text


def test_an_engine_that_takes_no_ids_is_asked_in_the_other_ways(ours, engine):
    def reply(asked):
        inputs = (asked.body or {}).get("input", [])
        if inputs and isinstance(inputs[0], list):
            return Reply(400, {"message": "input: expected text"})
        return vllm(engine)(asked)

    found = against(ours, reply)
    failed = [row.path.name for row in found.rows if not row.passed]
    assert failed == ["vllm /classify of ids, batch 1", "vllm /pooling of ids, batch 1"]
    assert all("17 of 17 conversations" in failure.text for failure in found.failures)


@pytest.mark.slow
def test_one_conversation_that_is_refused_is_a_cause_and_the_others_go_on(ours, engine):
    ids = ours.conversations[3].tokens.tolist()

    def reply(asked):
        if ids in (asked.body or {}).get("input", []):
            return Reply(400, {"error": {"message": "not this one"}})
        return vllm(engine)(asked)

    found = against(ours, reply)
    refused = [row for row in served(found) if row.path.refused]
    assert {row.path.name.partition(",")[0] for row in refused} == {
        "vllm /classify of ids", "vllm /pooling of ids",
    }  # fmt: skip
    assert {row.path.batch for row in refused} == {1, 2, 8, 32}
    for row in refused:
        assert list(row.path.refused) == [3]
        assert row.agrees
        assert row.difference < 1e-5
        assert not row.passed
    assert [failure.cause for failure in found.failures] == [CauseKind.REFUSED] * 2
    assert "1 of 17 conversations" in found.failures[0].text
    assert "not this one" in found.failures[0].text
    assert [item.get("refused") for item in found.as_result().items][:3] == [None, 1, 1]


@pytest.mark.slow
def test_conversations_over_the_servers_limit_are_told_by_their_length(ours, engine):
    lengths = sorted(len(conversation.tokens) for conversation in ours.conversations)
    found = against(ours, vllm(engine, longest=lengths[-3]))
    assert not any(row.passed for row in served(found))
    by_ids = [row for row in served(found) if row.path.sends_ids]
    assert {len(row.path.refused) for row in by_ids} == {2}
    assert f"it takes {lengths[-3]} tokens, and not {lengths[-2]}" in found.failures[0].text


def test_where_every_conversation_is_refused_that_is_told_and_nothing_else(ours, engine):
    found = against(ours, vllm(engine, longest=1))
    assert all(row.path.rows is None for row in served(found))
    assert {failure.cause for failure in found.failures} == {CauseKind.REFUSED}
    assert "maximum context length is 1 tokens" in found.failures[0].text


@pytest.mark.slow
def test_a_batch_that_is_refused_though_each_of_it_is_taken_is_told_so(ours, engine):
    def reply(asked):
        if len((asked.body or {}).get("input", [])) > 8:
            return Reply(413, {"message": "too many"})
        return vllm(engine)(asked)

    found = against(ours, reply)
    assert {row.path.batch for row in found.rows if not row.passed} == {32}
    assert all("each conversation alone is taken" in str(one) for one in found.failures)


def test_an_item_that_our_own_server_refuses_is_one_conversation(ours):
    text = ours.conversations[5].response[0].content

    def reply(asked):
        answer = smorm(ours.model)(asked)
        for at, item in enumerate((asked.body or {}).get("items", [])):
            if item["messages"][-1]["content"] == text:
                answer.content["items"][at] = {"error": {"message": "over the limit"}}
        return answer

    found = against(ours, reply)
    assert all(5 in row.path.refused and row.agrees for row in served(found))
    assert all("over the limit" in str(one) for one in found.failures)
