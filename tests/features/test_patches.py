import cv2
import numpy as np
import pytest

from d2r.compose.bundled import bundled_photos
from d2r.features.frames import Frames, grey, make_sift, strongest
from d2r.features.patches import cut_patches
from d2r.images import read_image, shrink


@pytest.fixture(scope="module")
def photo():
    return shrink(read_image(bundled_photos().instances[0].photos[0]), 400)


def points_at(*rows):
    values = np.array(rows, np.float32)
    return Frames(values[:, :2], values[:, 2], np.radians(values[:, 3]), np.ones(len(values), np.float32))


def test_a_patch_of_the_picture_s_own_scale_is_cut_as_it_is(photo):
    image = grey(photo)
    patch = cut_patches(image, points_at((100, 80, 8, 0)), 32, 4.0)[0]
    np.testing.assert_array_equal(patch, image[64:96, 84:116])


def test_the_x_axis_of_a_patch_lies_along_the_angle(photo):
    image = grey(photo)
    upright, turned = cut_patches(image, points_at((100, 80, 8, 0), (100, 80, 8, 90)), 32, 4.0)
    np.testing.assert_allclose(turned.astype(int), np.rot90(upright).astype(int), atol=1)


def test_a_larger_key_point_shows_as_much_of_a_larger_picture(photo):
    image = grey(photo)
    large = cv2.resize(image, None, fx=4, fy=4, interpolation=cv2.INTER_CUBIC)
    small = cut_patches(image, points_at((100, 80, 10, 30)), 32, 6.0)[0].astype(float)
    same = cut_patches(large, points_at((400, 320, 40, 30)), 32, 6.0)[0].astype(float)
    assert np.abs(small - same).mean() < 4
    assert np.corrcoef(small.ravel(), same.ravel())[0, 1] > 0.97


def test_beyond_the_picture_it_is_mirrored(photo):
    image = grey(photo)
    patch = cut_patches(image, points_at((0, 80, 8, 0)), 32, 4.0)[0]
    np.testing.assert_array_equal(patch[:, :16], patch[:, 16:][:, ::-1])


def test_every_key_point_gets_a_patch_whatever_its_size_and_place(photo):
    random = np.random.default_rng(0)
    rows = np.c_[random.uniform(-5, 405, (2500, 2)), random.uniform(0.01, 900, 2500), random.uniform(0, 360, 2500)]
    assert cut_patches(grey(photo), points_at(*rows), 16, 6.0).shape == (2500, 16, 16)
    tiny = np.zeros((3, 2), np.uint8)
    assert cut_patches(tiny, points_at((1, 1, 500, 10)), 16, 6.0).shape == (1, 16, 16)


def test_no_key_points_give_no_patches(photo):
    none = strongest([], 10)[0]
    assert len(none) == 0
    assert cut_patches(grey(photo), none, 32, 6.0).shape == (0, 32, 32)


def test_the_strongest_key_points_come_first_in_an_order_that_does_not_depend_on_the_given_one(photo):
    found = make_sift(300, 0.02).detect(grey(photo), None)
    points, rows = strongest(found, 50)
    assert (np.diff(points.responses) <= 0).all()
    assert len(points) == len(rows) == 50
    shuffled = [found[row] for row in np.random.default_rng(0).permutation(len(found))]
    again, _ = strongest(shuffled, 50)
    np.testing.assert_array_equal(points.positions, again.positions)
    np.testing.assert_array_equal(points.angles, again.angles)
