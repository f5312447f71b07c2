"""Whether a cache of prefixes across batches would pay, on the traffic of reinforcement learning.

Requests of one step (many answers, few prompts, one system prompt) are sent to the server one by
one. `/metrics` says how many rows its batches computed. A cache without a limit would compute every
distinct prefix of the step once: a forest of all its conversations. The difference is the most that
any cache could save beyond what the batches share; one of the system prompt alone saves its rows in
every batch but the first."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from bench.serving.load import LoadPlan
from bench.serving.servers import Server
from bench.serving.shared import token_counts
from bench.serving.traffic import score_calls, traffic_of
from bench.serving.turns import take_turn
from bench.texts import hh_pairs
from bench.workloads import best_of
from smorm import RewardModel
from smorm.data.records import Messages
from smorm.text.chat import Message
from smorm.trees.forest import forest_rows

RESPONSES = 16
SYSTEM_TOKENS = (0, 128, 512)
_WINDOW = 4  # prompts whose rollouts end in the same while
_MOST_TOKENS = 768


def measure(
    model: RewardModel, server: Server, prompts: int, connections: int, data: Path | None
) -> list[dict[str, Any]]:
    """One entry for each length of the system prompt and each order of arrival."""
    records = best_of(hh_pairs(data), RESPONSES)
    entries = []
    for system_tokens in SYSTEM_TOKENS:
        system = _system_prompt(model, system_tokens)
        conversations: list[Messages] = []
        for record in records[:prompts]:
            for response in record.responses:
                conversation = system + record.prompt + response
                if len(model.renderer.render(conversation)) <= _MOST_TOKENS + system_tokens:
                    conversations.append(conversation)
        orders = {"by prompt": _WINDOW * RESPONSES, "mixed": len(conversations)}
        for order, window in orders.items():
            arrived = _shuffled(conversations, window)
            entry = _one(model, server, arrived, connections, len(system) * system_tokens)
            entries.append({"system_tokens": system_tokens, "arrival": order, **entry})
    return entries


def _one(
    model: RewardModel, server: Server, conversations: list[Messages], connections: int,
    system_tokens: int,
) -> dict[str, Any]:  # fmt: skip
    traffic = traffic_of(model, conversations, "")
    before, batches = token_counts(server), server.metric("smorm_compute_seconds_count")
    plan = LoadPlan(server.url, score_calls(traffic), connections, len(conversations))
    turn = take_turn(server, plan)
    tokens, saved = np.subtract(token_counts(server), before).tolist()
    batches = server.metric("smorm_compute_seconds_count") - batches
    computed = tokens - saved
    least = forest_rows([np.array(ids, dtype=np.int32) for ids in traffic.ids])
    return {
        "requests": turn.answered,
        "errors": turn.seen.errors,
        "batches": int(batches),
        "tokens": int(tokens),
        "rows_computed": int(computed),
        "saved_by_batches": round(saved / tokens, 4),
        "most_a_cache_saves": round(1 - least / computed, 4),
        "a_cache_of_the_system_prompt_saves": round((batches - 1) * system_tokens / computed, 4),
    }


def _system_prompt(model: RewardModel, tokens: int) -> Messages:
    """A system message of about so many tokens; none of 0."""
    if not tokens:
        return ()
    text = " ".join(f"Rule {number}: be helpful, honest, and brief." for number in range(tokens))
    words = text.split(" ")
    low, high = 1, len(words)
    while low < high:
        middle = (low + high + 1) // 2
        message = Message("system", " ".join(words[:middle]))
        if len(model.renderer.render([message])) <= tokens:
            low = middle
        else:
            high = middle - 1
    return (Message("system", " ".join(words[:low])),)


def _shuffled(conversations: list[Messages], window: int) -> list[Messages]:
    """Arrival in a random order within each window."""
    rng = np.random.default_rng(0)
    arrived = []
    for start in range(0, len(conversations), window):
        part_of_step = conversations[start : start + window]
        arrived += [part_of_step[index] for index in rng.permutation(len(part_of_step))]
    return arrived
