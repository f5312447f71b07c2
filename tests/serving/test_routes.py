"""Every route gives the score of `RewardModel.score`, for what its client means."""

from __future__ import annotations

import concurrent.futures
import gzip
import json
import math

import numpy as np
import pytest

from smorm import RewardModel
from smorm.text.chat import Message
from smorm.trees.forest import grow
from tests.serving.servers import Running
from tests.tiny import trained

TALKS = [
    ("What is 2 + 2?", "4"),
    ("What is 2 + 2?", "It is four, <|eos|> as everyone knows."),
    ("Tell me of Rome. 🙂", ""),
    ("a", "b " * 90),
]


@pytest.fixture(scope="module")
def model() -> RewardModel:
    return RewardModel.load(trained())


def rows(talks: list[tuple[str, str]]) -> list[dict[str, str]]:
    return [{"prompt": prompt, "response": response} for prompt, response in talks]


def messages(talk: tuple[str, str]) -> list[dict[str, str]]:
    return [{"role": "user", "content": talk[0]}, {"role": "assistant", "content": talk[1]}]


def ids(model: RewardModel, talk: tuple[str, str]) -> list[int]:
    return model.renderer.render([Message(**each) for each in messages(talk)])


def test_all_rows_and_views_are_those_of_the_library(server: Running, model: RewardModel) -> None:
    views = ["F", "L", "M", {"preference": 2.0}]
    body = {"model": "joint", "items": rows(TALKS), "views": views}
    answer = server.post("/v1/score", body)
    scores = model.score(TALKS)
    assert [item["preference"] for item in answer["items"]] == pytest.approx(
        scores.preference.tolist(), abs=1e-5
    )
    for index, item in enumerate(answer["items"]):
        assert list(item["attributes"]) == list(model.attributes)
        expected = scores.attributes[index].tolist()
        assert list(item["attributes"].values()) == pytest.approx(expected, abs=1e-5)
        assert item["tokens"] == scores.tokens[index]
        assert item["truncated"] is False
        for name in "FLM":
            assert item["views"][name] == pytest.approx(scores.view(name)[index], abs=1e-5)


def test_several_responses_are_one_item(server: Running, model: RewardModel) -> None:
    row = {"prompt": "Name a river.", "responses": ["The Nile.", "Rome", "The Nile."]}
    (item,) = server.post("/v1/score", {"model": "joint", "items": [row], "views": ["M"]})["items"]
    values = [one["views"]["M"] for one in item["responses"]]
    assert values == pytest.approx(model.score([row], "M").view().tolist(), abs=1e-5)


def test_an_item_that_cannot_be_scored_is_an_error_in_its_place(server: Running) -> None:
    unread = {"prompt": "x", "response": "y", "instruction": "z"}
    bad = [{"prompt": "x"}, unread, {"prompt": 3, "response": "y"}]
    items = [*rows(TALKS[:1]), *bad, *rows(TALKS[:1])]
    answer = server.post("/v1/score", {"model": "joint", "items": items})
    kinds = ["error" in item for item in answer["items"]]
    assert kinds == [False, True, True, True, False]
    assert "instruction" in answer["items"][2]["error"]["message"]
    assert answer["items"][0] == answer["items"][4]


def test_compare_says_who_wins_and_by_how_much(server: Running, model: RewardModel) -> None:
    responses = [talk[1] for talk in TALKS]
    body = {"model": "joint", "prompt": "Which?", "responses": responses}
    answer = server.post("/v1/compare", body)
    values = model.score([("Which?", text) for text in responses]).view("M")
    order = sorted(range(len(values)), key=lambda index: -values[index])
    verdict = answer["views"]["M"]
    assert verdict["order"] == order
    margin = values[order[0]] - values[order[1]]
    assert verdict["margin"] == pytest.approx(margin, abs=1e-5)
    preference = model.score([("Which?", text) for text in responses[:2]]).preference
    expected = 1 / (1 + math.exp(preference[1] - preference[0]))
    assert answer["probability"] == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("path", ["/classify", "/pooling"])
