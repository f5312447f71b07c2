"""Which jobs go into one batch: like beside like, by the rows that a forest has."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterator

import numpy as np
import pytest

from smorm.serving.batcher import Job, batch_of
from smorm.trees.forest import forest_rows, sort_key


@pytest.fixture(scope="module")
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    event_loop = asyncio.new_event_loop()
    yield event_loop
    event_loop.close()


def make_jobs(loop: asyncio.AbstractEventLoop, sequences: list[list[int]]) -> list[Job]:
    jobs = []
    for ids in sequences:
        key = sort_key(np.array(ids, dtype=np.int32))
        jobs.append(Job("model", [ids], len(ids), math.inf, loop.create_future(), key))
    return jobs


def rows(batch: list[Job]) -> int:
    return forest_rows([np.array(job.unit[0], dtype=np.int32) for job in batch])


def step(rng: np.random.Generator, system: int, prompts: int, answers: int) -> list[list[int]]:
    """A step of reinforcement learning: answers to few prompts, all behind one system prompt."""
    head = rng.integers(0, 1000, system).tolist()
    sequences = []
    for _ in range(prompts):
        prompt = rng.integers(0, 1000, 60).tolist()
        sequences += [head + prompt + rng.integers(0, 1000, 20).tolist() for _ in range(answers)]
    return [sequences[index] for index in rng.permutation(len(sequences))]


@pytest.mark.parametrize("system", [0, 100, 500])
def test_batches_are_full_of_rows_that_are_computed(
    loop: asyncio.AbstractEventLoop, system: int
) -> None:
    sequences = step(np.random.default_rng(system), system, prompts=12, answers=8)
    budget = 1_000
    remaining, batches = make_jobs(loop, sequences), []
    while remaining:
        batch = batch_of(remaining, budget)
        assert batch[0] is remaining[0]  # the oldest never waits for another batch
        assert rows(batch) <= budget
        batches.append(batch)
        remaining = [job for job in remaining if job not in batch]
    computed = sum(map(rows, batches))
    least = forest_rows([np.array(ids, dtype=np.int32) for ids in sequences])
    # Every batch but the first repeats the system prompt, and at most one prompt that was cut.
    assert computed <= least + (len(batches) - 1) * (system + 60)
    assert len(batches) <= math.ceil(least / (budget - system - 60)) + 1


def test_a_job_over_the_budget_is_alone_and_what_is_unlike_goes_by_age(
    loop: asyncio.AbstractEventLoop,
) -> None:
    jobs = make_jobs(loop, [[1] * 50, [2] * 10, [3] * 10, [4] * 10])
    assert batch_of(jobs, 20) == jobs[:1]
    assert batch_of(jobs[1:], 20) == jobs[1:3]
