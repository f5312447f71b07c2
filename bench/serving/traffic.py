"""What is asked: conversations of mixed lengths, and each route's requests for them."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from bench.serving.load import Call
from bench.texts import arena_answers, hh_pairs
from smorm import RewardModel
from smorm.arrays import Floats
from smorm.data.records import Candidates, Messages
from smorm.text.chat import Message

MOST_TOKENS = 1_024  # of a conversation here: a batch of the padded arms must fit the memory
_LONG_EVERY = 4  # one conversation in so many is a long answer to a short prompt


@dataclass(frozen=True, slots=True)
class Traffic:
    """Conversations, their token ids, and the scores that `smorm score` gives them."""

    conversations: list[Messages]
    ids: list[list[int]]
    scores: Floats
    texts: list[str]  # rendered
    origin: str

    def facts(self) -> dict[str, Any]:
        lengths = np.array(list(map(len, self.ids)))
        return {
            "texts": self.origin,
            "conversations": len(lengths),
            "tokens": {"mean": round(float(lengths.mean()), 1), "least": int(lengths.min()),
                       "most": int(lengths.max())},
            "score_spread": float(self.scores.std()),
        }  # fmt: skip


def mixed_traffic(model: RewardModel, count: int, data: Path | None = None) -> Traffic:
    """Real dialogues, every fourth a long answer; those of over 1,024 tokens are left out."""
    hh, arena = hh_pairs(data), arena_answers(data)
    short = (pair.prompt + pair.chosen for pair in hh.records)
    long = (record.prompt + record.responses[0] for record in arena.records)
    conversations: list[Messages] = []
    for source in itertools.cycle([short] * (_LONG_EVERY - 1) + [long]):
        if len(conversations) == count:
            break
        conversation = next(source)
        if len(model.renderer.render(conversation)) <= MOST_TOKENS:
            conversations.append(conversation)
    return traffic_of(model, conversations, f"{hh.origin}; {arena.origin}")


def traffic_of(model: RewardModel, conversations: list[Messages], origin: str) -> Traffic:
    """Conversations with what a server must answer."""
    ids = [list(model.renderer.render(messages)) for messages in conversations]
    texts = [model.renderer.text(messages) for messages in conversations]
    records = [Candidates(messages[:-1], (messages[-1:],)) for messages in conversations]
    return Traffic(conversations, ids, model.score(records).view(), texts, origin)


def plain_messages(messages: Sequence[Message]) -> list[dict[str, str]]:
    """Messages as clients send them."""
    return [{"role": message.role, "content": message.content} for message in messages]


def _call(path: str, body: Any, scores: Sequence[float]) -> Call:
    return Call(path, orjson.dumps(body).decode(), [float(score) for score in scores])


def message_calls(traffic: Traffic, path: str, **fields: Any) -> list[Call]:
    """One conversation a request: `{"messages"}`, as the other servers take it."""
    calls = []
    for messages, score in zip(traffic.conversations, traffic.scores, strict=True):
        calls.append(_call(path, {"messages": plain_messages(messages), **fields}, [score]))
    return calls


def score_calls(traffic: Traffic, **fields: Any) -> list[Call]:
    """One conversation a request, at `/v1/score`."""
    calls = []
    for messages, score in zip(traffic.conversations, traffic.scores, strict=True):
        body = {"items": [{"messages": plain_messages(messages)}], **fields}
        calls.append(_call("/v1/score", body, [score]))
    return calls


def calls_of_all_routes(traffic: Traffic, view: str = "F") -> list[Call]:
    """Every route that gives scores, in turns over the conversations. `view`: the model's own,
    whose values the scores are."""
    calls = []
    rows = zip(traffic.conversations, traffic.ids, traffic.texts, traffic.scores, strict=True)
    for index, (messages, ids, text, score) in enumerate(rows):
        item = {"messages": plain_messages(messages)}
        rendered = {"input": text, "add_special_tokens": False}
        choices: list[tuple[str, Any]] = [
            ("/v1/score", {"items": [item]}),
            ("/classify", item),
            ("/classify", {"input": [ids], "use_activation": False}),
            ("/classify", rendered),
            ("/pooling", item),
            ("/pooling", {"input": ids}),
            ("/classify", {"input_ids": ids}),
            ("/v1/embeddings", {"input": ids}),
            ("/get_reward", {"query": [text], "prompts": [""], "labels": [""]}),
            ("/v1/score/evaluation", {"messages": [text]}),
        ]
        path, body = choices[index % len(choices)]
        calls.append(_call(path, body, [score]))
    for index in range(0, len(traffic.conversations) - 1, len(calls) // 8 or 1):
        messages = traffic.conversations[index]
        body = {"prompt": plain_messages(messages[:-1]),
                "responses": [messages[-1].content] * 2, "views": [view]}  # fmt: skip
        calls.append(_call("/v1/compare", body, [traffic.scores[index]] * 2))
    return calls
