"""Several arms that do the same work, timed in turns.

Only arms that take turns can be compared: a neighbour that takes the machine for a minute then
slows every arm alike. CPU seconds lead, because on a shared machine wall time counts the
neighbours; wall time is recorded too."""

from __future__ import annotations

import gc
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike


@dataclass(frozen=True, slots=True)
class RoundOutcome:
    """What an arm did in one round: the numbers to compare, and how much work it was.

    ``tokens`` counts token positions that went through the backbone (padding included), ``units``
    what a user counts: pairs in training, responses in scoring. ``cpu`` and ``wall`` are given by
    an arm that works in another process (`bench.forked_arm`) and timed itself."""

    values: Any
    tokens: int = 0
    units: int = 0
    cpu: float | None = None
    wall: float | None = None


@dataclass(frozen=True, slots=True)
class Arm:
    """One way to do the work. ``run(round)`` does that round's whole work and returns the numbers
    that are compared between arms, bare or in a `RoundOutcome`. Rounds count from 0; warm-up rounds
    are -warmup ... -1 (as an index into a list of batches: the last ones)."""

    name: str
    run: Callable[[int], Any]


@dataclass(slots=True)
class Timing:
    """One arm's rounds, in order: seconds of CPU (all threads) and wall, and what it returned."""

    cpu: list[float] = field(default_factory=list)
    wall: list[float] = field(default_factory=list)
    values: list[Any] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    units: list[int] = field(default_factory=list)

    def add(self, outcome: RoundOutcome, cpu: float, wall: float) -> None:
        """Record one round; `cpu` and `wall` count where the arm did not time itself."""
        self.cpu.append(cpu if outcome.cpu is None else outcome.cpu)
        self.wall.append(wall if outcome.wall is None else outcome.wall)
        self.values.append(outcome.values)
        self.tokens.append(outcome.tokens)
        self.units.append(outcome.units)


@dataclass(frozen=True, slots=True)
class Ratio:
    """How many times longer the slow arm takes.

    ``median``, ``low`` (smallest) and ``high`` (largest) are over the ``n`` rounds' CPU seconds;
    ``total`` is the ratio of the sums; ``wall`` is the median of the rounds' wall seconds."""

    median: float
    low: float
    high: float
    n: int
    total: float
    wall: float

    @classmethod
    def of_rounds(cls, cpu: ArrayLike, wall: ArrayLike, total: float) -> Ratio:
        """From a value of each round, by CPU and by wall seconds, and the value of all together."""
        rounds = np.asarray(cpu, dtype=np.float64)
        low, middle, high = np.min(rounds), np.median(rounds), np.max(rounds)
        middle_wall = float(np.median(np.asarray(wall, dtype=np.float64)))
        return cls(float(middle), float(low), float(high), len(rounds), total, middle_wall)


def pin(threads: int = 1) -> None:
    """Give torch this many threads, within operators and between them."""
    # On a shared machine several threads wait for the slowest: ratios would measure the neighbours.
    torch.set_num_threads(threads)
    # torch refuses a second call, even with the same number
    if torch.get_num_interop_threads() != 1:
        torch.set_num_interop_threads(1)


def timed_round(arm: Arm, round_: int) -> tuple[RoundOutcome, float, float]:
    """Run one round of an arm; returns its outcome, CPU seconds and wall seconds."""
    # A collection that another arm's garbage has made due would be counted as this arm's time.
    gc.collect()
    wall, cpu = time.perf_counter(), time.process_time()
    outcome = arm.run(round_)
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    if not isinstance(outcome, RoundOutcome):
        outcome = RoundOutcome(outcome)
    return outcome, cpu, wall


def interleave(
    arms: Sequence[Arm], rounds: int, *, warmup: int = 1, seed: int = 0
) -> dict[str, Timing]:
    """Run every arm once in every round and time each run.

    The order of arms is drawn from ``seed`` and moves on by one each round, so that no arm always
    follows the same neighbour or always comes first. Garbage is collected before each timing.

    Raises:
        ValueError: two arms share a name, or there is no round to time."""
    timings = {arm.name: Timing() for arm in arms}
    if len(timings) < len(arms):
        raise ValueError(f"two arms have one name: {[arm.name for arm in arms]}")
    if rounds < 1:
        raise ValueError(f"rounds must be 1 or more, not {rounds}")
    order = list(arms)
    random.Random(seed).shuffle(order)
    gc.collect()
    # Libraries and data are old by now. Frozen, they are not searched again at each collection,
    # which an arm with more collections would pay for.
    gc.freeze()
    try:
        # Warm-up: the first rounds pay for page faults, lazy imports and chosen kernels.
        for round_ in range(-warmup, rounds):
            first = round_ % len(order)
            for arm in order[first:] + order[:first]:
                outcome, cpu, wall = timed_round(arm, round_)
                if round_ >= 0:
                    timings[arm.name].add(outcome, cpu, wall)
    finally:
        gc.unfreeze()
    return timings


def ratio(slow: Timing, fast: Timing) -> Ratio:
    """Per-round ratios of the slow arm's seconds to the fast arm's."""
    # By round, not of the medians: both arms of a round met the same load of the machine.
    return Ratio.of_rounds(
        np.divide(slow.cpu, fast.cpu),
        np.divide(slow.wall, fast.wall),
        sum(slow.cpu) / sum(fast.cpu),
    )
