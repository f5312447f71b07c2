"""Which pairs and which ratings are in a step: a pure function of (seed, step).

Where the items' prompts are given, pairs over one prompt come in one step, and ratings with the
pairs over their prompt, so that each distinct text is computed once."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from smorm.arrays import Ints, compact

# Part of each stream's seed: another number would be another order, and break resuming.
_STREAMS = {"preference": 1, "rated": 2, "zip": 3}
_Range = tuple[int, int, bool]  # items first..last-1 of a group, and whether that is all of it


@dataclass(slots=True)
class Stream:
    """Items 0..size-1, each once an epoch, in an order that only (seed, epoch) decides.

    Items of one of `groups` [size] stand in one step of `per_step` items where they can; the groups
    follow those of the stream `beside`."""

    size: int
    seed: int
    name: str
    groups: Ints | None = None
    per_step: int = 1
    beside: Stream | None = None
    _drawn: dict[int, Ints] = field(default_factory=dict)

    def permutation(self, epoch: int) -> Ints:
        """The order of one epoch, [size]; held in 4 bytes an item."""
        order = self._drawn.get(epoch)
        if order is None:
            key = [self.seed, _STREAMS[self.name], epoch]
            order = compact(self._draw(epoch, np.random.Generator(np.random.PCG64(key))))
            # A step, and a look ahead, touch two epochs. One assignment, as a thread that prepares
            # batches reads here too.
            newest = sorted(self._drawn.items())[-1:]
            self._drawn = dict([*newest, (epoch, order)])
        return order

    def _draw(self, epoch: int, generator: np.random.Generator) -> Ints:
        if self.groups is None:
            # The same order as of the number itself, in half the memory.
            return generator.permutation(compact(np.arange(self.size)))
        # How many of the epoch's items each step takes: the first and last may be shared ones.
        start, end = epoch * self.size, (epoch + 1) * self.size
        first_step, last_step = start // self.per_step, -(-end // self.per_step)
        borders = np.arange(first_step, last_step + 1) * self.per_step
        capacities = np.diff(borders.clip(start, end))
        if self.beside is None or self.beside.groups is None or not self.beside.size:
            # a group larger than the largest step is cut into pieces of that size
            items, sizes = _shuffled_pieces(self.groups, int(capacities.max()), generator)
            return items[np.argsort(deal(sizes, capacities), kind="stable")]
        # A step at the border of two epochs belongs to both: its pairs are looked at twice.
        count = self.beside.per_step
        pairs = self.beside.take(first_step * count, len(capacities) * count)
        pair_steps = np.repeat(np.arange(len(capacities)), count)
        beside = (self.beside.groups[pairs], pair_steps)
        return _ratings_beside(self.groups, beside, capacities, generator)

    def take(self, start: int, count: int) -> Ints:
        """Items at positions start..start+count-1 of the endless stream; none of an empty set."""
        slices = [np.zeros(0, dtype=np.int64)]
        while count > 0 and self.size:
            epoch, offset = divmod(start, self.size)
            slices.append(self.permutation(epoch)[offset : offset + count])
            start, count = start + len(slices[-1]), count - len(slices[-1])
        return np.concatenate(slices)

    def step(self, index: int) -> Ints:
        """Items of step `index`."""
        return self.take(index * self.per_step, self.per_step)


@dataclass(frozen=True, slots=True)
class DataOrder:
    """The order of a run.

    `ratio` takes `batch_size` pairs a step and `rated_per_pair` ratings for each, whatever the
    sizes of the sets; `zip` is the paper's pairing: item i is (pair i mod |pairs|, rating i mod
    |ratings|), and the items are shuffled. Where there are no pairs, a step is so many ratings.
    `pair_groups` [num_pairs] and `rated_groups` [num_rated] are the items' prompts in `ratio`, ids
    from 0 in one space; None = not grouped."""

    num_pairs: int
    num_rated: int
    batch_size: int
    rated_per_pair: float = 1.0
    mode: Literal["ratio", "zip"] = "ratio"
    seed: int = 0
    pair_groups: Ints | None = field(default=None, compare=False, repr=False)
    rated_groups: Ints | None = field(default=None, compare=False, repr=False)
    _streams: dict[str, Stream] = field(default_factory=dict, init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        batch, seed = self.batch_size, self.seed
        pairs = Stream(self.num_pairs, seed, "preference", self.pair_groups, batch)
        per_step = self.rated_per_step
        rated = Stream(self.num_rated, seed, "rated", self.rated_groups, per_step, pairs)
        zipped = Stream(self.epoch_size, seed, "zip", per_step=batch)
        self._streams.update(pairs=pairs, rated=rated, zip=zipped)

    @property
    def rated_per_step(self) -> int:
        """Rated responses a step."""
        if not self.num_rated:
            return 0
        if not self.num_pairs or self.mode == "zip":
            return self.batch_size
        return max(1, round(self.batch_size * self.rated_per_pair))

    @property
    def epoch_size(self) -> int:
        """Items an epoch: the pairs; the ratings where there are no pairs; the longer in `zip`."""
        if self.mode == "zip":
            return max(self.num_pairs, self.num_rated)
        return self.num_pairs or self.num_rated

    def num_steps(self, epochs: float) -> int:
        """Steps that cover so many epochs (the last one is filled from the next epoch)."""
        steps = epochs * self.epoch_size / self.batch_size
        return max(1, math.ceil(round(steps, 6)))  # 0.07 * 100 is 7.000000000000001

    def step(self, index: int) -> tuple[Ints, Ints]:
        """Indices of the pairs and of the rated responses of step `index` (from 0)."""
        # where one set is empty, zip is the plain order of the other
        if self.mode == "zip" and self.num_pairs and self.num_rated:
            items = self._streams["zip"].step(index)
            return items % self.num_pairs, items % self.num_rated
        return self._streams["pairs"].step(index), self._streams["rated"].step(index)


# Whole groups do not always fill a step. They are dealt out in a random order; where one crosses
# the end of a step, some group or groups whose sizes add up to the overhang wait for the next step
# instead. Only where no such set is there is one group cut.
#
# Shapes: N items, G groups, C steps ("capacities"), all vectorised but for one short loop over the
# steps in which a group overhangs.


def _ranks(sizes: Ints) -> Ints:
    """0..size-1 of each size, end to end."""
    return np.arange(sizes.sum()) - np.repeat(np.cumsum(sizes) - sizes, sizes)


def _shuffled_pieces(
    groups: Ints, largest: int, generator: np.random.Generator
) -> tuple[Ints, Ints]:
    """Items in random order of groups and within them, [N], and the groups' sizes in that order."""
    size = len(groups)
    # The stable sort leaves the items of a group in the random order of the permutation.
    shuffled = generator.permutation(size)
    shuffled = shuffled[np.argsort(groups[shuffled], kind="stable")]
    ordered = groups[shuffled]
    group_starts = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]])[:size])
    within = _ranks(np.diff(np.append(group_starts, size)))
    starts = np.flatnonzero(within % largest == 0)
    sizes = np.diff(np.append(starts, size))
    order = generator.permutation(len(starts))
    starts, sizes = starts[order], sizes[order]
    # the pieces start..start+size-1 laid end to end
    return shuffled[np.repeat(starts, sizes) + _ranks(sizes)], sizes


