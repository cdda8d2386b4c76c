"""Which segments to merge, and when: few enough to search quickly, and no picture copied more than a few times.

A segment's tier is the logarithm of its live pictures to base :data:`FANOUT`. As soon as a tier has FANOUT segments
they become one of the next, so that a picture is copied once a tier, five times at most, and there are fewer than
FANOUT small segments a tier, beside the full ones.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from d2r.index.segment_files import MAX_SLOTS

FANOUT = 8
"""Segments of about the same size that are merged into one."""

Slots = NDArray[np.int64]


def due(live: Mapping[int, int], slots: Mapping[int, int]) -> list[int]:
    """Return the numbers of the segments to merge now, ascending; empty when it can wait.

    Args:
        live: how many slots of each segment, by its number, have a picture.
        slots: how many slots it has.
    """
    tiers: dict[int, list[int]] = {}
    for number, count in sorted(live.items()):
        if 0 < 2 * count < slots[number]:  # mostly dead: give the disk back
            return [number]
        tier = 0
        while FANOUT ** (tier + 1) <= count:
            tier += 1
        tiers.setdefault(tier, []).append(number)
    for _, members in sorted(tiers.items()):
        chosen: list[int] = []
        for number in members:
            if sum(live[one] for one in (*chosen, number)) > MAX_SLOTS:
                break
            chosen.append(number)
        if len(members) >= FANOUT and len(chosen) > 1:
            return chosen
    return []


def packed(live: Mapping[int, Slots], slots: Mapping[int, int]) -> list[list[tuple[int, Slots]]]:
    """Return what to merge, group by group, so that every segment is full but the last, and nothing dead is left.

    Segments that are full, or the only one that is not, and have nothing dead are left as they are.

    Args:
        live: slots with a picture, int64 ascending, by the number of each segment.
        slots: how many slots it has.
    """
    numbers = [number for number in sorted(live) if len(live[number])]
    rest = [number for number in numbers if len(live[number]) < MAX_SLOTS]
    if len(rest) == 1 and len(live[rest[0]]) == slots[rest[0]]:
        return []
    groups: list[list[tuple[int, Slots]]] = [[]]
    room = MAX_SLOTS
    for number in rest:
        own = live[number]
        while len(own):
            if room == 0:
                groups.append([])
                room = MAX_SLOTS
            groups[-1].append((number, own[:room]))
            room, own = room - len(own[:room]), own[room:]
    return [group for group in groups if group]
