import numpy as np
import pytest

from d2r.boxes import BoxError
from d2r.datasets.bundled import bundled_photos
from d2r.describe import describe, describe_query
from d2r.features import make_extractor
from d2r.images import read_image, shrink
from d2r.regions import make_selector

EXTRACTOR = make_extractor("rootsift:top=300")


@pytest.fixture(scope="module")
def photo():
    return shrink(read_image(bundled_photos().instances[0].photos[0]), 400)


def agreement(found, reference, pixels):
    """Share of positions that have a reference position within some pixels."""
    distances = np.linalg.norm(found[:, None] - reference[None], axis=2)
    return (distances.min(axis=1) < pixels).mean()


def test_features_of_regions_lie_where_the_same_detail_is_in_the_whole_picture(photo):
    extractor = make_extractor("rootsift:top=5000")
    description = describe(photo, make_selector("rmac:levels=2"), extractor, max_side=1024)
    whole = description.features.positions[description.regions == 0]
    assert len(description.boxes) > 5
    for region in range(1, len(description.boxes)):
        positions = description.features.positions[description.regions == region]
        x1, y1, x2, y2 = description.boxes[region]
        assert (positions >= [x1, y1]).all()
        assert (positions <= [x2, y2]).all()
        assert agreement(positions, whole, 1.0) > 0.8


def test_the_whole_picture_is_the_first_region(photo):
    description = describe(photo, make_selector("whole"), EXTRACTOR, max_side=1024)
    height, width = photo.shape[:2]
    assert description.boxes.tolist() == [[0, 0, width, height]]
    assert (description.width, description.height) == (width, height)
    assert not description.regions.any()
    assert len(description.features) == 300


def test_positions_are_in_picture_pixels_also_where_the_picture_is_scaled_down_first(photo):
    full = describe(photo, make_selector("whole"), make_extractor("rootsift:top=5000"), max_side=1024)
    small = describe(photo, make_selector("whole"), make_extractor("rootsift:top=100"), max_side=200)
    assert small.features.positions[:, 0].max() > 220
    assert agreement(small.features.positions, full.features.positions, 3.0) > 0.8


def test_a_query_box_is_described_alone_and_in_the_frame_of_its_picture(photo):
    query = describe_query(photo, (100.4, 50, 300, 9000), EXTRACTOR, max_side=1024)
    assert query.boxes[0].tolist() == pytest.approx([100.4, 50, 300, photo.shape[0]])
    assert (query.features.positions >= [100, 50]).all()
    assert (query.features.positions[:, 0] <= 300).all()
    whole = describe_query(photo, None, make_extractor("rootsift:top=5000"), max_side=1024)
    assert agreement(query.features.positions, whole.features.positions, 1.0) > 0.8


def test_a_bad_query_box_is_refused(photo):
    with pytest.raises(BoxError, match="swapped"):
        describe_query(photo, (50, 50, 10, 60), EXTRACTOR, max_side=1024)


@pytest.mark.parametrize("size", [(1, 1), (3, 200), (60, 60)])
def test_pictures_too_small_or_flat_for_features_have_none(size):
    flat = np.full((*size, 3), 90, np.uint8)
    description = describe(flat, make_selector("rmac"), EXTRACTOR, max_side=1024)
    assert len(description.features) == 0
    assert description.features.descriptors.shape == (0, 128)
    assert len(description.regions) == 0


def test_a_tiny_box_is_described_without_error(photo):
    description = describe_query(photo, (10, 10, 12, 12), EXTRACTOR, max_side=1024)
    assert description.boxes.tolist() == [[10, 10, 12, 12]]
    assert len(description.features) == 0
