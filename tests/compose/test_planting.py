"""One object in a picture: its box is right, its share within the limits, and nothing else changes."""

from __future__ import annotations

import dataclasses

import cv2
import numpy as np
import pytest

from d2r.compose.planting import plant
from d2r.compose.texture import textured_box
from d2r.datasets.difficulty import DIFFICULTIES
from d2r.features import RootSIFT
from synthetic import MILD, texture


@pytest.mark.parametrize("name", list(DIFFICULTIES))
def test_the_visible_box_covers_a_share_within_the_configured_range(name):
    config, photo, host = DIFFICULTIES[name], texture(1), texture(2, 400, 300)
    rng = np.random.default_rng(0)
    for _ in range(40):
        planting = plant(host, photo, textured_box(photo), config, rng, occluder=texture(3))
        x1, y1, x2, y2 = planting.box
        assert config.share[0] <= (x2 - x1) * (y2 - y1) / (400 * 300) <= config.share[1]
        assert 0 <= x1 < x2 <= 400
        assert 0 <= y1 < y2 <= 300


@pytest.mark.parametrize("size", [(400, 170), (170, 400)])
def test_the_share_holds_in_long_pictures_too(size):
    config, photo, host = DIFFICULTIES["easy"], texture(1, 400, 130), texture(2, *size)
    rng = np.random.default_rng(0)
    for _ in range(40):
        x1, y1, x2, y2 = plant(host, photo, textured_box(photo), config, rng).box
        assert config.share[0] <= (x2 - x1) * (y2 - y1) / (size[0] * size[1]) <= config.share[1]


@pytest.mark.parametrize("name", list(DIFFICULTIES))
def test_outside_the_object_and_its_rim_the_picture_is_unchanged(name):
    config, host = DIFFICULTIES[name], texture(2, 400, 300)
    rng = np.random.default_rng(1)
    for k in range(10):
        planting = plant(host, texture(1), (60, 50, 240, 190), config, rng, occluder=texture(3))
        outside = planting.alpha == 0
        np.testing.assert_array_equal(planting.picture[outside], host[outside], err_msg=str(k))
        # The rim is narrow: six sigma and a pixel around the visible box, except under an occluder.
        x1, y1, x2, y2 = planting.box
        touched = cv2.boundingRect((planting.alpha > 0.5).astype(np.uint8))
        assert touched[0] <= x1
        assert touched[1] <= y1
        assert x2 <= touched[0] + touched[2]
        assert y2 <= touched[1] + touched[3]
        rows, columns = np.nonzero(planting.alpha)
        margin = 1 + 6 * 0.02 * np.sqrt(touched[2] * touched[3]) + 3
        assert columns.min() >= touched[0] - margin
        assert columns.max() <= touched[0] + touched[2] + margin
        assert rows.min() >= touched[1] - margin
        assert rows.max() <= touched[1] + touched[3] + margin


def test_neither_the_picture_nor_the_photograph_is_written_to():
    host, photo = texture(2), texture(1)
    host.flags.writeable = photo.flags.writeable = False
    plant(host, photo, (60, 50, 240, 190), DIFFICULTIES["hard"], np.random.default_rng(0), occluder=photo)
    np.testing.assert_array_equal(host, texture(2))


def test_the_planted_object_is_where_box_and_homography_say():
    """SIFT matches of a mildly warped object lie in its box, where its homography predicts."""
    photo, host = texture(1, 400, 300), texture(2, 640, 480)
    rng = np.random.default_rng(5)
    for _ in range(2):
        planting = plant(host, photo, (60, 50, 340, 250), MILD, rng)
        before, after = RootSIFT(top=2500).extract([photo, planting.picture])
        likeness = before.descriptors @ after.descriptors.T
        nearest = likeness.argmax(axis=1)
        ranked = np.sort(likeness, axis=1)
        sure = 1 - ranked[:, -1] < 0.5 * (1 - ranked[:, -2])
        assert sure.sum() > 50
        found = after.positions[nearest[sure]]
        x1, y1, x2, y2 = planting.box
        assert ((found >= [x1 - 2, y1 - 2]) & (found <= [x2 + 2, y2 + 2])).all(axis=1).mean() > 0.95
        wanted = np.c_[before.positions[sure], np.ones(sure.sum())] @ planting.homography.T
        error = np.linalg.norm(found - wanted[:, :2] / wanted[:, 2:], axis=1)
        assert np.median(error) < 0.5
        assert (error < 2).mean() > 0.95


def test_an_occluder_changes_the_object_and_nothing_else():
    config = dataclasses.replace(DIFFICULTIES["hard"], blur=0, noise=0)
    host, photo = texture(2, 640, 480), texture(1)
    changed = 0
    for seed in range(8):
        free, hidden = (
            plant(host, photo, (60, 50, 240, 190), config, np.random.default_rng(seed), occluder=occluder)
            for occluder in (None, texture(3))
        )
        np.testing.assert_array_equal(free.alpha, hidden.alpha)
        changed += not np.array_equal(free.picture, hidden.picture)
        assert hidden.box[0] >= free.box[0]
        assert hidden.box[3] <= free.box[3]
    assert changed >= 6


def test_an_object_finds_no_place_where_everything_is_taken():
    host = texture(2)
    planting = plant(host, texture(1), (60, 50, 240, 190), MILD, np.random.default_rng(0), taken=[(0, 0, 320, 240)])
    assert planting is None


@pytest.mark.parametrize("size", [(1, 1), (2, 90), (90, 2), (900, 30)])
def test_a_photograph_of_any_shape_can_be_planted(size):
    photo = texture(1, *size)
    planting = plant(texture(2), photo, textured_box(photo), MILD, np.random.default_rng(0))
    assert planting.picture.shape == (240, 320, 3)
