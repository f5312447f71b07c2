"""Bin packing: packs of units into batches of at most so many rows."""

from __future__ import annotations

from bisect import bisect_left, insort

from smorm.trees.costs import Members

Pack = tuple[int, Members]
"""Rows, and the units that take them."""
_FULL = 0.97
"""Batches that are this full on average are not packed a second way."""
_CHOICES = 64
"""Packs looked at when a batch's room is filled; all sizes are among them."""


def put_together(packs: list[Pack], stem: int, budget: int) -> list[Pack]:
    """Packs into batches; `stem` tokens are common to all of them and stand once in a batch."""
    packs = sorted(packs, key=lambda pack: (-pack[0], pack[1]))
    found = _best_fit(packs, stem, budget)
    rows = sorted(rows for rows, _ in found if rows <= budget)[1:]
    if sum(rows) < _FULL * budget * len(rows):
        # A few large units to a batch: the pass above leaves gaps that none of them fits in.
        tried = _best_sums(packs, stem, budget)
        found = tried if len(tried) < len(found) else found
    return found


def _best_fit(packs: list[Pack], stem: int, budget: int) -> list[Pack]:
    """Each pack, the largest first, where the least room is left behind it."""
    found: list[Pack] = []
    room: list[tuple[int, int]] = []  # rows that are left, and in which batch; sorted
    for rows, members in packs:
        at = bisect_left(room, (rows - stem, -1))
        if at == len(room):
            insort(room, (budget - rows, len(found)))
            found.append((rows, list(members)))
            continue
        left, which = room.pop(at)
        found[which][1].extend(members)
        found[which] = (found[which][0] + rows - stem, found[which][1])
        insort(room, (left - rows + stem, which))
    return found


def _best_sums(packs: list[Pack], stem: int, budget: int) -> list[Pack]:
    """The largest pack that is left, then those that together fill its room best."""
    sizes = [stem - rows for rows, _ in packs]  # negative, so that they ascend
    waiting = [members for _, members in packs]
    found: list[Pack] = []
    while waiting:
        rows, members = stem - sizes.pop(0), list(waiting.pop(0))
        while rows < budget:
            first = bisect_left(sizes, rows - budget)
            fitting = range(first, len(sizes), max(1, (len(sizes) - first) // _CHOICES))
            chosen = _best_sum([-sizes[i] for i in fitting], budget - rows, budget // 256)
            if not chosen:
                break
            for index in reversed(chosen):
                rows -= sizes.pop(fitting[index])
                members += waiting.pop(fitting[index])
        found.append((rows, members))
    return found


def _best_sum(sizes: list[int], room: int, slack: int) -> list[int]:
    """Indices of sizes whose sum fills the room best (or but for the slack), the first ones
    preferred. Bit s of `reached`: some of the sizes so far add up to s."""
    mask, enough = (1 << (room + 1)) - 1, 1 << max(room - slack, 0)
    reached, before = 1, []
    for size in sizes:
        before.append(reached)
        reached |= reached << size & mask
        if reached >= enough:
            break
    total, chosen = reached.bit_length() - 1, []
    for index in range(len(before) - 1, -1, -1):
        if not before[index] >> total & 1:
            chosen.append(index)
            total -= sizes[index]
    return chosen[::-1]
