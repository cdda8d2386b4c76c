import cv2
import numpy as np
import pytest

from d2r.datasets.bundled import bundled_photos
from d2r.features import Features, RootSIFT, concatenate
from d2r.images import read_image, shrink


@pytest.fixture(scope="module")
def photo():
    return shrink(read_image(bundled_photos().instances[0].photos[0]), 400)


def test_descriptors_are_unit_length_and_non_negative(photo):
    features = RootSIFT().extract([photo])[0]
    assert features.descriptors.dtype == np.float32
    assert features.descriptors.shape == (len(features), RootSIFT().dim)
    np.testing.assert_allclose(np.linalg.norm(features.descriptors, axis=1), 1, atol=1e-5)
    assert (features.descriptors >= 0).all()


def test_descriptors_are_the_square_roots_of_sift_that_sums_to_one(photo):
    features = RootSIFT(top=50).extract([photo])[0]
    _, raw = cv2.SIFT.create(contrastThreshold=0.02).detectAndCompute(cv2.cvtColor(photo, cv2.COLOR_RGB2GRAY), None)
    expected = np.sqrt(raw / raw.sum(axis=1, keepdims=True))
    products = features.descriptors @ expected.T
    np.testing.assert_allclose(products.max(axis=1), 1, atol=1e-5)


def test_the_strongest_are_kept_and_come_first(photo):
    every, few = RootSIFT(top=100_000).extract([photo])[0], RootSIFT(top=40).extract([photo])[0]
    assert len(few) == 40 < len(every)
    assert (np.diff(every.attention) <= 0).all()
    np.testing.assert_array_equal(few.attention, every.attention[:40])


def test_the_same_picture_gives_the_same_features_alone_or_among_others(photo):
    alone = RootSIFT(top=200).extract([photo])[0]
    among = RootSIFT(top=200).extract([photo[:100], photo, photo[50:]])[1]
    np.testing.assert_array_equal(alone.descriptors, among.descriptors)
    np.testing.assert_array_equal(alone.positions, among.positions)


def test_features_move_with_the_picture(photo):
    moved = np.pad(photo, ((32, 0), (64, 0), (0, 0)), mode="edge")
    before = RootSIFT(top=300).extract([photo])[0]
    after = RootSIFT(top=300).extract([moved])[0]
    nearest = (before.descriptors @ after.descriptors.T).argmax(axis=1)
    shift = np.median(after.positions[nearest] - before.positions, axis=0)
    np.testing.assert_allclose(shift, [64, 32], atol=0.1)


def test_positions_scale_with_the_picture(photo):
    """Pixel centres are at half-integers: what lies at p lies at 2 p when the picture is twice as large."""
    double = cv2.resize(photo, None, fx=2, fy=2, interpolation=cv2.INTER_CUBIC)
    small, large = (RootSIFT(top=400).extract([image])[0] for image in (photo, double))
    products = small.descriptors @ large.descriptors.T
    good = products.max(axis=1) > 0.97
    error = large.positions[products.argmax(axis=1)][good] - 2 * small.positions[good]
    assert good.sum() > 30
    assert np.abs(np.median(error, axis=0)).max() < 0.6


def test_a_picture_without_texture_has_no_features():
    features = RootSIFT().extract([np.full((80, 80, 3), 128, np.uint8)])[0]
    assert len(features) == 0
    assert features.descriptors.shape == (0, 128)


def test_features_can_be_chosen_placed_and_joined():
    one = Features(
        np.array([[1, 2], [3, 4]], np.float32),
        np.array([1, 2], np.float32),
        np.eye(2, 128, dtype=np.float32),
        np.array([9, 8], np.float32),
    )
    placed = one.placed(2.0, 10, 20)
    assert placed.positions.tolist() == [[12, 24], [16, 28]]
    assert placed.scales.tolist() == [2, 4]
    both = concatenate([one, placed, Features.empty(128)])
    assert len(both) == 4
    assert both.take(np.array([3, 0])).positions.tolist() == [[16, 28], [1, 2]]
