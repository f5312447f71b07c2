"""Sides in processes of their own: they answer, time themselves, and fail loudly."""

from __future__ import annotations

import os
import time
from typing import Any

import pytest

from bench.apart import Apart
from bench.measure import Arm, Result, interleave, ratio


def burn(seconds: float) -> None:
    end = time.process_time() + seconds
    while time.process_time() < end:
        sum(range(500))


def side(seconds: float) -> Any:
    def build() -> Any:
        def run(round_: int) -> Result:
            burn(seconds)
            return Result([float(round_), float(os.getpid())], tokens=3, units=2)

        return Arm("inside", run), lambda: {"pid": os.getpid()}

    return build


def test_each_side_works_in_its_own_process_and_counts_its_own_seconds() -> None:
    with Apart("slow", side(0.09)) as slow, Apart("fast", side(0.03)) as fast:
        timings = interleave([slow.arm(), fast.arm()], 3, warmup=1)
        pids = {one.finish()["pid"] for one in (slow, fast)}
    assert len(pids) == 2
    assert os.getpid() not in pids
    assert [values[0] for values in slow.values] == [-1.0, 0.0, 1.0, 2.0]  # warm-up included
    assert {values[1] for values in slow.values} < {float(pid) for pid in pids}
    assert timings["slow"].tokens == [3, 3, 3]
    assert ratio(timings["slow"], timings["fast"]).median == pytest.approx(3, rel=0.3)


def test_what_fails_in_a_side_is_told_by_its_name() -> None:
    def build() -> Any:
        raise ValueError("no such model")

    with (
        pytest.raises(RuntimeError, match=r"(?s)broken: .*ValueError: no such model"),
        Apart("broken", build) as broken,
    ):
        broken.arm().run(0)


def test_a_side_that_is_killed_is_told() -> None:
    with Apart("killed", side(0.01)) as one:
        pid = int(one.arm().run(0).values[1])
        os.kill(pid, 9)
        with pytest.raises(RuntimeError, match="killed: it died"):
            one.arm().run(1)
