from __future__ import annotations

import numpy as np
import pytest

from d2r.compose.bundled import bundled_photos
from d2r.features.frames import Frames
from d2r.images import read_image, shrink
from d2r.train.hardnet.pairs import patch_pairs, same_places


@pytest.fixture(scope="module")
def photo():
    return np.array(shrink(read_image(bundled_photos().instances[0].photos[0]), 480))


def similarity(zoom, degrees, x, y):
    angle = np.radians(degrees)
    return np.array(
        [[zoom * np.cos(angle), -zoom * np.sin(angle), x], [zoom * np.sin(angle), zoom * np.cos(angle), y], [0, 0, 1]]
    )


def mapped(points, zoom, degrees, x, y):
    """Keypoints mapped by a similarity."""
    matrix = similarity(zoom, degrees, x, y)
    places = np.c_[points.positions - 0.5, np.ones(len(points))] @ matrix.T
    return Frames(
        (places[:, :2] + 0.5).astype(np.float32),
        (points.sizes * zoom).astype(np.float32),
        (points.angles + np.radians(degrees)).astype(np.float32),
        points.responses,
    ), matrix


@pytest.fixture
def points():
    random = np.random.default_rng(0)
    values = random.uniform(0, 300, (60, 2)), random.uniform(4, 20, 60), random.uniform(0, 2 * np.pi, 60), np.ones(60)
    return Frames(*(value.astype(np.float32) for value in values))


def test_key_points_are_found_where_a_similarity_maps_them_whatever_their_order(points):
    others, matrix = mapped(points, 0.7, 160, 30, -12)
    order = np.random.default_rng(1).permutation(len(points))
    rows = same_places(points, others.take(order), matrix)
    assert len(rows) > 50  # of two that nearly coincide, only one is nearest
    assert (order[rows[:, 1]] == rows[:, 0]).mean() > 0.95


@pytest.mark.parametrize("change", ["position", "size", "angle"])
def test_key_points_that_show_something_else_are_no_pair(points, change):
    others, matrix = mapped(points, 1.0, 0, 0, 0)
    few, its = points.take(np.arange(1)), others.take(np.arange(1))
    assert len(same_places(few, its, matrix)) == 1
    moved = {
        "position": Frames(its.positions + its.sizes, its.sizes, its.angles, its.responses),
        "size": Frames(its.positions, its.sizes * np.float32(1.8), its.angles, its.responses),
        "angle": Frames(its.positions, its.sizes, its.angles + np.float32(0.7), its.responses),
    }[change]
    assert len(same_places(few, moved, matrix)) == 0


def test_nothing_pairs_with_nothing(points):
    assert same_places(points.take(np.arange(0)), points, np.eye(3)).shape == (0, 2)


def test_pairs_of_a_photo_show_the_same_place(photo):
    shares = []
    for seed in range(4):
        pairs = patch_pairs(photo, 100, np.random.default_rng(seed))
        assert pairs.first.shape == pairs.second.shape == (len(pairs.places), 32, 32)
        assert len(pairs.places) <= 100
        flat = [part.reshape(len(part), -1).astype(float) for part in (pairs.first, pairs.second)]
        first, second = ((part - part.mean(axis=1, keepdims=True)) for part in flat)
        first, second = (part / (np.linalg.norm(part, axis=1, keepdims=True) + 1e-9) for part in (first, second))
        shares.append(((first @ second.T).argmax(axis=1) == np.arange(len(first))).mean())
    assert np.mean(shares) > 0.7  # even their pixels are more similar than those of other places


def test_the_same_draw_gives_the_same_pairs(photo):
    one, two = (patch_pairs(photo, 40, np.random.default_rng(7)) for _ in range(2))
    np.testing.assert_array_equal(one.second, two.second)


def test_a_photo_of_nothing_gives_no_pairs():
    pairs = patch_pairs(np.full((60, 80, 3), 90, np.uint8), 40, np.random.default_rng(0))
    assert pairs.first.shape == (0, 32, 32)
    assert pairs.places.shape == (0, 3)
