"""Where the query object is in a picture, from the inliers."""

from __future__ import annotations

import numpy as np

from d2r.boxes import iou
from d2r.verify.localise import bounding_box, found_box

TURN = np.array([[0.5, 0.1, 20.0], [-0.1, 0.5, 60.0]])
SIZE = (320, 240)


def grid(box: tuple[float, float, float, float], count: int = 5) -> np.ndarray:
    """Points spread evenly over a box, none on its border."""
    x1, y1, x2, y2 = box
    steps = (np.arange(count) + 0.5) / count
    return np.array([[x1 + (x2 - x1) * a, y1 + (y2 - y1) * b] for a in steps for b in steps])


def test_the_smallest_box_around_points() -> None:
    assert bounding_box(np.array([[3, 9], [1, 2], [2, 4]], np.float32)) == (1.0, 2.0, 3.0, 9.0)


def test_the_box_reaches_beyond_the_points_but_not_beyond_the_query_box() -> None:
    positions = grid((0, 0, 400, 200))
    mapped = positions @ TURN[:, :2].T + TURN[:, 2]
    found = found_box((0, 0, 400, 200), True, TURN, mapped, (1000, 1000))
    inner = bounding_box(mapped)
    corners = np.array([[0, 0], [400, 0], [0, 200], [400, 200]]) @ TURN[:, :2].T + TURN[:, 2]
    outer = bounding_box(corners)
    for k, sign in enumerate((1, 1, -1, -1)):
        assert sign * outer[k] <= sign * found[k] < sign * inner[k]


def test_a_box_that_was_drawn_is_where_the_map_puts_it_inside_the_picture() -> None:
    positions = grid((30, 40, 60, 70)) @ TURN[:, :2].T + TURN[:, 2]
    corners = np.array([[20, 30], [120, 30], [20, 110], [120, 110]]) @ TURN[:, :2].T + TURN[:, 2]
    found = found_box((20, 30, 120, 110), False, TURN, positions, SIZE)
    np.testing.assert_allclose(found, bounding_box(corners))
    x2 = bounding_box(corners)[2] - 9
    assert found_box((20, 30, 120, 110), False, TURN, positions, (int(x2), 240))[2] == int(x2)


def test_random_points_of_a_part_of_the_query_give_that_part() -> None:
    rng = np.random.default_rng(0)
    part = (100.0, 50.0, 200.0, 150.0)
    identity = np.array([[1.0, 0, 0], [0, 1, 0]])
    found, around = [], []
    for _ in range(200):
        positions = rng.uniform(part[:2], part[2:], (15, 2))
        found.append(iou([found_box((0, 0, 320, 240), True, identity, positions, SIZE)], [part])[0, 0])
        around.append(iou([bounding_box(positions)], [part])[0, 0])
    assert np.mean(around) < 0.8 < np.mean(found)


def test_the_box_stays_inside_the_picture_and_holds_every_point() -> None:
    shift = np.array([[1.0, 0, -50], [0, 1, 100]])
    positions = np.array([[0.0, 100.0], [150.0, 239.0], [80.0, 180.0]])
    found = found_box((0, 0, 250, 240), True, shift, positions, SIZE)
    assert found == (0.0, 100.0, 200.0, 240.0)
    outside = positions - np.array([0, 60])  # further off than an affine transform can explain
    found = found_box((0, 0, 250, 240), True, shift, outside, SIZE)
    assert (found[0], found[1]) == (0.0, 40.0)
