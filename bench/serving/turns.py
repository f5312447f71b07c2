"""Loads in turns: of several servers one works at a time, and the others are stopped."""

from __future__ import annotations

import contextlib
import statistics
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bench.machine import json_of_process
from bench.measure import Ratio
from bench.serving.load import Call, LoadPlan, Seen, write_plan
from bench.serving.servers import Server


@dataclass(frozen=True, slots=True)
class Arm:
    """A server, and what it is asked in its turns."""

    name: str
    server: Server
    calls: Sequence[Call]


@dataclass(frozen=True, slots=True)
class Turn:
    """One load on one server, and the CPU seconds that all its processes took."""

    seen: Seen
    cpu: float

    @property
    def answered(self) -> int:
        return len(self.seen.latency)

    @property
    def cpu_ms(self) -> float:
        """CPU milliseconds of an answered request."""
        return 1000 * self.cpu / self.answered

    def latency_ms(self, quantile: float) -> float:
        return 1000 * float(np.quantile(self.seen.latency, quantile))

    def facts(self) -> dict[str, Any]:
        """Its figures, without single requests."""
        return {
            "answered": self.answered,
            "errors": self.seen.errors,
            "statuses": self.seen.statuses,
            "seconds": round(self.seen.seconds, 3),
            "requests_per_second": round(self.answered / self.seen.seconds, 2),
            "cpu_ms": round(self.cpu_ms, 3),
            "p50_ms": round(self.latency_ms(0.5), 2),
            "p99_ms": round(self.latency_ms(0.99), 2),
            "compared": self.seen.compared,
            "largest_difference": self.seen.largest_difference,
        }


def take_turn(server: Server, plan: LoadPlan) -> Turn:
    """Load a server from a process of its own.

    Raises:
        RuntimeError: the load process failed, or no request was answered."""
    with tempfile.TemporaryDirectory(prefix="smorm-load-") as folder:
        path = write_plan(plan, Path(folder) / "plan.json")
        before = server.cpu()
        seen = Seen(**json_of_process("bench.serving.load", str(path)))
        turn = Turn(seen, server.cpu() - before)
    if not turn.answered:
        raise RuntimeError(f"{server.name} answered no request: {seen.statuses}, {seen.broken}")
    return turn


def interleaved(
    arms: Sequence[Arm], rounds: int, requests: int, connections: int
) -> dict[str, list[Turn]]:
    """As many turns of each arm as there are rounds, after one that is not counted; who comes first
    moves on by one each round."""
    turns: dict[str, list[Turn]] = {arm.name: [] for arm in arms}
    servers = {id(arm.server): arm.server for arm in arms}
    for server in servers.values():
        server.pause()
    try:
        for round_ in range(-1, rounds):
            first = round_ % len(arms)
            for arm in [*arms[first:], *arms[:first]]:
                plan = LoadPlan(arm.server.url, arm.calls, connections, requests)
                arm.server.resume()
                try:
                    turn = take_turn(arm.server, plan)
                finally:
                    arm.server.pause()
                if round_ >= 0:
                    turns[arm.name].append(turn)
    finally:
        for server in servers.values():
            with contextlib.suppress(OSError):
                server.resume()
    return turns


def middle(turns: Sequence[Turn]) -> dict[str, Any]:
    """Medians over the turns; errors and comparisons of all together."""
    facts = [turn.facts() for turn in turns]
    medians = {}
    for name in ("requests_per_second", "cpu_ms", "p50_ms", "p99_ms"):
        medians[name] = round(statistics.median(fact[name] for fact in facts), 3)
    return {
        "turns": len(turns),
        "answered": sum(fact["answered"] for fact in facts),
        "errors": sum(fact["errors"] for fact in facts),
        **medians,
        "compared": sum(fact["compared"] for fact in facts),
        "largest_difference": max(fact["largest_difference"] for fact in facts),
    }


def cpu_ratio(slow: Sequence[Turn], fast: Sequence[Turn]) -> Ratio:
    """CPU time of a request, slow to fast, turn by turn; `wall` is that of the median latencies."""
    cpu = np.divide([turn.cpu_ms for turn in slow], [turn.cpu_ms for turn in fast])
    latency = latency_ratios(slow, fast, 0.5)
    total = sum(turn.cpu_ms for turn in slow) / sum(turn.cpu_ms for turn in fast)
    return Ratio.of_rounds(cpu, latency, total)


def latency_ratios(slow: Sequence[Turn], fast: Sequence[Turn], quantile: float) -> list[float]:
    """Ratios of a quantile of latency, turn by turn."""
    return [
        one.latency_ms(quantile) / other.latency_ms(quantile)
        for one, other in zip(slow, fast, strict=True)
    ]
