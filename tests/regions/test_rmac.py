import numpy as np
import pytest

from d2r.regions import make_selector
from d2r.regions.rmac import rmac_boxes


@pytest.mark.parametrize(
    ("size", "counts"),
    [
        ((512, 384), (2, 8, 20)),
        ((1024, 768), (2, 8, 20)),
        ((384, 512), (2, 8, 20)),
        ((9, 12), (2, 8, 20)),
        ((512, 512), (0, 4, 13)),
        ((17, 17), (0, 4, 13)),
        ((190, 100), (3, 11, 26)),  # overlaps of 10 or 55 %: the latter is nearer to 40
        ((1, 1), (0, 0, 0)),
    ],
)
def test_the_grid_has_the_known_number_of_boxes(size, counts):
    assert tuple(len(rmac_boxes(*size, levels)) for levels in (1, 2, 3)) == counts


@pytest.mark.parametrize("size", [(640, 480), (100, 999), (3000, 40), (7, 5), (2, 1), (1, 400), (100_000, 2)])
@pytest.mark.parametrize("levels", [1, 3, 5])
def test_boxes_are_squares_of_the_level_inside_the_picture(size, levels):
    boxes = rmac_boxes(*size, levels)
    sides = boxes[:, 2:] - boxes[:, :2]
    assert (boxes[:, :2] >= 0).all()
    assert (boxes[:, 2:] <= size).all()
    assert (sides[:, 0] == sides[:, 1]).all()
    allowed = {max(1.0, float(np.floor(2 * min(size) / (level + 1)))) for level in range(1, levels + 1)}
    assert set(sides[:, 0].tolist()) <= allowed
    assert not (boxes == [0, 0, *size]).all(axis=1).any()
    assert len(boxes) > 0


def test_deeper_grids_begin_with_the_shallower_ones_and_reach_every_edge():
    boxes = rmac_boxes(640, 480, 3)
    np.testing.assert_array_equal(boxes[:8], rmac_boxes(640, 480, 2))
    assert boxes[:, 0].min() == boxes[:, 1].min() == 0
    assert boxes[:, 2].max() == 640
    assert boxes[:, 3].max() == 480


def test_a_small_grid_is_the_one_worked_by_hand():
    """For 12 x 9: side 9 at 0 and 3; side 6 at 0, 3, 6 along the width and 0, 3 along the height."""
    expected = [
        [0, 0, 9, 9], [3, 0, 12, 9],
        [0, 0, 6, 6], [3, 0, 9, 6], [6, 0, 12, 6], [0, 3, 6, 9], [3, 3, 9, 9], [6, 3, 12, 9],
    ]  # fmt: skip
    assert rmac_boxes(12, 9, 2).tolist() == expected


@pytest.mark.parametrize("size", [(640, 480), (1000, 300), (1000, 150)])
def test_a_picture_on_its_side_has_the_same_grid_on_its_side(size):
    lying, standing = rmac_boxes(*size, 3), rmac_boxes(*size[::-1], 3)
    assert sorted(lying.tolist()) == sorted(standing[:, [1, 0, 3, 2]].tolist())


@pytest.mark.parametrize("size", [(640, 480), (480, 640), (512, 512), (900, 300)])
def test_every_level_covers_the_whole_picture(size):
    seen = 0
    for level in (1, 2, 3):
        boxes = rmac_boxes(*size, level)
        covered = np.zeros(size[::-1], bool)
        for x1, y1, x2, y2 in boxes[seen:].astype(int):
            covered[y1:y2, x1:x2] = True
        seen = len(boxes)
        if (size, level) != ((512, 512), 1):  # in a square picture, level 1 is the picture itself
            assert covered.mean() > 0.98


def test_neighbours_along_the_longer_side_overlap_by_about_forty_percent():
    first, second = rmac_boxes(512, 384, 1)
    assert (first[2] - second[0]) / 384 == pytest.approx(0.4, abs=0.3)


def test_regions_have_score_one():
    regions = make_selector("rmac:levels=2").select(np.zeros((480, 640, 3), np.uint8))
    np.testing.assert_array_equal(regions.boxes, rmac_boxes(640, 480, 2))
    assert regions.scores.dtype == regions.boxes.dtype == np.float32
    assert regions.scores.tolist() == [1.0] * len(regions.boxes)
