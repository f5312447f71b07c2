"""Only one thread computes at any time."""

from __future__ import annotations

import threading
import time

import pytest
import torch

from bench.thread_coroutine import ThreadCoroutine


def test_exactly_one_thread_runs_at_any_time() -> None:
    active: list[str] = []
    finished: list[str] = []

    def work(name: str) -> None:
        active.append(name)
        time.sleep(0.002)
        assert active == [name]
        finished.append(name)
        active.remove(name)

    def work_and_suspend(name: str, coroutine: ThreadCoroutine) -> None:
        for _ in range(5):
            work(name)
            coroutine.suspend()

    with (
        ThreadCoroutine(lambda coroutine: work_and_suspend("a", coroutine)) as a,
        ThreadCoroutine(lambda coroutine: work_and_suspend("b", coroutine)) as b,
    ):
        for _ in range(5):
            for coroutine in (a, b):
                coroutine.resume()
                work("main")
    assert finished == ["a", "main", "b", "main"] * 5


def test_nothing_runs_before_it_is_resumed() -> None:
    ran: list[int] = []
    with ThreadCoroutine(lambda _: ran.append(1)):
        time.sleep(0.02)
        assert not ran
    assert not ran


def test_an_error_comes_out_where_it_was_resumed() -> None:
    def broken(_: ThreadCoroutine) -> None:
        raise ValueError("no such batch")

    coroutine = ThreadCoroutine(broken)
    with pytest.raises(ValueError, match="no such batch"):
        coroutine.resume()
    with pytest.raises(RuntimeError, match="ended"):
        coroutine.resume()


def test_closing_ends_a_function_that_would_go_on_for_ever() -> None:
    steps: list[int] = []

    def endless(coroutine: ThreadCoroutine) -> None:
        while True:
            coroutine.suspend()
            steps.append(1)

    before = threading.active_count()
    with ThreadCoroutine(endless) as coroutine:
        for _ in range(4):
            coroutine.resume()
    assert len(steps) == 3
    assert threading.active_count() == before


def test_the_thread_computes_with_its_makers_number_of_threads() -> None:
    num_threads: list[int] = []
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with ThreadCoroutine(lambda _: num_threads.append(torch.get_num_threads())) as coroutine:
            coroutine.resume()
    finally:
        torch.set_num_threads(before)
    assert num_threads == [2]
