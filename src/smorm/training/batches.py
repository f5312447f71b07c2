"""From a step's records to its micro-batches, arranged and on the network's device.

Nothing here draws random numbers or changes anything, so that it can run ahead in a thread."""

import copy
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, replace
from functools import partial
from typing import Any, TypeVar

import numpy as np
import torch

from smorm.arrays import Ints, Tokens
from smorm.data.mixing import DataOrder
from smorm.data.token_store import TokenPair, TokenRated
from smorm.model.network import Batch, RewardNetwork
from smorm.objectives.terms import Labels
from smorm.training.distributed.ranks import ALONE, Ranks
from smorm.training.distributed.shares import Plan, in_multiples, shares
from smorm.training.sources import TokenSet

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class MicroBatch:
    """One forward pass. The two sides of a pair are neighbours among the `sequences`; `last` is
    whether this rank's share of the step ends with it, `pair_indices` [pairs] are its pairs in the
    training set. Among those of the whole step its number is `number`, and so many pairs come
    before its own: `first_pair`. An `idle` one is computed beside others and counts for nothing."""

    sequences: list[Tokens]
    batch: Batch
    labels: Labels
    where: list[str]
    last: bool
    pair_indices: list[int] = field(default_factory=list)
    number: int = 0
    first_pair: int = 0
    idle: bool = False


Batches = Callable[[int], Iterator[MicroBatch]]
"""The micro-batches of a step (from 0)."""


@dataclass(frozen=True, slots=True)
class Batcher:
    """Splits records into micro-batches of at most `budget` tokens, as many as a multiple of
    `multiple_of`, of which each of the `ranks` gets its share."""

    network: RewardNetwork
    data: TokenSet
    budget: int
    use_margin: bool = False
    multiple_of: int = 1
    ranks: Ranks = ALONE

    def split(self, pairs: Ints, rated: Ints) -> Iterator[MicroBatch]:
        """This rank's micro-batches of these pairs and ratings; perhaps none."""
        # Read once each: a record is made from the memory-mapped store on every access.
        records: list[TokenPair | TokenRated] = [self.data.pairs[index] for index in pairs]
        records += [self.data.rated[index] for index in rated]
        indices = np.concatenate([pairs, rated])
        # A unit is what must stay in one forward pass: a pair's two sides, or a rated response.
        units: list[list[Tokens]] = []
        for record in records:
            if isinstance(record, TokenPair):
                units.append([record.chosen, record.rejected])
            else:
                units.append([record.tokens])
        plan = self._plan(units)
        numbers, rounds = self._share(plan, units)
        pairs_before = [0]
        for members in plan:
            in_pairs = sum(member < len(pairs) for member in members)
            pairs_before.append(pairs_before[-1] + in_pairs)
        for index, number in enumerate(numbers):
            chosen = [records[member] for member in plan[number]]
            micro = self._micro_batch(chosen, indices[plan[number]])
            last = index == rounds - 1
            yield replace(micro, last=last, number=number, first_pair=pairs_before[number])
        for index in range(len(numbers), rounds):
            smallest = min(range(len(units)), key=lambda unit: sum(map(len, units[unit])))
            micro = self._micro_batch([records[smallest]], indices[[smallest]])
            yield replace(micro, last=index == rounds - 1, number=len(plan), idle=True)

    def _plan(self, units: list[list[Tokens]]) -> Plan:
        if self.multiple_of == 1:
            return self.network.micro_batches(units, self.budget)
        total = self.network.count_rows(units)
        return in_multiples(
            partial(self.network.micro_batches, units), total, self.budget, self.multiple_of
        )

    def _share(self, plan: Plan, units: list[list[Tokens]]) -> tuple[list[int], int]:
        """The micro-batches that are this rank's, and how many passes it computes: sharded ranks
        compute as many as the one that has most."""
        if self.ranks.world == 1:
            return list(range(len(plan))), len(plan)
        rows = [self.network.count_rows([units[member] for member in members]) for members in plan]
        by_rank = shares(rows, self.ranks.world)
        numbers = by_rank[self.ranks.rank]
        return numbers, max(map(len, by_rank)) if self.ranks.sharded else len(numbers)

    def _micro_batch(self, records: Sequence[TokenPair | TokenRated], indices: Ints) -> MicroBatch:
        sequences: list[Tokens] = []
        pair_rows, rated_rows, margins, targets, pair_indices = [], [], [], [], []
        for record, index in zip(records, indices, strict=True):
            row = len(sequences)
            if isinstance(record, TokenPair):
                pair_rows.append((row, row + 1))
                margins.append(record.margin)
                pair_indices.append(int(index))
                sequences += [record.chosen, record.rejected]
            else:
                rated_rows.append(row)
                targets.append(self.data.targets[index])
                sequences.append(record.tokens)
        # The shapes hold for micro-batches without pairs or without ratings too.
        table = np.array(targets).reshape(len(targets), self.data.targets.shape[1])
        labels = Labels(
            torch.tensor(pair_rows, dtype=torch.long).reshape(-1, 2),
            torch.tensor(rated_rows, dtype=torch.long),
            torch.from_numpy(table).float(),
            torch.tensor(margins) if self.use_margin else None,
        )
        device = self.network.device
        batch = moved(self.network.arrange(sequences), device)
        # Kept as text: an error may come long after the records were read.
        where = [record.where for record in records]
        return MicroBatch(sequences, batch, moved(labels, device), where, False, pair_indices)


def moved(holder: T, device: torch.device) -> T:
    """A dataclass with its tensors on the device; to CUDA through pinned memory, without waiting.
    The copies are queued before the kernels that read them, on the same stream."""
    if device.type == "cpu":
        return holder
    # Only CUDA has asynchronous copies, and they need pinned memory.
    pinned = device.type == "cuda"
    values: dict[str, Any] = {}
    for entry in fields(holder):  # type: ignore[arg-type]
        value = getattr(holder, entry.name)
        if isinstance(value, torch.Tensor):
            source = value.pin_memory() if pinned else value
            values[entry.name] = source.to(device, non_blocking=pinned)
    return replace(holder, **values)  # type: ignore[type-var]


@contextmanager
def prefetched(batcher: Batcher, order: DataOrder, steps: Sequence[int]) -> Iterator[Batches]:
    """Micro-batches of `steps`, to be read in this order. The thread ends with the block. One is
    prepared ahead, never more; after the last of a step that is the first of the next. A step of
    which this rank has none is empty."""
    # An order remembers the epoch that it drew last: the thread gets a copy.
    order = copy.deepcopy(order)

    def prepare() -> Iterator[tuple[int, MicroBatch | None]]:
        for step in steps:
            micro = None
            for micro in batcher.split(*order.step(step)):
                yield step, micro
            if micro is None:
                yield step, None

    items = prepare()
    # A thread is enough: torch's kernels release the interpreter.
    with ThreadPoolExecutor(1, thread_name_prefix="smorm-next-batch") as thread:
        ahead: Future[tuple[int, MicroBatch | None] | None] = thread.submit(next, items, None)

        def read(step: int) -> Iterator[MicroBatch]:
            nonlocal ahead
            last = False
            while not last:
                # An error of the preparation is raised here, where it belongs.
                item = ahead.result()
                if item is None or item[0] != step:
                    raise RuntimeError(f"step {step} was read out of order")
                # Submitted before this one is used: both are worked on at the same time.
                ahead = thread.submit(next, items, None)
                if item[1] is None:
                    return
                yield item[1]
                last = item[1].last

        try:
            yield read
        finally:
            # Nothing more is prepared; what is being prepared now takes some milliseconds.
            ahead.cancel()