def deal(sizes: Ints, capacities: Ints) -> Ints:
    """The step of each item, [N], for groups of `sizes` [G] that lie end to end, in that order.

    `capacities` [C] are the items that each step takes; they add up to the sizes' sum."""
    # At first as if groups could be cut; then whole groups are moved on where one crosses a border.
    ends, borders = np.cumsum(sizes), np.cumsum(capacities)
    starts = ends - sizes
    steps = np.repeat(np.searchsorted(borders, starts, side="right"), sizes)
    begun = np.searchsorted(starts, borders, side="left")  # groups that begin before each border
    overhang = borders
    if len(ends):
        overhang = ends[begun - 1] - borders
    firsts, overhangs = [0, *begun.tolist()], overhang.tolist()
    postponed: list[_Range] = []
    following = -1
    # Only where a group crosses the end of a step is there anything to decide.
    for index in np.flatnonzero(overhang > 0).tolist():
        groups = slice(firsts[index], firsts[index + 1])
        candidates = [
            (start, end, True)
            for start, end in zip(starts[groups].tolist(), ends[groups].tolist(), strict=True)
        ]
        if index == following:
            candidates = [*postponed, *candidates]
        postponed = _postponed(candidates, overhangs[index])
        following = index + 1
        for first, last, _ in postponed:
            steps[first:last] = following
    return steps


