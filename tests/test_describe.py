import cv2
import numpy as np
import pytest

from d2r.boxes import BoxError
from d2r.compose.bundled import bundled_photos
from d2r.describe import describe, describe_query
from d2r.features import make_extractor
from d2r.images import read_image, shrink
from d2r.regions import Regions, make_selector

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


def test_regions_of_selective_search_lie_in_place_too(photo):
    """Their corners are not whole pixels: a crop begins at the pixel that the corner lies in."""
    description = describe(photo, make_selector("selective-search"), make_extractor("rootsift:top=5000"), max_side=1024)
    whole = description.features.positions[description.regions == 0]
    inside = description.features.positions[description.regions > 0]
    assert len(inside) > 100
    assert agreement(inside, whole, 1.0) > 0.8


class Plain:
    """An extractor that knows nothing of views, as one of another package may be."""

    dim = EXTRACTOR.dim

    def extract(self, images):
        return EXTRACTOR.extract(images)


@pytest.mark.parametrize("extractor", [EXTRACTOR, Plain()], ids=["views", "crops"])
def test_features_come_region_by_region_and_say_which(photo, extractor):
    selector = make_selector("rmac:levels=2")
    description = describe(photo, selector, extractor, max_side=1024)
    np.testing.assert_array_equal(description.boxes[1:], selector.select(photo).boxes)
    np.testing.assert_array_equal(description.box_scores, np.ones(len(description.boxes), np.float32))
    assert description.regions.dtype == np.int32
    assert (np.diff(description.regions) >= 0).all()
    assert set(description.regions.tolist()) == set(range(len(description.boxes)))
    assert np.bincount(description.regions).max() <= 300
    for region in (0, 3):
        found = description.features.take(description.regions == region)
        x1, y1, x2, y2 = description.boxes[region]
        assert ((found.positions >= [x1, y1]) & (found.positions <= [x2, y2])).all()
        assert (np.diff(found.attention) <= 0).all()
        assert len(found) > 250


def test_without_views_a_region_is_a_picture_of_its_own(photo):
    description = describe(photo, make_selector("rmac:levels=2"), Plain(), max_side=1024)
    x1, y1, x2, y2 = description.boxes[3].astype(int)
    alone = EXTRACTOR.extract([np.ascontiguousarray(photo[y1:y2, x1:x2])])[0]
    found = description.features.take(description.regions == 3)
    np.testing.assert_array_equal(found.descriptors, alone.descriptors)
    np.testing.assert_allclose(found.positions, alone.placed(1.0, x1, y1).positions, atol=1e-4)


@pytest.mark.parametrize("spec", ["rootsift:top=200", "hardnet:top=200"])
def test_a_region_that_is_no_finer_has_the_strongest_features_of_the_picture_that_lie_in_it(photo, spec):
    description = describe(photo, make_selector("rmac:levels=1"), make_extractor(spec), max_side=1024)
    whole = make_extractor(spec.replace("200", "5000")).extract([photo])[0]
    for region, (x1, y1, x2, y2) in enumerate(description.boxes):
        x, y = whole.positions.T
        expected = whole.take(np.flatnonzero((x >= x1) & (x < x2) & (y >= y1) & (y < y2))[:200])
        found = description.features.take(description.regions == region)
        np.testing.assert_array_equal(found.positions, expected.positions)
        np.testing.assert_allclose(found.descriptors, expected.descriptors, atol=1e-5)


