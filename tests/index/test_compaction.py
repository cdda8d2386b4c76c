"""Which segments are merged, and when."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from d2r.index.compaction import FANOUT, due, packed
from d2r.index.segment_files import MAX_SLOTS


@pytest.mark.parametrize("batch", [1, 470, 5000, 40_000])
def test_segments_stay_few_and_no_picture_is_copied_often(batch: int) -> None:
    sizes: dict[int, int] = {}
    copies: Counter[int] = Counter()
    number = 0
    for _ in range(min(3000, 1_000_000 // batch)):
        number += 1
        sizes[number] = batch
        while chosen := due(sizes, sizes):
            assert len(chosen) > 1
            number += 1
            copies[number] = max(copies[one] for one in chosen) + 1
            sizes[number] = sum(sizes.pop(one) for one in chosen)
            assert sizes[number] <= MAX_SLOTS
    small = [size for size in sizes.values() if size * FANOUT < MAX_SLOTS]
    assert len(small) <= 5 * (FANOUT - 1)
    assert max(copies.values(), default=0) <= 6
    total = sum(sizes.values())
    assert len(sizes) <= 2 * total / MAX_SLOTS + 5 * FANOUT


def test_a_segment_that_is_mostly_dead_is_written_anew_and_one_that_is_all_dead_is_not() -> None:
    assert due({1: 49, 2: 0}, {1: 100, 2: 100}) == [1]
    assert due({1: 50, 2: 0}, {1: 100, 2: 100}) == []


def test_packing_fills_segments_and_leaves_what_is_full() -> None:
    slots = {1: MAX_SLOTS, 2: 40_000, 3: 50_000, 4: 10}
    live = {number: np.arange(count) for number, count in slots.items()}
    live[3] = np.arange(0, 50_000, 2)
    groups = packed(live, slots)
    assert [sum(len(own) for _, own in group) for group in groups] == [65_010]
    moved = {
        number: np.concatenate([own for group in groups for one, own in group if one == number]) for number in (2, 3)
    }
    assert moved[2].tolist() == live[2].tolist()
    assert moved[3].tolist() == live[3].tolist()
    groups = packed({**live, 3: np.arange(50_000)}, slots)
    assert [sum(len(own) for _, own in group) for group in groups] == [MAX_SLOTS, 90_010 - MAX_SLOTS]


@pytest.mark.parametrize("slots", [{}, {5: 7}, {1: MAX_SLOTS, 2: MAX_SLOTS, 3: 8}])
def test_what_is_packed_is_left_alone(slots: dict[int, int]) -> None:
    assert packed({number: np.arange(count) for number, count in slots.items()}, slots) == []


def test_dead_slots_alone_are_a_reason_to_pack() -> None:
    assert [[number for number, _ in group] for group in packed({1: np.arange(7)}, {1: 8})] == [[1]]
