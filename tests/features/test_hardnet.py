from __future__ import annotations

import numpy as np
import pytest

from d2r.compose.bundled import bundled_photos
from d2r.engine import Engine
from d2r.features import EXTRACTORS, FeatureError, HardNet, RootSIFT, make_extractor, pinned_features
from d2r.images import read_image, shrink
from d2r.options import SearchOptions
from patch_networks import METADATA, write_patches


@pytest.fixture(scope="module")
def photo():
    return shrink(read_image(bundled_photos().instances[0].photos[0]), 400)


@pytest.fixture
def model(tmp_path):
    return write_patches(tmp_path / "toy.onnx")


def test_key_points_are_those_of_sift_and_descriptors_of_unit_length(photo, model):
    features = HardNet(str(model), top=200).extract([photo])[0]
    sift = RootSIFT(top=200).extract([photo])[0]
    for name in ("positions", "scales", "angles", "attention"):
        np.testing.assert_array_equal(getattr(features, name), getattr(sift, name))
    assert features.descriptors.shape == (200, 40)
    np.testing.assert_allclose(np.linalg.norm(features.descriptors, axis=1), 1, atol=1e-4)


def test_a_picture_turned_by_a_quarter_is_described_the_same(photo, model):
    turned = np.ascontiguousarray(np.rot90(photo))
    extractor = HardNet(str(model), top=300)
    first, second = extractor.extract([photo, turned])
    places = np.stack([first.positions[:, 1], photo.shape[1] - first.positions[:, 0]], axis=1)
    distances = np.linalg.norm(places[:, None] - second.positions, axis=2)
    turns = first.angles[:, None] - second.angles - np.pi / 2
    # several features may share a position, with other orientations
    same = (distances < 0.6) & (np.abs(np.angle(np.exp(1j * turns))) < 0.1)
    rows, columns = np.nonzero(same)
    assert len(np.unique(rows)) > 150
    products = (first.descriptors[rows] * second.descriptors[columns]).sum(axis=1)
    assert np.median(products) > 0.95


def test_a_picture_without_texture_has_no_features(model):
    features = HardNet(str(model)).extract([np.full((90, 120, 3), 77, np.uint8)])[0]
    assert len(features) == 0
    assert features.descriptors.shape == (0, 40)


def test_an_index_remembers_the_network_and_refuses_another(photo_folder, model, tmp_path):
    spec = pinned_features(f"hardnet:model={model}")
    assert len(make_extractor(spec).sha256) == 64
    with Engine.create(tmp_path / "index", features=f"hardnet:model={model}", regions="whole", num_words=64) as engine:
        engine.sync(photo_folder, workers=0)
        assert engine.recipe.features == spec
        picture = photo_folder / "pagoda-0.jpg"
        answer = engine.search(picture, SearchOptions(top=3))
        assert answer.results[0].path == str(picture)
    write_patches(model, dim=40, metadata={**METADATA, "arch": "another"})
    with Engine.open(tmp_path / "index") as engine, pytest.raises(FeatureError, match="not the expected file"):
        engine.search(picture, SearchOptions(top=3))


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"metadata": {**METADATA, "d2r": "detector-1"}}, "not a file of patch descriptors of this project"),
        ({"metadata": {**METADATA, "width": "wide"}}, "must give width as a number above 0, not 'wide'"),
        ({"metadata": {**METADATA, "width": "inf"}}, "must give width as a number above 0"),
        ({"metadata": {"d2r": METADATA["d2r"], "width": "6"}}, "must name the architecture"),
        ({"sides": ("N", 16, 16, 1), "outputs": ("N", 40)}, "another shape"),
        ({"sides": ("N", 16, "W")}, "squares of one size"),
        ({"sides": (4, 16, 16)}, "squares of one size"),
        ({"broken": True}, "not finite: training went wrong"),
    ],
)
def test_a_file_of_another_shape_is_named(photo, tmp_path, options, problem):
    file = write_patches(tmp_path / "odd.onnx", **options)
    with pytest.raises(FeatureError, match=r"odd\.onnx") as caught:
        HardNet(str(file)).extract([photo])
    assert problem in str(caught.value)


@pytest.mark.parametrize(
    ("spec", "problem"),
    [("top=0", "top must be 1"), ("contrast=nan", "contrast must be 0 or more"), ("sha256=abc", "64 digits")],
)
def test_options_out_of_range_are_refused(spec, problem):
    with pytest.raises(ValueError, match=problem):
        EXTRACTORS.make(f"hardnet:{spec}")
