"""What other programs' clients send, byte for byte as their source makes it, to the running server.

`requests.json` holds each client's request with its version and source; TEXT stands for the text
that it makes of a conversation. What runs those programs themselves is `make engines`."""

from __future__ import annotations

import json
from functools import reduce
from operator import getitem
from pathlib import Path
from typing import Any

import pytest

from smorm import RewardModel
from smorm.serving.settings import ServeOptions
from tests.serving.servers import Running, running
from tests.tiny import trained

REQUESTS = json.loads((Path(__file__).parent / "requests.json").read_text(encoding="utf-8"))
PROMPT, ANSWER = "What is 2 + 2?", "It is four."


@pytest.fixture(scope="module")
def single():
    """A server of one model, as these clients expect it: they name a path, or nothing."""
    with running(ServeOptions({"reward": {"model": str(trained())}})) as one:
        yield one


def text_of(request: dict[str, Any], model: RewardModel) -> str:
    """What the client makes of the conversation with the reward model's own template."""
    messages = [{"role": "user", "content": PROMPT}, {"role": "assistant", "content": ANSWER}]
    tokenizer = model.tokenizer
    text = str(
        tokenizer.apply_chat_template(
            messages, chat_template=model.renderer.chat_template, tokenize=False
        )
    )
    if "without its BOS" not in request["means"]:
        return text
    # verl takes the template's BOS off; the tokenizer of an exported folder adds it again.
    if tokenizer.bos_token is not None and text.startswith(tokenizer.bos_token):
        return text[len(tokenizer.bos_token) :]
    return text


def filled(value: Any, text: str) -> Any:
    """The body with its placeholders filled in."""
    if isinstance(value, dict):
        return {key: filled(inner, text) for key, inner in value.items()}
    if isinstance(value, list):
        return [filled(inner, text) for inner in value]
    return {"TEXT": text, "PROMPT": PROMPT}.get(value, value) if isinstance(value, str) else value


@pytest.mark.parametrize("request_of", REQUESTS, ids=lambda request: request["client"])
def test_every_client_gets_the_score_of_the_model(
    single: Running, model: RewardModel, request_of: dict[str, Any]
) -> None:
    body = filled(request_of["body"], text_of(request_of, model))
    answer = single.post(request_of["path"], body)
    value = reduce(getitem, request_of["reads"], answer)
    assert type(value) is float
    assert value == pytest.approx(model.score([(PROMPT, ANSWER)]).view()[0], abs=1e-5)


def test_each_request_says_which_version_sends_it_and_where() -> None:
    for request in REQUESTS:
        assert request["client"].split(",")[0].split()[-1].count(".") == 2
        assert ".py, " in request["source"]
