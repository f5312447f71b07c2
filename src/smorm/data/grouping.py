"""Items over one prompt in one step: grouped permutations, and ratings beside their pairs.

A step takes an exact number of items, so whole groups do not always fill it. Groups are dealt out
in a random order; where one crosses the end of a step, some group or groups whose sizes add up to
the overhang wait for the next step instead. Only where no such set is there is one group cut.

Shapes: N items, G groups, C steps ("capacities"), all vectorised but for one short loop over the
steps in which a group overhangs.
"""

import itertools

import numpy as np

from smorm.arrays import Ints

_Range = tuple[int, int, bool]  # items first..last-1 of a group, and whether that is all of it


def grouped_permutation(groups: Ints, capacities: Ints, generator: np.random.Generator) -> Ints:
    """Items 0..N-1, each once, step after step, so that those of a group stand in one step.

    `groups` [N] is the id of each item's group; the `capacities` [C] of the steps add up to N. A
    group larger than the largest step is cut into pieces of that size, each dealt out by itself.
    """
    items, sizes = _shuffled_pieces(groups, int(capacities.max(initial=1)), generator)
    steps = deal(sizes, capacities)
    return np.asarray(items[np.argsort(steps, kind="stable")])


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
    within = np.arange(size) - np.repeat(group_starts, np.diff(np.append(group_starts, size)))
    starts = np.flatnonzero(within % largest == 0)
    sizes = np.diff(np.append(starts, size))
    order = generator.permutation(len(starts))
    starts, sizes = starts[order], sizes[order]
    # the pieces start..start+size-1 laid end to end
    shifts = np.repeat(starts - (np.cumsum(sizes) - sizes), sizes)
    return shuffled[shifts + np.arange(size)], sizes


def deal(sizes: Ints, capacities: Ints) -> Ints:
    """The step of each item, [N], for groups of `sizes` [G] that lie end to end, in that order.

    `capacities` [C] are the items that each step takes; they add up to the sizes' sum.
    """
    # At first as if groups could be cut; then whole groups are moved on where one crosses a border.
    ends, borders = np.cumsum(sizes), np.cumsum(capacities)
    starts = ends - sizes
    steps = np.repeat(np.searchsorted(borders, starts, side="right"), sizes)
    begun = np.searchsorted(starts, borders, side="left")  # groups that begin before each border
    overhang = borders
    if len(ends):
        overhang = ends[begun - 1] - borders
    ranges = list(zip(starts.tolist(), ends.tolist(), itertools.repeat(True)))
    firsts, overhangs = [0, *begun.tolist()], overhang.tolist()
    postponed: list[_Range] = []
    following = -1
    # Only where a group crosses the end of a step is there anything to decide.
    for index in np.flatnonzero(overhang > 0).tolist():
        candidates = ranges[firsts[index] : firsts[index + 1]]
        if index == following:
            candidates = [*postponed, *candidates]
        postponed = _postponed(candidates, overhangs[index])
        following = index + 1
        for first, last, _ in postponed:
            steps[first:last] = following
    return steps


def _postponed(ranges: list[_Range], amount: int) -> list[_Range]:
    """Whole groups that add up to `amount`, the latest first; else the latest are cut to it.

    What remains of a group that was cut before is not put off a second time.
    """
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


def ratings_beside(
    rated_groups: Ints,
    pairs: tuple[Ints, Ints],
    capacities: Ints,
    generator: np.random.Generator,
) -> Ints:
    """Ratings 0..R-1, each once, in steps in which their prompt has a pair where there is room.

    A prompt that has pairs in several of the steps gets one of them at random, so that ratings with
    and without pairs are mixed alike from the first step to the last. Ratings without room beside a
    pair fill the rest, grouped by prompt among themselves. Returned step after step, [R].

    Args:
        rated_groups: prompt of each rating, [R], ids from 0.
        pairs: prompt and step of each pair of these steps, two arrays of one length.
        capacities: ratings that each step takes, [C]; they add up to R.
    """
    # sorted by prompt, in random order within each
    largest = int(capacities.max(initial=1))
    order = generator.permutation(len(rated_groups))
    order = order[np.argsort(rated_groups[order], kind="stable")]
    steps = np.empty_like(order)
    steps[order], room = _match(rated_groups[order], pairs, capacities, generator)
    unmatched, open_steps = np.flatnonzero(steps < 0), np.flatnonzero(room)
    items, sizes = _shuffled_pieces(rated_groups[unmatched], largest, generator)
    steps[unmatched[items]] = open_steps[deal(sizes, room[open_steps])]
    return np.argsort(steps, kind="stable")


def _match(
    prompts: Ints,
    pairs: tuple[Ints, Ints],
    capacities: Ints,
    generator: np.random.Generator,
) -> tuple[Ints, Ints]:
    """The step of each rating, -1 where it finds no room, [R], and the room that remains, [C]. The
    ratings are sorted by prompt."""
    num_steps, num_prompts = len(capacities), int(prompts.max(initial=-1)) + 1
    num_rated = np.bincount(prompts, minlength=num_prompts)
    pair_prompts, pair_steps = pairs
    rated = pair_prompts < num_prompts
    rated[rated] = num_rated[pair_prompts[rated]] > 0
    # Each (prompt, step) once, sorted: the steps of a prompt lie side by side.
    options = np.unique(pair_prompts[rated] * num_steps + pair_steps[rated])
    num_options = np.bincount(options // num_steps, minlength=num_prompts)
    first_option = np.cumsum(num_options) - num_options
    # A prompt's ratings go to a random one of its steps; more than a step takes go to the next.
    random_turn = (generator.random(num_prompts) * num_options).astype(np.int64)
    within = np.arange(len(prompts)) - np.repeat(np.cumsum(num_rated) - num_rated, num_rated)
    turns = random_turn[prompts] + within // max(1, int(capacities.max(initial=1)))
    steps, room = np.full(len(prompts), -1), capacities.copy()
    for attempt in range(2):  # the step of its turn, and the one after it
        ratings = np.flatnonzero((steps < 0) & (num_options[prompts] > attempt))
        rating_prompts = prompts[ratings]
        turn = (turns[ratings] + attempt) % num_options[rating_prompts]
        step = options[first_option[rating_prompts] + turn] % num_steps
        by_step = np.argsort(step, kind="stable")
        ratings, step = ratings[by_step], step[by_step]
        # First come, first served: the rank of a rating among those that want the same step.
        demand = np.bincount(step, minlength=num_steps)
        rank = np.arange(len(step)) - np.repeat(np.cumsum(demand) - demand, demand)
        fits = rank < room[step]
        steps[ratings[fits]] = step[fits]
        room -= np.bincount(step[fits], minlength=num_steps)
    return steps, room
