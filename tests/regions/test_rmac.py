import numpy as np
import pytest

from d2r.regions import make_selector
from d2r.regions.rmac import rmac_boxes


@pytest.mark.parametrize(
    ("size", "counts"), [((512, 384), (2, 8, 20)), ((9, 12), (2, 8, 20)), ((512, 512), (0, 4, 13))]
)
def test_the_grid_has_the_known_number_of_boxes(size, counts):
    assert tuple(len(rmac_boxes(*size, levels)) for levels in (1, 2, 3)) == counts


@pytest.mark.parametrize("size", [(640, 480), (100, 999), (3000, 40), (7, 5), (1, 1), (1, 400)])
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


def test_deeper_grids_begin_with_the_shallower_ones_and_reach_every_edge():
    boxes = rmac_boxes(640, 480, 3)
    np.testing.assert_array_equal(boxes[:8], rmac_boxes(640, 480, 2))
    assert boxes[:, 0].min() == boxes[:, 1].min() == 0
    assert boxes[:, 2].max() == 640
    assert boxes[:, 3].max() == 480


def test_neighbours_along_the_longer_side_overlap_by_about_forty_percent():
    first, second = rmac_boxes(512, 384, 1)
    assert (first[2] - second[0]) / 384 == pytest.approx(0.4, abs=0.3)


def test_regions_have_score_one():
    regions = make_selector("rmac:levels=2").select(np.zeros((480, 640, 3), np.uint8))
    assert regions.scores.tolist() == [1.0] * len(regions.boxes)
