import cv2
import numpy as np
import pytest

from d2r.compose.bundled import bundled_photos
from d2r.features.pyramid import Level, levels, runs, scaled_level
from d2r.images import read_image, shrink


@pytest.fixture(scope="module")
def photo():
    return shrink(read_image(bundled_photos().instances[0].photos[0]), 400)


def picture(height, width):
    return np.zeros((height, width, 3), np.uint8)


def test_sides_are_the_nearest_multiples_of_the_stride():
    found = levels([picture(100, 200)], [0.5, 1.0, 2**0.5], 16)
    assert [(level.height, level.width) for level in found] == [(48, 96), (96, 208), (144, 288)]
    assert found[1].scales == (208 / 200, 96 / 100)


def test_a_side_has_one_stride_at_least_and_a_size_occurs_once():
    found = levels([picture(9, 40), picture(9, 40)], [0.25, 0.35, 0.5, 1.0, 1.05], 16)
    assert [(level.picture, level.height, level.width) for level in found] == [
        (0, 16, 16), (0, 16, 48), (1, 16, 16), (1, 16, 48)
    ]  # fmt: skip


def test_levels_of_one_size_run_together_up_to_the_most_pixels():
    found = levels([picture(32, 64), picture(64, 32), picture(32, 64), picture(30, 66)], [1.0, 2.0], 32)
    sizes = [[(level.picture, level.height, level.width) for level in run] for run in runs(found, 2 * 32 * 64)]
    assert sizes == [
        [(0, 32, 64), (2, 32, 64)], [(3, 32, 64)],
        [(0, 64, 128)], [(2, 64, 128)], [(3, 64, 128)],
        [(1, 64, 32)], [(1, 128, 64)],
    ]  # fmt: skip
    assert [len(run) for run in runs(found, 10**9)] == [3, 3, 1, 1]
    assert [len(run) for run in runs(found, 1)] == [1] * 8


def test_what_shrinks_is_averaged_and_what_grows_is_interpolated(photo):
    height, width = photo.shape[:2]
    assert scaled_level(photo, Level(0, height, width, (1.0, 1.0))) is photo
    for size, method in (((160, 240), cv2.INTER_AREA), ((640, 800), cv2.INTER_LINEAR)):
        made = scaled_level(photo, Level(0, *size, (1.0, 1.0)))
        assert made.dtype == np.uint8
        np.testing.assert_array_equal(made, cv2.resize(photo, size[::-1], interpolation=method))
