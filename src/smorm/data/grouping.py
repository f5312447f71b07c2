"""Items over one prompt in one step: grouped permutations, and ratings beside their pairs.

A step takes an exact number of items, so whole groups do not always fill it. Groups are dealt out
in a random order; where one crosses the end of a step, some group or groups whose sizes add up to
the overhang wait for the next step instead. Only where no such set is there is one group cut.

Shapes: N items, G groups, C steps ("capacities"), all vectorised but for one short loop over the
steps in which a group overhangs.
"""

from __future__ import annotations

import itertools

import numpy as np
from numpy.typing import NDArray

Indices = NDArray[np.int64]
_Range = tuple[int, int, bool]  # items first..last-1 of a group, and whether that is all of it


def grouped_permutation(
    groups: Indices, capacities: Indices, generator: np.random.Generator
) -> Indices:
    """Items 0..N-1, each once, so that those of a group stand in one step.

    Args:
        groups: id of each item's group, [N].
        capacities: items that each step takes, [C]; they add up to N.

    Returns:
        The items, step after step, [N]. A group larger than the largest step is first cut into
        pieces of that size, and the pieces are dealt out apart from each other.
    """
    items, sizes = _shuffled_pieces(groups, int(capacities.max(initial=1)), generator)
    step = deal(sizes, capacities)
    dealt: Indices = items[np.argsort(step, kind="stable")]
    return dealt


def _shuffled_pieces(
    groups: Indices, largest: int, generator: np.random.Generator
) -> tuple[Indices, Indices]:
    """Items in random order of groups and within them, [N], and the groups' sizes in that order."""
    size = len(groups)
    shuffled = generator.permutation(size)
    shuffled = shuffled[np.argsort(groups[shuffled], kind="stable")]
    ordered = groups[shuffled]
    fresh = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]])[:size])
    within = np.arange(size) - np.repeat(fresh, np.diff(np.append(fresh, size)))
    starts = np.flatnonzero(within % largest == 0)
    sizes = np.diff(np.append(starts, size))
    turn = generator.permutation(len(starts))
    return shuffled[_spread(starts[turn], sizes[turn])], sizes[turn]


def _spread(starts: Indices, sizes: Indices) -> Indices:
    """The ranges start..start+size-1 laid end to end."""
    ends = np.cumsum(sizes)
    total = int(ends[-1]) if len(ends) else 0
    return np.repeat(starts - (ends - sizes), sizes) + np.arange(total)


def deal(sizes: Indices, capacities: Indices) -> Indices:
    """The step of each item, [N], for groups that lie end to end.

    Args:
        sizes: items of each group, in the order of dealing, [G].
        capacities: items that each step takes, [C]; they add up to the sizes' sum.
    """
    ends, borders = np.cumsum(sizes), np.cumsum(capacities)
    starts = ends - sizes
    step = np.repeat(np.searchsorted(borders, starts, side="right"), sizes)
    begun = np.searchsorted(starts, borders, side="left")  # groups that begin before each border
    overhang = ends[begun - 1] - borders if len(ends) else borders
    waiting: list[_Range] = []
    following = -1
    ranges = list(zip(starts.tolist(), ends.tolist(), itertools.repeat(True)))
    first_of, overhangs = [0, *begun.tolist()], overhang.tolist()
    for index in np.flatnonzero(overhang > 0).tolist():
        fresh = ranges[first_of[index] : first_of[index + 1]]
        carried = waiting if index == following else []
        waiting = _left_out([*carried, *fresh], overhangs[index])
        following = index + 1
        for a, b, _ in waiting:
            step[a:b] = following
    return step


