import numpy as np
import pytest
from benchmarks.ablation.pooled import gem, learn_whitening, pool_pictures, rmac, unit

from conftest import view_of
from d2r.compose.bundled import bundled_photos
from d2r.features import FeatureError
from d2r.features.network import load_feature_network
from d2r.images import read_image, shrink
from d2r.models.onnx import find_file
from d2r.regions.rmac import rmac_boxes
from local_features import write_features

NOISE = np.random.default_rng(0).random((5, 6, 8), dtype=np.float32)


@pytest.fixture(scope="module")
def network():
    return load_feature_network(find_file("delf-efficientnet-lite0", FeatureError))


@pytest.fixture(scope="module")
def photos():
    """Seven photographs of different things."""
    return [shrink(read_image(path), 256) for path in bundled_photos().backgrounds[:7]]


def direction(vector):
    return vector / np.linalg.norm(vector)


def test_the_generalised_mean_is_the_mean_at_1_and_the_largest_value_in_the_end():
    np.testing.assert_allclose(gem(NOISE, 1.0), direction(NOISE.mean(axis=(1, 2))), rtol=1e-5)
    np.testing.assert_allclose(gem(NOISE, 3.0), direction((NOISE**3).mean(axis=(1, 2)) ** (1 / 3)), rtol=1e-5)
    np.testing.assert_allclose(gem(NOISE, 2000.0), direction(NOISE.max(axis=(1, 2))), rtol=5e-3)
    assert gem(NOISE).dtype == np.float32


def test_a_pooled_map_is_of_unit_length_whatever_its_size():
    for factor in (1e-6, 1.0, 1e6):
        for pool in (gem, rmac):
            np.testing.assert_allclose(pool(factor * NOISE), pool(NOISE), rtol=1e-4)
            assert np.linalg.norm(pool(factor * NOISE)) == pytest.approx(1.0, abs=1e-6)
            assert not pool(np.zeros_like(NOISE)).any()


def test_the_sum_over_regions_has_the_whole_map_and_every_box_of_the_grid():
    boxes = [(0, 0, 8, 6), *rmac_boxes(8, 6, 2).astype(int).tolist()]
    expected = sum(direction(NOISE[:, y1:y2, x1:x2].max(axis=(1, 2))) for x1, y1, x2, y2 in boxes)
    np.testing.assert_allclose(rmac(NOISE, levels=2), direction(expected), rtol=1e-5)


@pytest.mark.parametrize("shape", [(5, 1, 1), (5, 1, 9), (5, 2, 1), (5, 3, 3)])
def test_maps_of_any_size_are_pooled(shape):
    for pool in (gem, rmac):
        assert np.linalg.norm(pool(NOISE[:, :1, :1] + np.zeros(shape, np.float32))) == pytest.approx(1.0, abs=1e-6)


@pytest.mark.parametrize("p", [0.0, -1.0, float("nan")])
def test_an_exponent_that_is_not_above_0_is_refused(p):
    with pytest.raises(ValueError, match="p must be above 0"):
        gem(NOISE, p)


def test_a_picture_is_pooled_at_every_scale_and_the_same_among_others(network, photos):
    together = pool_pictures(network, photos, (gem, rmac))
    assert together.shape == (2, 7, network.channels)
    np.testing.assert_allclose(np.linalg.norm(together, axis=2), 1.0, rtol=1e-5)
    for number in (0, 3):
        alone = pool_pictures(network, photos[number : number + 1], (gem, rmac))
        np.testing.assert_allclose(together[:, number], alone[:, 0], atol=1e-5)
    scales = [pool_pictures(network, photos[:1], (gem,), (scale,))[0, 0] for scale in (0.5, 1.0)]
    np.testing.assert_allclose(
        pool_pictures(network, photos[:1], (gem,), (0.5, 1.0))[0, 0], direction(sum(scales)), atol=1e-5
    )
    assert pool_pictures(network, [], (gem,)).shape == (1, 0, network.channels)


def test_another_view_of_a_thing_is_nearer_than_other_things(network, photos):
    pagoda = shrink(read_image(bundled_photos().instances[0].photos[0]), 256)
    found = pool_pictures(network, [pagoda, view_of(pagoda, 6, 1.1), *photos], (gem, rmac))
    for descriptors in found:
        products = descriptors[1:] @ descriptors[0]
        assert products.argmax() == 0


def test_a_network_without_the_map_cannot_be_pooled(tmp_path):
    network = load_feature_network(write_features(tmp_path / "toy.onnx"))
    with pytest.raises(FeatureError, match=r"toy\.onnx: it does not give the backbone's features: export it again"):
        pool_pictures(network, [np.zeros((32, 32, 3), np.uint8)], (gem,))


def test_whitened_descriptors_have_no_common_direction_and_equal_variances():
    rng = np.random.default_rng(1)
    skewed = (rng.standard_normal((4000, 6)) * [8, 4, 2, 1, 0.5, 0.25] + 10).astype(np.float32)
    whitening = learn_whitening(skewed, 4, 0.0)
    projected = (skewed - whitening.mean) @ whitening.projection
    np.testing.assert_allclose(projected.T @ projected / len(skewed), np.eye(4), atol=1e-2)
    assert abs(np.corrcoef(projected[:, 0], skewed[:, 0])[0, 1]) > 0.99
    applied = whitening.apply(skewed)
    assert (applied.shape, applied.dtype) == ((4000, 4), np.float32)
    np.testing.assert_allclose(np.linalg.norm(applied, axis=1), 1.0, rtol=1e-5)


def test_shrinkage_lets_directions_of_small_variance_count_less():
    rng = np.random.default_rng(1)
    skewed = (rng.standard_normal((4000, 4)) * [8, 4, 2, 0.1]).astype(np.float32)
    lengths = [np.linalg.norm(learn_whitening(skewed, 4, s).projection, axis=0) for s in (0.0, 0.1, 10.0)]
    ratios = [length[-1] / length[0] for length in lengths]
    assert ratios[0] > ratios[1] > ratios[2]
    assert ratios[2] == pytest.approx(1.0, abs=0.2)


def test_a_descriptor_of_nothing_stays_nothing_and_few_descriptors_give_few_dimensions():
    whitening = learn_whitening(unit(NOISE.reshape(-1, 8)[:5]), 16, 0.1)
    assert whitening.projection.shape == (8, 5)
    assert not whitening.apply(np.zeros((2, 8), np.float32)).any()


@pytest.mark.parametrize(
    ("given", "problem"),
    [((0, 4, 0.1), "one descriptor or more"), ((3, 0, 0.1), "dim must be 1 or more"), ((3, 4, -0.1), "shrinkage")],
)
def test_a_whitening_that_cannot_be_learned_is_refused(given, problem):
    count, dim, shrinkage = given
    with pytest.raises(ValueError, match=problem):
        learn_whitening(np.ones((count, 4), np.float32), dim, shrinkage)
