"""The next micro-batch is prepared while this one computes, and nothing but the time knows."""

from __future__ import annotations

import copy
import threading
from typing import Any

import numpy as np
import pytest
import torch

from smorm.errors import Interrupted, NonFiniteLossError
from smorm.training.batches import MicroBatch, prefetched
from smorm.training.loop import train
from smorm.training.methods import make_method
from smorm.training.step import run_step
from tests.training.runs import LORA, at_rate, config_of, prepared
from tests.training.test_resume import stopping_in


def threads() -> list[str]:
    return [t.name for t in threading.enumerate() if t.name.startswith("smorm-next-batch")]


def contents(micro: MicroBatch) -> list[Any]:
    """Everything in a micro-batch, as bytes and plain values."""
    parts: list[Any] = [micro.where, micro.last]
    for holder in (micro.batch, micro.labels):
        for name in holder.__slots__:
            value = getattr(holder, name)
            parts.append(value.numpy().tobytes() if isinstance(value, torch.Tensor) else value)
    return parts


@pytest.mark.parametrize("layout", ["forest", "packed", "padded"])
def test_what_is_prepared_ahead_is_what_is_prepared_here(layout: Any) -> None:
    ready = prepared(objective={"use_margin": True})
    try:
        ready.network.use_layout(layout)
        steps = range(1, 7)
        here = [[contents(m) for m in ready.batches(step)] for step in steps]
        with prefetched(ready.batcher, ready.order, steps) as batches:
            ahead = [[contents(m) for m in batches(step)] for step in steps]
    finally:
        ready.network.use_layout("forest")
    assert ahead == here
    assert all(len(step) > 1 for step in here)
    assert [[m[1] for m in step] for step in here] == [
        [False] * (len(step) - 1) + [True] for step in here
    ]


@pytest.mark.parametrize("model", [None, LORA])
def test_gradients_are_the_same_bits_with_and_without(model: Any) -> None:
    ready = prepared(**({} if model is None else {"model": model}))
    method = make_method(ready)
    found = []
    for ahead in (False, True):
        with prefetched(ready.batcher, ready.order, range(4)) as batches:
            for step in range(4):
                ready.network.zero_grad()
                result = run_step(ready, method, step, batches=batches if ahead else None)
        grads = {n: p.grad for n, p in ready.network.named_parameters() if p.grad is not None}
        found.append((result.values, {name: g.clone() for name, g in grads.items()}))
    ready.network.zero_grad()
    assert found[0][0] == found[1][0]
    assert found[0][1].keys() == found[1][1].keys()
    assert all(torch.equal(gradient, found[1][1][n]) for n, gradient in found[0][1].items())


def test_one_micro_batch_is_ahead_also_into_the_next_step() -> None:
    ready = prepared()
    asked: list[int] = []
    begun = threading.Event()

    class Watched:
        def __init__(self) -> None:
            self.order = ready.order

        def step(self, index: int) -> Any:
            asked.append(index)
            if index == 1:
                begun.set()
            return self.order.step(index)

    with prefetched(ready.batcher, Watched(), range(3)) as batches:  # type: ignore[arg-type]
        first = batches(0)
        for micro in first:
            if micro.last:
                assert begun.wait(20), "the next step is planned while this one's last computes"
        assert asked == [0, 1]


def test_an_error_of_the_preparation_is_raised_at_its_step() -> None:
    ready = prepared()

    class Broken:
        def step(self, index: int) -> Any:
            if index == 2:
                raise OSError("the disk is gone")
            return ready.order.step(index)

    with prefetched(ready.batcher, Broken(), range(4)) as batches:  # type: ignore[arg-type]
        for step in (0, 1):
            assert list(batches(step))[-1].last
        with pytest.raises(OSError, match="the disk is gone"):
            list(batches(2))
    assert threads() == []


def test_a_step_out_of_order_is_refused() -> None:
    ready = prepared()
    with (
        prefetched(ready.batcher, ready.order, range(3)) as batches,
        pytest.raises(RuntimeError, match="step 2 was read out of order"),
    ):
        next(batches(2))


def test_the_thread_has_an_order_of_its_own() -> None:
    """What the order remembers of an epoch is not changed under the loop's feet."""
    ready = prepared()
    order = copy.deepcopy(ready.order)
    expected = [order.step(step) for step in range(30)]
    with prefetched(ready.batcher, order, range(30)) as batches:
        for step in range(30):
            list(batches(step))
            again = order.step(29 - step)
            assert all(map(np.array_equal, again, expected[29 - step]))


@pytest.mark.parametrize("end", ["done", "stopped", "not finite", "twice interrupted"])
def test_no_thread_is_left_however_a_run_ends(tmp_path: Any, end: str) -> None:
    before = threading.active_count()
    if end == "done":
        train(config_of(tmp_path / "run"))
    elif end == "stopped":
        with stopping_in(2), pytest.raises(Interrupted):
            train(config_of(tmp_path / "run"))
    elif end == "not finite":
        with pytest.raises(NonFiniteLossError):
            train(at_rate(config_of(tmp_path / "run"), learning_rate=1e25))
    else:

        def interrupt(module: Any, *_: Any) -> None:
            if threads():
                raise KeyboardInterrupt

        handle = torch.nn.modules.module.register_module_forward_hook(interrupt)
        try:
            with pytest.raises(Interrupted):
                train(config_of(tmp_path / "run"))
        finally:
            handle.remove()
    assert threads() == []
    assert threading.active_count() == before
