import subprocess
import sys

import numpy as np
import pytest

from d2r.boxes import area, iou
from d2r.datasets.bundled import bundled_photos
from d2r.images import read_image, shrink
from d2r.regions import SelectiveSearch, Whole


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
    assert (boxes[:, 2:] <= [width + 1e-3, height + 1e-3]).all()
    assert (area(boxes) >= 0.0099 * width * height).all()
    overlap = iou(boxes, boxes) - np.eye(len(boxes))
    assert overlap.max() < 0.9


def test_fewer_proposals_are_the_first_of_more(photo):
    np.testing.assert_array_equal(SelectiveSearch(2).select(photo).boxes, SelectiveSearch(5).select(photo).boxes[:2])


def test_a_picture_has_the_same_proposals_every_time_and_in_every_process(photo):
    code = (
        "from d2r.datasets.bundled import bundled_photos; from d2r.images import read_image, shrink;"
        "from d2r.regions import SelectiveSearch;"
        "p = shrink(read_image(bundled_photos().instances[0].photos[0]), 500);"
        "print(SelectiveSearch(5).select(p).boxes.tolist())"
    )
    first = SelectiveSearch(5).select(photo).boxes.tolist()
    SelectiveSearch(5).select(np.ascontiguousarray(photo[::-1]))
    assert SelectiveSearch(5).select(photo).boxes.tolist() == first
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert other.stdout.strip() == str(first)


@pytest.mark.parametrize("shape", [(1, 1, 3), (8, 300, 3), (15, 15, 3)])
def test_a_tiny_picture_has_no_proposals(shape):
    assert len(SelectiveSearch().select(np.zeros(shape, np.uint8))) == 0


def test_whole_selects_nothing_beside_the_picture(photo):
    assert Whole().select(photo).boxes.shape == (0, 4)
