"""Every route gives the score of `smorm score`, whatever else is in flight."""

from __future__ import annotations

import concurrent.futures
import threading

from bench.serving.load import READERS, LoadPlan, run_plan
from bench.serving.traffic import calls_of_all_routes, traffic_of
from smorm import RewardModel
from smorm.serving.settings import ServeOptions
from smorm.text.chat import Message
from tests.serving.servers import Running, running
from tests.tiny import trained


def disturb(server: Running, ended: threading.Event) -> int:
    """Send other requests until told to end, good ones and bad ones; how many."""
    count = 0
    while not ended.is_set():
        responses = [f"{'word ' * size}{count}" for size in range(1, 17)]
        server.post("/v1/score", {"items": [{"prompt": "Shared.", "responses": responses}]})
        bad = server.client.post("/v1/score", json={"items": [{"prompt": 1}], "views": ["none"]})
        assert bad.status_code == 422
        count += 1
    return count


def test_every_route_gives_the_same_score_under_other_load() -> None:
    path = trained()
    model = RewardModel.load(path)
    conversations = []
    for index in range(60):
        prompt = Message("user", f"Question {index % 7}: " + "why? " * (index % 11))
        response = Message("assistant", f"Answer {index}, " + "because. " * (index % 13))
        conversations.append((prompt, response))
    calls = calls_of_all_routes(traffic_of(model, conversations, ""), "M")
    assert {call.path for call in calls} == set(READERS) - {"/score"}
    ended = threading.Event()
    with (
        running(ServeOptions({"joint": {"model": str(path)}})) as server,
        concurrent.futures.ThreadPoolExecutor(2) as pool,
    ):
        disturbances = [pool.submit(disturb, server, ended) for _ in range(2)]
        try:
            seen = run_plan(LoadPlan(server.url, calls, connections=8, requests=2 * len(calls)))
        finally:
            ended.set()
        assert all(each.result() > 0 for each in disturbances)
    assert seen.statuses == {"200": 2 * len(calls)}
    assert seen.errors == 0
    assert seen.compared >= 2 * len(calls)
    assert seen.largest_difference <= 1e-5
