"""Arms in processes of their own: they answer, time themselves, and fail loudly."""

from __future__ import annotations

import os
import time
from typing import Any

import pytest

from bench.forked_arm import ForkedArm
from bench.measure import Arm, RoundOutcome, interleave, ratio


def burn(seconds: float) -> None:
    end = time.process_time() + seconds
    while time.process_time() < end:
        sum(range(500))


def burning_arm(seconds: float) -> Any:
    def build() -> Any:
        def run(round_: int) -> RoundOutcome:
            burn(seconds)
            return RoundOutcome([float(round_), float(os.getpid())], tokens=3, units=2)

        return Arm("inside", run), lambda: {"pid": os.getpid()}

    return build


@pytest.mark.slow
def test_each_arm_works_in_its_own_process_and_counts_its_own_seconds() -> None:
    with ForkedArm("slow", burning_arm(0.09)) as slow, ForkedArm("fast", burning_arm(0.03)) as fast:
        timings = interleave([slow.arm(), fast.arm()], 3, warmup=1)
        pids = {arm.finish()["pid"] for arm in (slow, fast)}
    assert len(pids) == 2
    assert os.getpid() not in pids
    assert [values[0] for values in slow.values] == [-1.0, 0.0, 1.0, 2.0]  # warm-up included
    assert {values[1] for values in slow.values} < {float(pid) for pid in pids}
    assert timings["slow"].tokens == [3, 3, 3]
    assert ratio(timings["slow"], timings["fast"]).median == pytest.approx(3, rel=0.3)


def test_what_fails_in_an_arm_is_named() -> None:
    def build() -> Any:
        raise ValueError("no such model")

    with (
        pytest.raises(RuntimeError, match=r"(?s)broken: .*ValueError: no such model"),
        ForkedArm("broken", build) as broken,
    ):
        broken.arm().run(0)


def test_an_arm_that_is_killed_is_reported() -> None:
    with ForkedArm("killed", burning_arm(0.01)) as killed:
        pid = int(killed.arm().run(0).values[1])
        os.kill(pid, 9)
        with pytest.raises(RuntimeError, match="killed: the process died"):
            killed.arm().run(1)
