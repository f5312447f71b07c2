"""What many responses to one prompt cost, asked in one request, or in sixteen at once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson

from bench.measure import Ratio
from bench.serving.load import Call, LoadPlan
from bench.serving.servers import Server
from bench.serving.traffic import Traffic, plain_messages, score_calls, traffic_of
from bench.serving.turns import Arm, Turn, cpu_ratio, middle, take_turn
from bench.texts import hh_pairs
from bench.workloads import best_of
from smorm import RewardModel
from smorm.data.records import Candidates, Messages
from smorm.text.chat import Message

RESPONSES = 16
_MOST_TOKENS = 512  # of a conversation


def measure(
    model: RewardModel, server: Server, prompts: int, rounds: int, data: Path | None
) -> tuple[dict[str, Any], Ratio]:
    """Best-of-16 in three ways, and CPU time of the unshared to that of one request."""
    source = hh_pairs(data)
    records = []
    for record in best_of(source, RESPONSES):
        longest = max(len(model.renderer.render(record.prompt + r)) for r in record.responses)
        if longest <= _MOST_TOKENS:
            records.append(record)
        if len(records) == prompts:
            break
    single = traffic_of(model, _conversations(records), source.origin)
    distinct = traffic_of(model, _numbered(single.conversations), source.origin)
    arms = [
        Arm("one_request", server, _together(records, single)),
        Arm("sixteen_requests", server, score_calls(single)),
        Arm("unshared", server, score_calls(distinct)),
    ]
    turns: dict[str, list[Turn]] = {arm.name: [] for arm in arms}
    saved: dict[str, list[float]] = {arm.name: [] for arm in arms}
    for round_ in range(rounds):
        first = round_ % len(arms)
        for arm in [*arms[first:], *arms[:first]]:
            before = token_counts(server)
            turn = take_turn(server, LoadPlan(server.url, arm.calls, 64, len(arm.calls)))
            after = token_counts(server)
            turns[arm.name].append(turn)
            saved[arm.name].append((after[1] - before[1]) / (after[0] - before[0]))
    facts: dict[str, Any] = {"prompts": len(records), "responses": RESPONSES, **single.facts()}
    for name, arm_turns in turns.items():
        each = RESPONSES if name == "one_request" else 1
        facts[name] = {
            **middle(arm_turns),
            "cpu_ms_per_response": round(middle(arm_turns)["cpu_ms"] / each, 3),
            "saved_share": round(sum(saved[name]) / len(saved[name]), 4),
        }
    # Its sixteenth, so that both sides of the ratio count a response.
    of_one = [Turn(turn.seen, turn.cpu / RESPONSES) for turn in turns["one_request"]]
    facts["gain_of_sixteen_requests"] = round(
        cpu_ratio(turns["unshared"], turns["sixteen_requests"]).median, 3
    )
    return facts, cpu_ratio(turns["unshared"], of_one)


def token_counts(server: Server) -> tuple[float, float]:
    """Tokens of all conversations so far, and those of them that were shared: from `/metrics`."""
    return server.metric("smorm_tokens_total"), server.metric("smorm_tokens_saved_total")


def _conversations(records: list[Candidates]) -> list[Messages]:
    """A prompt's responses side by side: they are in flight together."""
    return [record.prompt + response for record in records for response in record.responses]


def _numbered(conversations: list[Messages]) -> list[Messages]:
    """The same conversations, none of which begins like another."""
    numbered = []
    for index, messages in enumerate(conversations):
        first = Message(messages[0].role, f"{index} {messages[0].content}")
        numbered.append((first, *messages[1:]))
    return numbered


def _together(records: list[Candidates], single: Traffic) -> list[Call]:
    calls = []
    for index, record in enumerate(records):
        scores = single.scores[index * RESPONSES : (index + 1) * RESPONSES]
        responses = [response[0].content for response in record.responses]
        item = {"prompt": plain_messages(record.prompt), "responses": responses}
        body = orjson.dumps({"items": [item]}).decode()
        calls.append(Call("/v1/score", body, [float(score) for score in scores]))
    return calls
