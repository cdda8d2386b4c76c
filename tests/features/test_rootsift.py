from dataclasses import replace

import cv2
import numpy as np
import pytest

from d2r.compose.bundled import bundled_photos
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


def blob(x, y, sigma, size=96):
    """A round bright spot with its centre at (x, y); pixel centres are at half-integers."""
    across = np.arange(size) + 0.5
    spot = np.exp(-((across[None, :] - x) ** 2 + (across[:, None] - y) ** 2) / (2 * sigma**2))
    return np.repeat(np.rint(20 + 200 * spot).astype(np.uint8)[:, :, None], 3, axis=2)


@pytest.mark.parametrize("sigma", [2, 4, 8])
@pytest.mark.parametrize("centre", [(48, 48), (45.25, 50.5), (51.3, 44.8)])
def test_positions_are_the_true_centres_to_a_fraction_of_a_pixel(sigma, centre):
    features = RootSIFT().extract([blob(*centre, sigma)])[0]
    np.testing.assert_allclose(features.positions[0], centre, atol=0.12)


@pytest.mark.parametrize("sigma", [2, 4, 8])
def test_scales_grow_with_what_is_described(sigma):
    features = RootSIFT().extract([blob(48, 48, sigma)])[0]
    assert features.scales[0] == pytest.approx(1.77 * sigma, rel=0.05)


def test_features_of_a_crop_are_those_of_the_picture_moved(photo):
    whole = RootSIFT(top=5000).extract([photo])[0]
    crop = RootSIFT(top=200).extract([np.ascontiguousarray(photo[40:, 64:])])[0].placed(1.0, 64, 40)
    likeness = crop.descriptors @ whole.descriptors.T
    same = likeness.max(axis=1) > 0.999
    error = np.abs(whole.positions[likeness.argmax(axis=1)][same] - crop.positions[same])
    assert same.mean() > 0.5
    assert np.median(error) < 0.01
    assert np.quantile(error, 0.9) < 0.25


def test_fields_agree_in_number_and_kind_and_positions_lie_in_the_picture(photo):
    features = RootSIFT(top=500).extract([photo])[0]
    assert len(features) == 500
    assert features.positions.shape == (500, 2)
    for field in (features.scales, features.attention):
        assert field.shape == (500,)
        assert field.dtype == np.float32
        assert (field > 0).all()
    assert features.positions.dtype == np.float32
    assert (features.positions >= 0).all()
    assert (features.positions <= [photo.shape[1], photo.shape[0]]).all()
    assert RootSIFT().dim == 128


def test_a_lower_contrast_keeps_more_features(photo):
    counts = [len(RootSIFT(top=100_000, contrast=contrast).extract([photo])[0]) for contrast in (0.08, 0.04, 0.02)]
    assert 0 < counts[0] < counts[1] < counts[2]


def test_no_pictures_give_no_features():
    assert RootSIFT().extract([]) == []


def test_features_move_with_the_picture(photo):
    moved = np.pad(photo, ((32, 0), (64, 0), (0, 0)), mode="edge")
    before = RootSIFT(top=300).extract([photo])[0]
    after = RootSIFT(top=300).extract([moved])[0]
    nearest = (before.descriptors @ after.descriptors.T).argmax(axis=1)
    shift = np.median(after.positions[nearest] - before.positions, axis=0)
    np.testing.assert_allclose(shift, [64, 32], atol=0.1)


def test_positions_scale_with_the_picture(photo):
    """Pixel centres are at half-integers: a point p becomes 2 p if the picture is twice as large."""
    double = cv2.resize(photo, None, fx=2, fy=2, interpolation=cv2.INTER_CUBIC)
    small, large = (RootSIFT(top=400).extract([image])[0] for image in (photo, double))
    products = small.descriptors @ large.descriptors.T
    good = products.max(axis=1) > 0.97
    error = large.positions[products.argmax(axis=1)][good] - 2 * small.positions[good]
    assert good.sum() > 30
    assert np.abs(np.median(error, axis=0)).max() < 0.1


def test_angles_turn_with_the_picture_from_x_towards_y(photo):
    upright = RootSIFT(top=100).extract([photo])[0]
    turned = RootSIFT(top=300).extract([np.ascontiguousarray(np.rot90(photo, -1))])[0]  # clockwise: x goes to y
    assert upright.angles.dtype == np.float32
    moved = np.stack([photo.shape[0] - upright.positions[:, 1], upright.positions[:, 0]], axis=1)
    distances = np.linalg.norm(moved[:, None] - turned.positions[None], axis=2)
    alike = (upright.descriptors @ turned.descriptors.T > 0.95) & (distances < 1)
    rows, columns = np.nonzero(alike)
    assert len(rows) > 30
    difference = np.angle(np.exp(1j * (turned.angles[columns] - upright.angles[rows] - np.pi / 2)))
    assert np.abs(np.median(difference)) < 0.02
    assert np.mean(np.abs(difference) < 0.2) > 0.9


@pytest.mark.parametrize("shape", [(80, 80, 3), (1, 1, 3), (1, 300, 3), (300, 2, 3)])
def test_a_picture_without_texture_has_no_features(shape):
    features = RootSIFT().extract([np.full(shape, 128, np.uint8)])[0]
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
    assert one.placed((2.0, 8.0), 10, 20).positions.tolist() == [[12, 36], [16, 52]]
    assert one.placed((2.0, 8.0), 10, 20).scales.tolist() == [4, 8]
    both = concatenate([one, placed, Features.empty(128)])
    assert len(both) == 4
    assert both.take(np.array([3, 0])).positions.tolist() == [[16, 28], [1, 2]]
    assert both.angles is None
    turned = replace(one, angles=np.array([0.5, 1.5], np.float32))
    assert turned.placed(2.0, 10, 20).angles.tolist() == [0.5, 1.5]
    assert concatenate([turned, Features.empty(128), turned]).take(np.array([3, 0])).angles.tolist() == [1.5, 0.5]
    assert concatenate([Features.empty(128)]).angles is None