def test_a_region_is_described_at_its_own_resolution(photo):
    """A region that is not above the limit keeps all its detail, though the picture around it is scaled down."""
    side = min(photo.shape[:2])
    large, selector = make_extractor("rootsift:top=5000"), make_selector("rmac:levels=2")
    description = describe(photo, selector, large, max_side=side * 2 // 3)
    region = next(row for row, box in enumerate(description.boxes) if box[2] - box[0] <= side * 2 // 3)
    x1, y1, x2, y2 = description.boxes[region]
    whole = description.features.positions[description.regions == 0]
    inside = ((whole >= [x1, y1]) & (whole <= [x2, y2])).all(axis=1)
    assert (description.regions == region).sum() > 1.5 * inside.sum()


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


@pytest.mark.parametrize("axis", [0, 1])
def test_a_long_narrow_picture_scaled_to_whole_pixels_keeps_its_positions_along_both_sides(axis):
    """Of 3,000 x 53 pixels the limit of 1,000 makes 1,000 x 18: the factors of the two sides are not the same."""
    picture = np.full((3000, 53, 3), 30, np.uint8)
    for y in (200, 2800):
        cv2.circle(picture, (26, y), 12, (220, 220, 220), -1)
    picture = picture if axis == 0 else np.ascontiguousarray(picture.transpose(1, 0, 2))
    positions = describe(picture, make_selector("whole"), EXTRACTOR, max_side=1000).features.positions
    for centre in (200.5, 2800.5):
        wanted = np.array([26.5, centre] if axis == 0 else [centre, 26.5])
        assert np.linalg.norm(positions - wanted, axis=1).min() < 1.5


def test_scales_are_in_picture_pixels_too(photo):
    double = cv2.resize(photo, None, fx=2, fy=2, interpolation=cv2.INTER_LINEAR)
    small = describe(photo, make_selector("whole"), EXTRACTOR, max_side=max(photo.shape)).features
    large = describe(double, make_selector("whole"), EXTRACTOR, max_side=max(photo.shape)).features
    assert np.median(large.scales) == pytest.approx(2 * np.median(small.scales), rel=0.2)


def test_each_region_keeps_its_box_and_score_and_the_whole_picture_scores_one(photo):
    class Two:
        def select(self, image):
            boxes = np.array([[10, 20, 200, 180], [50.5, 60.25, 300, 220]], np.float32)
            return Regions(boxes, np.array([0.75, 0.25], np.float32))

    description = describe(photo, Two(), EXTRACTOR, max_side=1024)
    height, width = photo.shape[:2]
    assert description.boxes.tolist() == [[0, 0, width, height], [10, 20, 200, 180], [50.5, 60.25, 300, 220]]
    assert description.box_scores.tolist() == [1, 0.75, 0.25]
    assert description.boxes.dtype == description.box_scores.dtype == np.float32
    assert (np.diff(description.regions) >= 0).all()
    assert set(description.regions.tolist()) == {0, 1, 2}


def test_a_query_box_is_described_alone_and_in_the_frame_of_its_picture(photo):
    query = describe_query(photo, (100.4, 50, 300, 9000), EXTRACTOR, max_side=1024)
    assert query.boxes[0].tolist() == pytest.approx([100.4, 50, 300, photo.shape[0]])
    assert (query.features.positions >= [100, 50]).all()
    assert (query.features.positions[:, 0] <= 300).all()
    whole = describe_query(photo, None, make_extractor("rootsift:top=5000"), max_side=1024)
    assert agreement(query.features.positions, whole.features.positions, 1.0) > 0.8
    assert not query.regions.any()
    assert (query.width, query.height) == (photo.shape[1], photo.shape[0])


def test_a_query_box_that_is_scaled_down_keeps_the_frame_of_its_picture(photo):
    query = describe_query(photo, (120, 40, 360, 280), make_extractor("rootsift:top=80"), max_side=120)
    full = describe_query(photo, None, make_extractor("rootsift:top=5000"), max_side=1024)
    assert query.features.positions[:, 0].max() > 250
    assert agreement(query.features.positions, full.features.positions, 3.0) > 0.8


@pytest.mark.parametrize(
    ("box", "message"),
    [
        ((50, 50, 10, 60), "swapped"),
        ((50, 50, 50, 60), "empty"),
        ((5000, 50, 5010, 60), "outside the picture"),
        ((1, 2, 3), "expected four numbers"),
    ],
)
def test_a_bad_query_box_is_refused(photo, box, message):
    with pytest.raises(BoxError, match=message):
        describe_query(photo, box, EXTRACTOR, max_side=1024)


@pytest.mark.parametrize("regions", ["rmac", "selective-search"])
@pytest.mark.parametrize("size", [(1, 1), (3, 200), (60, 60)])
def test_pictures_too_small_or_flat_for_features_have_none(size, regions):
    flat = np.full((*size, 3), 90, np.uint8)
    description = describe(flat, make_selector(regions), EXTRACTOR, max_side=1024)
    assert description.boxes[0].tolist() == [0, 0, size[1], size[0]]
    assert len(description.features) == 0
    assert description.features.descriptors.shape == (0, 128)
    assert len(description.regions) == 0


@pytest.mark.parametrize("box", [(10, 10, 12, 12), (10, 10, 11, 11), (0, 0, 300, 1), (399, 0, 400, 50)])
def test_a_tiny_box_is_described_without_error(photo, box):
    description = describe_query(photo, box, EXTRACTOR, max_side=1024)
    assert description.boxes.tolist() == [list(box)]
    assert len(description.features) == 0


def test_a_query_box_may_be_described_with_regions_inside_it(photo):
    box = (40, 30, 280, 230)
    alone = describe_query(photo, box, EXTRACTOR, max_side=1024)
    regions = describe_query(photo, box, EXTRACTOR, max_side=1024, selector=make_selector("rmac:levels=1"))
    np.testing.assert_array_equal(regions.boxes[0], alone.boxes[0])
    assert len(regions.boxes) == len(regions.box_scores) == 3
    assert (regions.boxes[1:, :2] >= [40, 30]).all()
    assert (regions.boxes[1:, 2:] <= [280, 230]).all()
    own = regions.features.take(regions.regions == 0)
    np.testing.assert_array_equal(own.descriptors, alone.features.descriptors)
    for region, (x1, y1, x2, y2) in enumerate(regions.boxes.tolist()):
        positions = regions.features.positions[regions.regions == region]
        assert len(positions) > 20
        assert ((positions >= [x1, y1]) & (positions <= [x2, y2])).all()
