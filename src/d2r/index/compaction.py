"""Which segments to merge, and when: there are few to search, and no picture is copied more than a few times.

A segment's tier is the logarithm of its live pictures to base :data:`FANOUT`. As soon as a tier has FANOUT segments,
they are merged into one of the next tier. So a picture is copied once per tier, at most five times, and each tier has
fewer than FANOUT small segments, besides the full ones.
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
    """Return the numbers of the segments to merge now, ascending; empty if that can wait.

    Args:
        live: number of slots with a picture, by segment number.
        slots: number of slots, by segment number.
    """
    tiers: dict[int, list[int]] = {}
    for number, count in sorted(live.items()):
        if 0 < 2 * count < slots[number]:  # mostly dead: free the disk space
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
    """Return groups to merge, so that every segment but the last is full and no dead slot is left.

    A segment without dead slots is left alone if it is full, or the only one that is not.

    Args:
        live: slots with a picture, int64 ascending, by segment number.
        slots: number of slots, by segment number.
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
