"""Several ways to do the same work, timed in turns.

Only arms that take turns can be compared: a neighbour that takes the machine for a minute then
slows every arm alike. CPU seconds lead, because on a shared machine wall time counts the
neighbours; wall time is kept beside it.
"""

from __future__ import annotations

import gc
import random
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch


@dataclass(frozen=True, slots=True)
class Result:
    """What an arm did in one round: the numbers to compare, and how much work it was.

    ``tokens`` counts token positions that went through the backbone (padding included), ``units``
    what a user counts: pairs in training, responses in scoring. ``cpu`` and ``wall`` are given by
    an arm that works in another process (`bench.apart`) and timed itself.
    """

    values: Any
    tokens: int = 0
    units: int = 0
    cpu: float | None = None
    wall: float | None = None


@dataclass(frozen=True, slots=True)
class Arm:
    """One way to do the work. ``run(round)`` does that round's whole work and returns the numbers
    that are compared between arms, bare or in a `Result`. Rounds count from 0; warm-up rounds are
    -warmup ... -1 (as an index into a list of batches: the last ones)."""

    name: str
    run: Callable[[int], Any]


@dataclass(slots=True)
class Timing:
    """One arm's rounds, in order: seconds of CPU (all threads) and wall, and what it returned."""

    cpu: list[float] = field(default_factory=list)
    wall: list[float] = field(default_factory=list)
    results: list[Any] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    units: list[int] = field(default_factory=list)

    def add(self, cpu: float, wall: float, outcome: Any) -> None:
        """Keep one round; a bare value counts no tokens and no units."""
        result = outcome if isinstance(outcome, Result) else Result(outcome)
        self.cpu.append(cpu if result.cpu is None else result.cpu)
        self.wall.append(wall if result.wall is None else result.wall)
        self.results.append(result.values)
        self.tokens.append(result.tokens)
        self.units.append(result.units)


@dataclass(frozen=True, slots=True)
class Ratio:
    """How many times longer the slow arm takes.

    ``median``, ``low`` (smallest) and ``high`` (largest) are over the ``n`` rounds' CPU seconds;
    ``total`` is the ratio of the sums; ``wall`` is the median of the rounds' wall seconds.
    """

    median: float
    low: float
    high: float
    n: int
    total: float
    wall: float


def pin(threads: int = 1) -> None:
    """Give torch this many threads, within operators and between them."""
    torch.set_num_threads(threads)
    if torch.get_num_interop_threads() != 1:
        torch.set_num_interop_threads(1)


def interleave(
    arms: Sequence[Arm], rounds: int, *, warmup: int = 1, seed: int = 0
) -> dict[str, Timing]:
    """Run every arm once in every round and time each run.

    The order of arms is drawn from ``seed`` and moves on by one each round, so that no arm always
    follows the same neighbour or always comes first. Garbage is collected before each timing.
    Raises ValueError where two arms share a name or there is no round to time.
    """
    names = [arm.name for arm in arms]
    if len(set(names)) < len(names):
        raise ValueError(f"two arms have one name: {names}")
    if rounds < 1:
        raise ValueError(f"rounds must be 1 or more, not {rounds}")
    order = list(arms)
    random.Random(seed).shuffle(order)
    timings = {name: Timing() for name in names}
    gc.collect()
    gc.freeze()  # what is there by now (libraries, data) is not searched again at each collection
    try:
        for round_ in range(-warmup, rounds):
            turn = round_ % len(order)
            for arm in order[turn:] + order[:turn]:
                cpu, wall, outcome = _timed(arm, round_)
                if round_ >= 0:
                    timings[arm.name].add(cpu, wall, outcome)
    finally:
        gc.unfreeze()
    return timings


def ratio(slow: Timing, fast: Timing) -> Ratio:
    """Per-round ratios of the slow arm's seconds to the fast arm's."""
    cpu = [a / b for a, b in zip(slow.cpu, fast.cpu, strict=True)]
    wall = [a / b for a, b in zip(slow.wall, fast.wall, strict=True)]
    return Ratio(
        median=statistics.median(cpu),
        low=min(cpu),
        high=max(cpu),
        n=len(cpu),
        total=sum(slow.cpu) / sum(fast.cpu),
        wall=statistics.median(wall),
    )


def _timed(arm: Arm, round_: int) -> tuple[float, float, Any]:
    gc.collect()
    wall, cpu = time.perf_counter(), time.process_time()
    outcome = arm.run(round_)
    return time.process_time() - cpu, time.perf_counter() - wall, outcome
