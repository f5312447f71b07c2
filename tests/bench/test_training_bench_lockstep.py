"""Only one side computes at any time."""

from __future__ import annotations

import threading
import time

import pytest
import torch

from bench.lockstep import Lockstep


def test_exactly_one_side_runs_at_any_time() -> None:
    active: list[str] = []
    seen: list[str] = []

    def work(name: str) -> None:
        active.append(name)
        time.sleep(0.002)
        assert active == [name]
        seen.append(name)
        active.remove(name)

    def side(name: str, lockstep: Lockstep) -> None:
        for _ in range(5):
            work(name)
            lockstep.pause()

    with Lockstep(lambda own: side("a", own)) as a, Lockstep(lambda own: side("b", own)) as b:
        for _ in range(5):
            for one in (a, b):
                one.advance()
                work("main")
    assert seen == ["a", "main", "b", "main"] * 5


def test_nothing_runs_before_the_first_turn() -> None:
    ran: list[int] = []
    with Lockstep(lambda _: ran.append(1)):
        time.sleep(0.02)
        assert not ran
    assert not ran


def test_an_error_comes_out_where_the_turn_was_given() -> None:
    def broken(_: Lockstep) -> None:
        raise ValueError("no such batch")

    lockstep = Lockstep(broken)
    with pytest.raises(ValueError, match="no such batch"):
        lockstep.advance()
    with pytest.raises(RuntimeError, match="ended"):
        lockstep.advance()


def test_closing_ends_a_function_that_would_go_on_for_ever() -> None:
    steps: list[int] = []

    def endless(lockstep: Lockstep) -> None:
        while True:
            lockstep.pause()
            steps.append(1)

    before = threading.active_count()
    with Lockstep(endless) as lockstep:
        for _ in range(4):
            lockstep.advance()
    assert len(steps) == 3
    assert threading.active_count() == before


def test_the_thread_computes_with_its_makers_number_of_threads() -> None:
    found: list[int] = []
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with Lockstep(lambda _: found.append(torch.get_num_threads())) as lockstep:
            lockstep.advance()
    finally:
        torch.set_num_threads(before)
    assert found == [2]