def test_vllm_takes_messages_texts_and_ids(server: Running, model: RewardModel, path: str) -> None:
    talk = TALKS[0]
    field = "probs" if path == "/classify" else "data"
    expected = model.score([talk], "M").view()[0]
    text = model.renderer.text([Message(**each) for each in messages(talk)])
    for body in (
        {"messages": messages(talk)},
        {"input": ids(model, talk)},
        {"input": [ids(model, talk)]},
        {"input": text, "add_special_tokens": False},
        {"input": [text], "add_special_tokens": False, "use_activation": False},
    ):
        (entry,) = server.post(path, {"model": "joint", **body})["data"]
        assert entry[field] == pytest.approx([expected], abs=1e-5), body


def test_sglang_and_openrlhf_and_llama_factory(server: Running, model: RewardModel) -> None:
    values = model.score(TALKS[:2], "M").view().tolist()
    # The second holds a special token as text, which none of these clients can say.
    texts = [model.renderer.text([Message(**each) for each in messages(TALKS[0])])]
    token_ids = [ids(model, talk) for talk in TALKS[:2]]
    answer = server.post("/classify", {"model": "joint", "input_ids": token_ids})
    assert [one["embedding"][0] for one in answer] == pytest.approx(values, abs=1e-5)
    answer = server.post("/v1/embeddings", {"model": "joint", "input": token_ids})
    assert [one["embedding"][-1] for one in answer["data"]] == pytest.approx(values, abs=1e-5)
    answer = server.post("/get_reward", {"model": "joint", "query": texts, "prompts": ["p"]})
    assert answer["rewards"] == answer["scores"] == pytest.approx(values[:1], abs=1e-5)
    assert set(answer["extra_logs"]) == {"preference", *model.attributes}
    answer = server.post("/v1/score/evaluation", {"model": "joint", "messages": texts})
    assert answer["scores"] == pytest.approx(values[:1], abs=1e-5)


def test_special_tokens_are_real_for_openrlhf_and_text_in_messages(
    server: Running, model: RewardModel
) -> None:
    tokenizer = model.tokenizer
    text = f"{tokenizer.bos_token}hello{tokenizer.eos_token}"
    as_ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert as_ids[0] == tokenizer.bos_token_id
    assert as_ids[-1] == tokenizer.eos_token_id
    by_text = server.post("/get_reward", {"model": "joint", "query": text})["rewards"]
    by_ids = server.post("/classify", {"model": "joint", "input": as_ids})["data"][0]["probs"]
    assert by_text == pytest.approx(by_ids, abs=1e-6)
    talk = [("hello", text)]
    item = server.post("/v1/score", {"model": "joint", "items": rows(talk)})["items"][0]
    assert item["tokens"] == model.score(talk).tokens[0] > len(as_ids) + 2


def test_a_score_does_not_depend_on_what_else_is_in_flight(
    server: Running, model: RewardModel
) -> None:
    talks = [
        (f"question {index % 7}", f"answer {index} " * (1 + index % 30)) for index in range(120)
    ]
    expected = model.score(talks, "M").view()

    def one(index: int) -> float:
        body = {"model": "joint", "items": rows([talks[index]])}
        return float(server.post("/v1/score", body)["items"][0]["views"]["M"])

    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        values = list(pool.map(one, range(len(talks))))
    assert values == pytest.approx(expected.tolist(), abs=1e-5)


