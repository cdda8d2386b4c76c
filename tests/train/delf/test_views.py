from __future__ import annotations

import cv2
import numpy as np
import pytest

from d2r.compose.bundled import bundled_photos
from d2r.images import read_image
from d2r.train.delf.networks import Field
from d2r.train.delf.views import random_crop, recoloured, scaled_photo, warped_pair

FIELD = Field(16, 15.5, 339.0)
PHOTO = cv2.resize(read_image(bundled_photos().instances[0].photos[0]), (400, 300), interpolation=cv2.INTER_AREA)
BLACK = np.zeros((64, 64, 3), np.uint8)


def gradient() -> np.ndarray:
    """A picture whose red and green encode the position of a pixel."""
    rows, columns = np.mgrid[0:300, 0:400]
    return np.stack([columns * 0.6, rows * 0.8, np.full(rows.shape, 200)], axis=2).astype(np.uint8)


def test_a_match_is_the_same_place_of_the_photo_in_both_views(monkeypatch) -> None:
    monkeypatch.setattr("d2r.train.delf.views.recoloured", lambda photo, random: photo)
    random = np.random.default_rng(1)
    checked = 0
    for _ in range(30):
        pair = warped_pair(gradient(), BLACK, 128, FIELD, random)
        for here in (0, 1):
            cells = pair.matches[here]
            for number in np.flatnonzero(np.isfinite(cells[:, 0])):
                place = FIELD.offset + 16 * np.array([number % 8, number // 8])
                other = FIELD.offset + 16 * cells[number]
                values = [
                    view[tuple(np.clip(point[::-1], 0, 127).astype(int))].astype(int)
                    for view, point in ((pair.views[here], place), (pair.views[1 - here], other))
                ]
                if all(value[2] > 190 for value in values):  # not at the edge of the photo, where colours mix
                    checked += 1
                    assert np.abs(values[0] - values[1]).max() <= 4
    assert checked > 500


def test_a_cell_that_the_other_view_does_not_show_has_no_match() -> None:
    random = np.random.default_rng(2)
    pairs = [warped_pair(PHOTO, BLACK, 128, FIELD, random) for _ in range(20)]
    known = np.array([np.isfinite(pair.matches[..., 0]).mean() for pair in pairs])
    assert known.min() < 0.2
    assert known.max() > 0.5
    found = np.concatenate([pair.matches.reshape(-1, 2) for pair in pairs])
    found = found[np.isfinite(found[:, 0])]
    assert (found > -0.5).all()
    assert (found < 7.5).all()


def test_views_are_a_matter_of_the_generator_alone() -> None:
    first, again, other = (warped_pair(PHOTO, BLACK, 96, FIELD, np.random.default_rng(seed)) for seed in (5, 5, 6))
    assert np.array_equal(first.views, again.views)
    assert np.array_equal(first.matches, again.matches, equal_nan=True)
    assert not np.array_equal(first.views, other.views)


def test_a_crop_is_a_part_of_the_photo(monkeypatch) -> None:
    monkeypatch.setattr("d2r.train.delf.views.recoloured", lambda photo, random: photo)
    shares = []
    for seed in range(20):
        crop = random_crop(gradient(), 64, (0.25, 0.5), np.random.default_rng(seed)).astype(int)
        width = (np.ptp(crop[32, :, 0]) + 1) / 0.6
        height = (np.ptp(crop[:, 32, 1]) + 1) / 0.8
        shares.append(width * height / (300 * 400))
    assert min(shares) == pytest.approx(0.25, abs=0.04)
    assert max(shares) == pytest.approx(0.5, abs=0.06)


def test_other_light_keeps_the_picture() -> None:
    random = np.random.default_rng(0)
    small = scaled_photo(PHOTO, 96)
    for _ in range(10):
        changed = recoloured(small, random)
        assert changed.shape == small.shape
        assert not np.array_equal(changed, small)
        gray = [cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY).ravel() for picture in (small, changed)]
        assert np.corrcoef(*gray)[0, 1] > 0.8
