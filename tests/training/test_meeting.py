"""Processes that torchrun starts again meet each other, and none of those that were before."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import torch.distributed as dist

from smorm.training.distributed.ranks import fresh_part


def meet(store: dist.Store, late: int, seconds: float) -> list[dist.Store]:
    """The part of the store that each of three ranks gets; one of them comes later."""

    def join(rank: int) -> dist.Store:
        time.sleep(seconds * (rank == late))
        return fresh_part(store, rank, 3)

    with ThreadPoolExecutor(3) as threads:
        return list(threads.map(join, range(3)))


def test_a_round_has_one_part_of_the_store_and_nothing_of_the_round_before() -> None:
    store = dist.HashStore()
    seen: list[str] = []
    for attempt, late in enumerate((0, 1, 2, 0)):
        parts = meet(store, late, 0.1)
        for name in seen:
            assert not any(part.check([name]) for part in parts), "left by an earlier round"
        # As gloo does: every rank writes its address, and the others read it.
        for rank, part in enumerate(parts):
            part.set(f"address-{attempt}-{rank}", f"{rank}")
            seen.append(f"address-{attempt}-{rank}")
        for part in parts:
            assert part.check(seen[-3:])


def test_one_that_left_before_it_was_let_in_stops_no_later_round() -> None:
    """Rank 1 answered the first rank's call and was killed; so was the first rank."""
    store = dist.HashStore()
    store.set("smorm-round", "old")
    store.set("smorm-round/old/1", "dead")
    store.set("smorm-round/old", " dead beef")
    first, *others = meet(store, 0, 0.2)
    first.set("word", "here")
    assert all(part.get("word") == b"here" for part in others)
