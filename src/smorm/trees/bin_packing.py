"""Bin packing: groups of units into batches of at most so many rows."""

from __future__ import annotations

from bisect import bisect_left, insort

Pack = tuple[int, list[int]]
"""Rows, and the units that take them."""
_FULL = 0.97
"""Batches that are this full on average are not packed a second time."""
_CHOICES = 64
"""Packs considered when a batch's room is filled; all sizes are among them."""


def fill_batches(packs: list[Pack], stem: int, budget: int) -> list[Pack]:
    """Packs into batches; `stem` tokens are common to all of them and stand once in a batch."""
    packs = sorted(packs, key=lambda pack: (-pack[0], pack[1]))
    batches = _best_fit(packs, stem, budget)
    # The emptiest batch is what remains at the end, and says nothing about the others.
    filled = sorted(rows for rows, _ in batches if rows <= budget)[1:]
    if sum(filled) < _FULL * budget * len(filled):
        # A few large units to a batch: best fit leaves gaps that none of them fits in.
        alternative = _best_sums(packs, stem, budget)
        if len(alternative) < len(batches):
            return alternative
    return batches


def _best_fit(packs: list[Pack], stem: int, budget: int) -> list[Pack]:
    """Each pack, the largest first, into the batch with the least room that is enough."""
    batches: list[Pack] = []
    room: list[tuple[int, int]] = []  # (free rows, index of the batch), sorted
    for rows, members in packs:
        position = bisect_left(room, (rows - stem, -1))
        if position == len(room):
            insort(room, (budget - rows, len(batches)))
            batches.append((rows, list(members)))
            continue
        free, index = room.pop(position)
        filled, batch = batches[index]
        batches[index] = (filled + rows - stem, batch + members)
        insort(room, (free - rows + stem, index))
    return batches


def _best_sums(packs: list[Pack], stem: int, budget: int) -> list[Pack]:
    """The largest pack that waits, then those that together fill its room best."""
    sizes = [stem - rows for rows, _ in packs]  # negative, so that they ascend for bisection
    waiting = [members for _, members in packs]
    batches: list[Pack] = []
    while waiting:
        rows, members = stem - sizes.pop(0), list(waiting.pop(0))
        while rows < budget:
            first = bisect_left(sizes, rows - budget)
            step = max(1, (len(sizes) - first) // _CHOICES)
            fitting = range(first, len(sizes), step)
            chosen = _best_sum([-sizes[index] for index in fitting], budget - rows, budget // 256)
            if not chosen:
                break
            # From the back, so that the indices before stay right.
            for index in reversed(chosen):
                rows -= sizes.pop(fitting[index])
                members += waiting.pop(fitting[index])
        batches.append((rows, members))
    return batches


def _best_sum(sizes: list[int], room: int, slack: int) -> list[int]:
    """Indices of sizes whose sum fills the room best (up to the slack), the first ones
    preferred."""
    # Subset sums as bits of an integer: bit s is set where some of the sizes so far add up to s.
    mask, enough = (1 << (room + 1)) - 1, 1 << max(room - slack, 0)
    sums, history = 1, []
    for size in sizes:
        history.append(sums)
        sums |= sums << size & mask
        if sums >= enough:
            break
    total, chosen = sums.bit_length() - 1, []
    for index in range(len(history) - 1, -1, -1):
        # The total was not possible without this size: it is part of the sum.
        if not history[index] >> total & 1:
            chosen.append(index)
            total -= sizes[index]
    return chosen[::-1]
