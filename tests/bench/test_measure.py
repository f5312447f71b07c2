"""The clock: known ratios come out, turns are fair, numbers are kept."""

from __future__ import annotations

import time
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bench.gemm_share import count_flops, peak
from bench.machine import describe
from bench.measure import Arm, RoundOutcome, Timing, interleave, ratio


def burn(seconds: float) -> None:
    """Use so much CPU time, however busy the machine is."""
    end = time.process_time() + seconds
    while time.process_time() < end:
        sum(range(500))


def test_three_times_the_work_takes_three_times_the_cpu_seconds() -> None:
    arms = [Arm("slow", lambda _: burn(0.09)), Arm("fast", lambda _: burn(0.03))]
    timings = interleave(arms, 5)
    times = ratio(timings["slow"], timings["fast"])
    assert times.median == pytest.approx(3.0, rel=0.15)
    assert times.low <= times.median <= times.high
    assert times.total == pytest.approx(3.0, rel=0.15)
    assert times.n == 5


def test_sleep_counts_as_wall_time_and_not_as_cpu_time() -> None:
    timings = interleave([Arm("sleeper", lambda _: time.sleep(0.05))], 2)
    assert min(timings["sleeper"].wall) >= 0.05
    assert max(timings["sleeper"].cpu) < 0.03


def test_every_arm_runs_once_a_round_and_the_order_moves_on() -> None:
    order: list[tuple[int, str]] = []
    arms = [
        Arm(name, lambda round_, name=name: order.append((round_, name)))  # type: ignore[misc]
        for name in "abc"
    ]
    interleave(arms, 6, warmup=2, seed=3)
    rounds = [order[start : start + 3] for start in range(0, len(order), 3)]
    assert [runs[0][0] for runs in rounds] == [-2, -1, 0, 1, 2, 3, 4, 5]
    assert all({name for _, name in runs} == set("abc") for runs in rounds)
    firsts = [runs[0][1] for runs in rounds[2:]]
    assert sorted(firsts) == sorted("aabbcc")


def test_values_tokens_and_units_are_kept_without_the_warm_up() -> None:
    timings = interleave([Arm("a", lambda r: RoundOutcome([r], tokens=7, units=2))], 3, warmup=1)
    timing = timings["a"]
    assert (timing.values, timing.tokens, timing.units) == ([[0], [1], [2]], [7, 7, 7], [2, 2, 2])


def test_two_arms_of_one_name_and_no_rounds_are_refused() -> None:
    arm = Arm("a", lambda _: None)
    with pytest.raises(ValueError, match="one name"):
        interleave([arm, arm], 1)
    with pytest.raises(ValueError, match="1 or more"):
        interleave([arm], 0)


@given(
    st.lists(st.floats(1e-3, 1e3), min_size=1, max_size=9),
    st.floats(0.1, 10.0),
)
def test_a_constant_factor_is_found_whatever_the_rounds_take(
    seconds: list[float], factor: float
) -> None:
    fast = Timing(cpu=seconds, wall=seconds)
    slow = Timing(cpu=[factor * s for s in seconds], wall=[factor * s for s in seconds])
    times = ratio(slow, fast)
    for value in (times.median, times.low, times.high, times.total, times.wall):
        assert value == pytest.approx(factor)


def test_counted_flops_are_two_times_rows_times_weights() -> None:
    layer = torch.nn.Sequential(torch.nn.Linear(8, 16, bias=False), torch.nn.Linear(16, 4))
    rows = torch.randn(5, 8)

    def forward() -> Any:
        with torch.inference_mode():
            return layer(rows)

    assert count_flops(forward) == 2 * 5 * (8 * 16 + 16 * 4)
    attention = torch.randn(1, 2, 6, 8)
    assert count_flops(lambda: torch.matmul(attention, attention.transpose(-1, -2))) == 0


@pytest.mark.slow
def test_the_peak_is_a_speed_that_one_product_does_not_exceed_by_far() -> None:
    fastest = peak(torch.float32, repeats=1, seconds=0.001)
    x, weight = torch.randn(512, 512), torch.randn(512, 512)
    start = time.process_time()
    for _ in range(20):
        torch.nn.functional.linear(x, weight)
    speed = 20 * 2 * 512**3 / (time.process_time() - start)
    assert fastest > 1e8
    assert speed < 3 * fastest


def test_the_machine_is_described_without_names_or_paths() -> None:
    import platform

    machine = describe()
    assert machine["versions"]["torch"] == torch.__version__
    assert machine["threads"] >= 1
    assert platform.node() not in str(machine) or not platform.node()
    assert "/" not in str(machine["cpu"])
