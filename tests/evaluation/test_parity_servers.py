"""Parity with running servers: each kind passes, and what a server does wrong is named."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from smorm import RewardModel
from smorm.data.census import Census
from smorm.errors import SmormError
from smorm.evaluation.parity.check import Parity, against_server, measure_model
from smorm.evaluation.parity.conversations import built_in
from smorm.evaluation.parity.paths import ModelPaths
from smorm.model.export import export_all_rows, export_view
from smorm.rewards.server import RewardClient
from tests.rewards.reward_servers import (
    Engine,
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


def test_messages_of_more_than_texts_are_not_sent_and_counted(ours, engine):
    fields = '{"reasoning_content": "because"}'
    first = ours.conversations[0]
    thinking = replace(first, response=(replace(first.response[0], fields=fields),))
    mixed = replace(ours, conversations=[thinking, *ours.conversations[1:]])
    found = against(mixed, vllm(engine))
    assert found.passed, found.failures
    assert len(found.comparison.ours.conversations) == len(ours.conversations) - 1
    assert any(note.startswith("1 conversations with reasoning") for note in found.notes)


def against(ours: ModelPaths, reply, view: str = "L") -> Parity:
    with RewardServer(reply) as server:
        given = {"views": [view], "renderer": ours.model.renderer, "timeout": 5.0, "pause": 0.01}
        with RewardClient(server.url, **given) as remote:
            return against_server(ours, remote, view)


def test_vllm_agrees_by_each_endpoint_alone_and_among_others(ours, engine):
    found = against(ours, vllm(engine))
    assert found.passed, found.failures
    served = [row for row in found.rows if row.path.kind == "server"]
    assert [row.path.name.partition(", ")[0] for row in served].count("vllm /pooling") == 2
    assert {row.path.batch for row in served} == {1, 2, 8, 32}
    assert [row.same_tokens for row in served][:4] == [True] * 4
    assert any("constant" in note for note in found.notes)


def test_sglang_agrees_and_its_text_has_one_bos(ours, engine):
    found = against(ours, sglang(engine))
    assert found.passed, found.failures
    assert all(row.same_tokens for row in found.rows if row.path.kind == "server")


def test_our_own_server_agrees_with_the_views_constant_and_keeps_control_tokens(ours):
    found = against(ours, smorm(ours.model))
    assert found.passed, found.failures
    assert found.comparison.constant != 0
    served = next(row for row in found.rows if row.path.kind == "server")
    assert found.comparison.gated(served.path).all()
    assert served.same_tokens


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


@pytest.mark.parametrize("name", list(TWISTS))
def test_what_a_server_does_to_the_scores_is_named(ours, engine, name):
    serve, twist, told = TWISTS[name]
    found = against(ours, serve(engine, twist))
    assert not found.passed
    assert len(found.failures) == 1, found.failures
    assert re.match(told, found.failures[0].text), found.failures


def test_the_softmax_over_all_rows_is_named(ours, whole):
    (cause,) = map(str, against(ours, vllm(whole, softmax)).failures)
    assert cause.startswith("activation: the scores are the softmax of ours")


def test_the_last_row_in_place_of_the_view_is_named(ours, whole):
    (cause,) = map(str, against(ours, vllm(whole, last_of)).failures)
    assert cause.startswith("head: these are the scores of the row 'style'")


def test_the_constant_that_a_server_adds_or_lacks_is_named(ours, engine):
    constant = against(ours, sglang(engine)).comparison.constant
    (adds,) = map(str, against(ours, sglang(engine, shifted(constant))).failures)
    assert "the target adds the view's constant" in adds
    (lacks,) = map(str, against(ours, smorm(ours.model, shifted(-constant))).failures)
    assert "the target lacks the view's constant" in lacks


def test_a_doubled_bos_is_seen_by_the_number_of_tokens(ours, engine):
    found = against(ours, vllm(engine, double_bos=True))
    assert any(
        "one more in each conversation, most likely a doubled BOS" in c
        for c in map(str, found.failures)
    )
    assert not any("text" in row.path.name for row in found.rows if not row.passed)


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
    assert [row.path.name for row in found.rows if not row.passed] == ["vllm /pooling, 1 at a time"]
    assert "pooling is off" in found.failures[0].text