def _left_out(ranges: list[_Range], amount: int) -> list[_Range]:
    """Whole groups that add up to `amount`, the latest first; else the latest are cut to it.

    What is left of a group that was cut before is not put off a second time.
    """
    whole = [one for one in reversed(ranges) if one[2]]
    reached, before = 1, []  # bit s: some of the groups so far add up to s
    for first, last, _ in whole:
        before.append(reached)
        reached |= reached << (last - first)
        if reached >> amount & 1:
            return _chosen(whole, before, amount)
    left: list[_Range] = []
    for first, last, all_of_it in reversed(ranges):
        if last - first >= amount:
            left.append((last - amount, last, all_of_it and last - first == amount))
            break
        left.append((first, last, all_of_it))
        amount -= last - first
    return left[::-1]


def _chosen(whole: list[_Range], before: list[int], amount: int) -> list[_Range]:
    """Walk back through the sums that could be reached."""
    found = []
    for one, reached in zip(reversed(whole[: len(before)]), reversed(before), strict=True):
        if not reached >> amount & 1:
            found.append(one)
            amount -= one[1] - one[0]
    return found


def ratings_beside(
    rated_groups: Indices,
    pairs: tuple[Indices, Indices],
    capacities: Indices,
    generator: np.random.Generator,
) -> Indices:
    """Ratings 0..R-1, each once, in steps in which their prompt has a pair where there is room.

    A prompt that has pairs in several of the steps gets one of them at random, so that ratings
    with and without pairs are mixed alike from the first step to the last.

    Args:
        rated_groups: prompt of each rating, [R], ids from 0.
        pairs: prompt and step of each pair of these steps, two arrays of one length.
        capacities: ratings that each step takes, [C]; they add up to R.

    Returns:
        The ratings, step after step, [R]. Those without a place beside a pair fill the rest,
        grouped by prompt among themselves.
    """
    largest = int(capacities.max(initial=1))
    order = generator.permutation(len(rated_groups))
    order = order[np.argsort(rated_groups[order], kind="stable")]
    step = np.empty_like(order)
    step[order], room = _match(rated_groups[order], pairs, capacities, generator)
    free, open_steps = np.flatnonzero(step < 0), np.flatnonzero(room)
    items, sizes = _shuffled_pieces(rated_groups[free], largest, generator)
    step[free[items]] = open_steps[deal(sizes, room[open_steps])]
    return np.argsort(step, kind="stable")


def _match(
    prompts: Indices,
    pairs: tuple[Indices, Indices],
    capacities: Indices,
    generator: np.random.Generator,
) -> tuple[Indices, Indices]:
    """The step of each rating, -1 where it finds no place, [R], and the room left, [C].

    Args:
        prompts: of the ratings, sorted, [R].
    """
    steps, names = len(capacities), int(prompts[-1]) + 1 if len(prompts) else 0
    rated = np.bincount(prompts, minlength=names)
    prompt, at = (part[pairs[0] < names] for part in pairs)
    useful = rated[prompt] > 0
    # Each (prompt, step) once, sorted: the places of a prompt lie side by side.
    places = np.unique(prompt[useful] * steps + at[useful])
    count = np.bincount(places // steps, minlength=names)
    first = np.cumsum(count) - count
    turn = (generator.random(names) * count).astype(np.int64)
    within = np.arange(len(prompts)) - np.repeat(np.cumsum(rated) - rated, rated)
    turns = turn[prompts] + within // max(1, int(capacities.max(initial=1)))
    step, room = np.full(len(prompts), -1), capacities.copy()
    for attempt in range(2):  # the place of its turn, and the one after it
        wanting = np.flatnonzero((step < 0) & (count[prompts] > attempt))
        wanted = prompts[wanting]
        place = places[first[wanted] + (turns[wanting] + attempt) % count[wanted]] % steps
        by_step = np.argsort(place, kind="stable")
        wanting, place = wanting[by_step], place[by_step]
        asking = np.bincount(place, minlength=steps)
        rank = np.arange(len(place)) - np.repeat(np.cumsum(asking) - asking, asking)
        taken = rank < room[place]
        step[wanting[taken]] = place[taken]
        room -= np.bincount(place[taken], minlength=steps)
    return step, room
