"""Five times what the server can answer, from a thousand connections, and the seconds after it."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bench.serving.load import Call, LoadPlan
from bench.serving.servers import smorm_server
from bench.serving.turns import Turn, take_turn

TIMES = 5
CONNECTIONS = 1_000
CONVERSATIONS = 768
"""More than can wait: equal ones in a batch are computed once, and few would make a crowd fast."""
STEADY_CONNECTIONS = 32
RECOVERED = 1.5  # times the steady median latency
_AROUND = 16  # requests whose median latency is compared


def measure(folder: Path, calls: Sequence[Call], seconds: float, log: Path) -> dict[str, Any]:
    """Capacity and steady latency; goodput, refusals and hung requests under overload; recovery."""
    with smorm_server(folder, log) as server:
        take_turn(server, LoadPlan(server.url, calls, STEADY_CONNECTIONS, len(calls)))
        steady = take_turn(server, LoadPlan(server.url, calls, STEADY_CONNECTIONS, seconds=seconds))
    capacity = steady.answered / steady.seen.seconds
    median = float(np.median(steady.seen.latency))
    # As one sets it who wants answers soon: little more than what the steady load lets wait.
    most_wait = max(1.0, 2 * median)
    with smorm_server(folder, log, "--max-wait", f"{most_wait:.2f}") as server:
        take_turn(server, LoadPlan(server.url, calls, STEADY_CONNECTIONS, len(calls)))
        crowd = LoadPlan(server.url, calls, CONNECTIONS, seconds=seconds, rate=TIMES * capacity)
        memory = server.rss_mib()
        overload, after = _with_recovery(server, crowd, calls, seconds)
        hung_later = server.metric("smorm_waiting_items")
        grown = server.rss_mib() / memory - 1
    seen = overload.seen
    offered = (sum(seen.statuses.values()) + seen.unsent + seen.broken + seen.hung) / seconds
    # Answers within the time in which requests were sent: what the queue held behind it is no
    # throughput.
    ends = np.add(seen.sent_at, seen.latency)
    goodput = float((ends <= seconds).sum()) / seconds
    refused = seen.refusal_latency
    return {
        "capacity_per_second": round(capacity, 2),
        "steady_p50_ms": round(1000 * median, 2),
        "max_wait_seconds": round(most_wait, 2),
        "offered_per_second": round(offered, 1),
        "connections": CONNECTIONS,
        "goodput_share": round(goodput / capacity, 4),
        "statuses": seen.statuses,
        "unsent": seen.unsent,
        "hung": seen.hung + int(hung_later),
        "broken": seen.broken,
        "refused_without_retry_after": seen.refused_bare,
        "refusal_p50_ms": round(1000 * float(np.median(refused)), 2) if refused else None,
        "refusal_p99_ms": round(1000 * float(np.quantile(refused, 0.99)), 2) if refused else None,
        "answered_p99_ms": round(overload.latency_ms(0.99), 2),
        "largest_difference": seen.largest_difference,
        "recovery_seconds": recovery_seconds(after, RECOVERED * median),
        "memory_growth": round(grown, 4),
    }


def _with_recovery(
    server: Any, crowd: LoadPlan, calls: Sequence[Call], seconds: float
) -> tuple[Turn, Turn]:
    """The crowd, and a steady load that starts when the crowd stops sending, while what it has
    sent is still being answered."""
    turns: list[Turn] = []

    def overload() -> None:
        turns.append(take_turn(server, crowd))

    thread = threading.Thread(target=overload)
    thread.start()
    # A load process takes a moment to start, so this begins no later than the crowd ends.
    thread.join(seconds)
    after = take_turn(server, LoadPlan(server.url, calls, STEADY_CONNECTIONS, seconds=15.0))
    thread.join()
    return turns[0], after


def recovery_seconds(turn: Turn, latency: float) -> float | None:
    """When sixteen requests in a row were first answered in a median of at most `latency` seconds;
    None: never. A refused request counts as one that was not answered in time."""
    seen = turn.seen
    sent = np.array([*seen.sent_at, *seen.refused_at])
    latencies = np.array([*seen.latency, *([np.inf] * len(seen.refused_at))])
    order = np.argsort(sent, kind="stable")
    sent, latencies = sent[order], latencies[order]
    for start in range(len(sent) - _AROUND + 1):
        if np.median(latencies[start : start + _AROUND]) <= latency:
            return round(float(sent[start]), 3)
    return None
