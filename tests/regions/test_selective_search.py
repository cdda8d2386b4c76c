import sys

import cv2
import numpy as np
import pytest

from d2r.boxes import area, iou
from d2r.compose.bundled import bundled_photos
from d2r.images import read_image, shrink
from d2r.regions import SelectiveSearch, Whole
from programs import run


@pytest.fixture(scope="module")
def photo():
    return shrink(read_image(bundled_photos().instances[0].photos[0]), 500)


def test_proposals_are_inside_distinct_and_at_most_as_many_as_asked(photo):
    height, width = photo.shape[:2]
    regions = SelectiveSearch(top=8).select(photo)
    boxes = regions.boxes
    assert 4 <= len(boxes) <= 8
    assert len(regions.scores) == len(boxes)
    assert (boxes[:, :2] >= 0).all()
    assert (boxes[:, 2:] <= [width, height]).all()
    assert (area(boxes) >= 0.0099 * width * height).all()
    overlap = iou(boxes, boxes) - np.eye(len(boxes))
    assert overlap.max() < 0.9


def test_proposals_of_a_picture_whose_sides_do_not_divide_end_at_its_edges(photo):
    """For 400 x 244 pixels the small copy has 195 rows, and 195 times 244 / 195 in float32 is above 244."""
    assert np.float32(195) * np.float32(244 / 195) > 244
    picture = cv2.resize(photo, (400, 244), interpolation=cv2.INTER_AREA)
    boxes = SelectiveSearch(top=50).select(picture).boxes
    assert boxes[:, 3].max() == 244
    assert boxes[:, 2].max() <= 400


def test_the_number_asked_for_is_a_limit(photo):
    assert [len(SelectiveSearch(top).select(photo)) for top in (1, 3)] == [1, 3]


def test_a_thing_that_stands_out_is_found():
    picture = np.full((240, 320, 3), 40, np.uint8)
    picture[60:180, 100:220] = (230, 60, 40)
    boxes = SelectiveSearch(5).select(picture).boxes
    assert iou(boxes, [[100, 60, 220, 180]]).max() > 0.8


def test_a_large_picture_has_its_proposals_in_its_own_pixels(photo):
    large = cv2.resize(photo, None, fx=3, fy=3, interpolation=cv2.INTER_CUBIC)
    boxes = SelectiveSearch(8).select(large).boxes
    assert boxes[:, 2].max() > photo.shape[1]
    assert (boxes[:, 2:] <= [large.shape[1], large.shape[0]]).all()


def test_fewer_proposals_are_the_first_of_more(photo):
    np.testing.assert_array_equal(SelectiveSearch(2).select(photo).boxes, SelectiveSearch(5).select(photo).boxes[:2])


def test_a_picture_has_the_same_proposals_every_time_and_in_every_process(photo):
    code = (
        "from d2r.compose.bundled import bundled_photos; from d2r.images import read_image, shrink;"
        "from d2r.regions import SelectiveSearch;"
        "p = shrink(read_image(bundled_photos().instances[0].photos[0]), 500);"
        "print(SelectiveSearch(5).select(p).boxes.tolist())"
    )
    first = SelectiveSearch(5).select(photo).boxes.tolist()
    SelectiveSearch(5).select(np.ascontiguousarray(photo[::-1]))
    assert SelectiveSearch(5).select(photo).boxes.tolist() == first
    other = run(sys.executable, "-c", code)
    assert other.stdout.strip() == str(first), other.stderr


@pytest.mark.parametrize("shape", [(1, 1, 3), (8, 300, 3), (15, 15, 3), (15, 400, 3), (3000, 40, 3)])
def test_a_tiny_picture_has_no_proposals(shape):
    noise = np.random.default_rng(0).integers(0, 255, shape, dtype=np.uint8)
    regions = SelectiveSearch().select(noise)
    assert regions.boxes.shape == (0, 4)
    assert regions.scores.shape == (0,)


def test_a_picture_without_any_thing_has_no_proposals():
    assert len(SelectiveSearch().select(np.full((120, 160, 3), 90, np.uint8))) == 0


def test_whole_selects_nothing_beside_the_picture(photo):
    assert Whole().select(photo).boxes.shape == (0, 4)