def _postponed(ranges: list[_Range], amount: int) -> list[_Range]:
    """Whole groups that add up to `amount`, the latest first; else the latest are cut to it. What
    remains of a group that was cut before is not put off a second time."""
    uncut = [group for group in reversed(ranges) if group[2]]
    # Subset sum over bits: bit s of `sums` is set where some of the groups so far add up to s.
    sums = 1
    sums_before: list[int] = []
    for first, last, _ in uncut:
        sums_before.append(sums)
        sums |= sums << (last - first)
        if sums >> amount & 1:
            return _subset(uncut[: len(sums_before)], sums_before, amount)
    cut: list[_Range] = []
    for first, last, complete in reversed(ranges):
        if last - first >= amount:
            cut.append((last - amount, last, complete and last - first == amount))
            break
        cut.append((first, last, complete))
        amount -= last - first
    return cut[::-1]


def _subset(groups: list[_Range], sums_before: list[int], amount: int) -> list[_Range]:
    """Walk back through the sums: a group is in the subset where it was needed to reach one."""
    subset = []
    for group, sums in zip(reversed(groups), reversed(sums_before), strict=True):
        if not sums >> amount & 1:
            subset.append(group)
            amount -= group[1] - group[0]
    return subset


def _ratings_beside(
    rated_groups: Ints, pairs: tuple[Ints, Ints], capacities: Ints, generator: np.random.Generator
) -> Ints:
    """Ratings 0..R-1, each once, in steps in which their prompt has a pair where there is room; the
    others fill the rest, grouped by prompt among themselves. Returned step after step, [R].

    `rated_groups` [R] is the prompt of each rating, ids from 0; `pairs` the prompt and the step of
    each pair of these steps; `capacities` [C] the ratings that each step takes."""
    # sorted by prompt, in random order within each
    order = generator.permutation(len(rated_groups))
    order = order[np.argsort(rated_groups[order], kind="stable")]
    steps = np.empty_like(order)
    steps[order], room = _match(rated_groups[order], pairs, capacities, generator)
    unmatched, open_steps = np.flatnonzero(steps < 0), np.flatnonzero(room)
    items, sizes = _shuffled_pieces(rated_groups[unmatched], int(capacities.max()), generator)
    steps[unmatched[items]] = open_steps[deal(sizes, room[open_steps])]
    return np.argsort(steps, kind="stable")


def _match(
    prompts: Ints, pairs: tuple[Ints, Ints], capacities: Ints, generator: np.random.Generator
) -> tuple[Ints, Ints]:
    """The step of each rating, -1 where it finds no room, [R], and the room that remains, [C]. The
    ratings are sorted by prompt."""
    num_steps, num_prompts = len(capacities), int(prompts.max(initial=-1)) + 1
    num_rated = np.bincount(prompts, minlength=num_prompts)
    pair_prompts, pair_steps = pairs
    rated = pair_prompts < num_prompts
    rated[rated] = num_rated[pair_prompts[rated]] > 0
    # Each (prompt, step) once, sorted: the steps of a prompt lie side by side.
    options = np.unique(pair_prompts[rated].astype(np.int64) * num_steps + pair_steps[rated])
    num_options = np.bincount(options // num_steps, minlength=num_prompts)
    first_option = np.cumsum(num_options) - num_options
    # A prompt's ratings go to a random one of its steps, so that ratings with and without pairs are
    # mixed alike from the first step to the last; more than a step takes go to the next.
    random_turn = (generator.random(num_prompts) * num_options).astype(np.int64)
    turns = random_turn[prompts] + _ranks(num_rated) // int(capacities.max())
    steps, room = np.full(len(prompts), -1), capacities.copy()
    for attempt in range(2):  # the step of its turn, and the one after it
        ratings = np.flatnonzero((steps < 0) & (num_options[prompts] > attempt))
        rating_prompts = prompts[ratings]
        turn = (turns[ratings] + attempt) % num_options[rating_prompts]
        step = options[first_option[rating_prompts] + turn] % num_steps
        by_step = np.argsort(step, kind="stable")
        ratings, step = ratings[by_step], step[by_step]
        # First come, first served: by the rank of a rating among those that want the same step.
        fits = _ranks(np.bincount(step, minlength=num_steps)) < room[step]
        steps[ratings[fits]] = step[fits]
        room -= np.bincount(step[fits], minlength=num_steps)
    return steps, room