@pytest.mark.parametrize(
    ("path", "body", "status", "kind"),
    [
        ("/v1/score", {"items": []}, 404, "unknown_model"),
        ("/v1/score", {"model": "x", "items": []}, 404, "unknown_model"),
        ("/v1/score", {"model": "joint", "items": 3}, 422, "invalid"),
        ("/v1/score", {"model": "joint", "items": [], "extra": 1}, 422, "invalid"),
        ("/v1/score", {"model": "joint", "items": [], "views": ["Q"]}, 422, "unknown_view"),
        ("/v1/score", {"model": "joint", "items": [{}] * 41}, 413, "too_many_items"),
        ("/v1/score", {"model": "joint", "items": ["x" * (1 << 20)]}, 413, "too_large"),
        ("/v1/compare", {"model": "joint", "prompt": "x", "responses": ["y"]}, 422, "invalid"),
        ("/classify", {"model": "joint", "input": []}, 400, "invalid"),
        ("/classify", {"model": "joint", "input": [10**9]}, 400, "bad_item"),
        ("/classify", {"model": "joint", "input": [-1]}, 400, "bad_item"),
        ("/classify", {"model": "joint", "input": "x", "use_activation": True}, 400, "invalid"),
        ("/classify", {"model": "faulty", "input": "x"}, 400, "bad_item"),
        ("/get_reward", {"model": "joint", "query": "x" * 30_000}, 400, "bad_item"),
        ("/nothing", {}, 404, "http"),
    ],
)
def test_refusals_have_one_form(
    server: Running, path: str, body: object, status: int, kind: str
) -> None:
    response = server.client.post(path, json=body)
    assert response.status_code == status, response.text
    error = response.json()["error"]
    assert error["type"] == kind
    assert error["message"]
    assert response.headers["x-request-id"] == error["request_id"]


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"\xff\xfe", b'{"model": "joint", "items": [NaN]}', b"[" * 100_000,
     b'{"model": "joint", "items": [{"prompt": "\\ud800", "response": "x"}]}',
     b'{"model": "joint", "items": [' + b"1" * 5_000 + b"]}"],
)  # fmt: skip
def test_what_is_no_json_is_refused(server: Running, body: bytes) -> None:
    headers = {"Content-Type": "application/json"}
    response = server.client.post("/v1/score", content=body, headers=headers)
    assert response.status_code in (400, 422), response.text
    assert response.json()["error"]["type"] in ("invalid", "bad_json")


def test_a_compressed_body_is_refused(server: Running) -> None:
    headers = {"Content-Type": "application/json", "Content-Encoding": "gzip"}
    response = server.client.post("/v1/score", content=gzip.compress(b"{}"), headers=headers)
    assert response.status_code == 415
    assert response.json()["error"]["type"] == "compressed"


def test_info_and_metrics(server: Running, model: RewardModel) -> None:
    info = server.client.get("/v1/info").json()
    joint = info["models"]["joint"]
    assert joint["rows"] == ["preference", *model.attributes]
    assert joint["fingerprint"]["renderer"] == model.renderer.fingerprint
    assert joint["tolerance"] == 1e-5
    assert info["models"]["faulty"]["views"] == ["faulty"]
    text = server.client.get("/metrics").text
    assert "smorm_open_requests 1.0" in text.splitlines()
    assert "smorm_batch_tokens_bucket" in text
    assert "smorm_tokens_saved_total" in text
    assert server.client.get("/livez").status_code == 200
    assert server.client.get("/readyz").json() == {"ready": True}
    assert "/v1/score" in json.dumps(server.client.get("/openapi.json").json()["paths"])


def test_metrics_count_each_token_and_what_is_shared(server: Running, model: RewardModel) -> None:
    def counted(name: str) -> float:
        page = server.client.get("/metrics").text
        (line,) = [line for line in page.splitlines() if line.startswith(f"{name}_total ")]
        return float(line.split()[1])

    before = counted("smorm_tokens"), counted("smorm_tokens_saved")
    prompt, responses = "A question that all of these answer, word for word the same.", "abcd"
    body = {"prompt": prompt, "responses": [f"Answer {letter}" for letter in responses]}
    sequences = [
        np.array(ids(model, (prompt, response)), dtype=np.int32) for response in body["responses"]
    ]
    server.post("/v1/score", {"model": "joint", "items": [body]})
    tokens = sum(map(len, sequences))
    assert counted("smorm_tokens") - before[0] == tokens
    assert counted("smorm_tokens_saved") - before[1] == tokens - grow(sequences).num_tokens > 0
