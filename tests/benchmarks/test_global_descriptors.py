from dataclasses import replace

import numpy as np
import pytest
from benchmarks.ablation import global_descriptors
from benchmarks.ablation.global_descriptors import (
    DIM,
    WEIGHT,
    GlobalDescriptors,
    GlobalSearch,
    Look,
    mixed,
    pool_benchmark,
    without_map,
)
from benchmarks.ablation.pooled import gem, learn_whitening, pool_pictures, rmac, unit

from d2r.evaluate.benchmark import Benchmark, QueryPicture
from d2r.evaluate.extraction import extract
from d2r.features import FeatureError
from d2r.features.network import load_feature_network
from d2r.images import read_image
from d2r.indexing.entry import Recipe, read_description
from d2r.models.onnx import find_file
from local_features import write_features

IN_PROCESS = {"workers": 0, "max_pixels": 10**9, "progress": lambda *_: None}
RECIPE = Recipe("rmac:levels=1", "delf:top=100", 1024, 100)
BOX = (60.0, 40.0, 300.0, 220.0)


def random_descriptors(*counts):
    """Global descriptors of pictures of so many regions, the first being the whole."""
    rng = np.random.default_rng(0)
    rows = [unit(rng.random((count, 16), dtype=np.float32)) for count in counts]
    return [GlobalDescriptors(one, one[-1:]) for one in rows]


@pytest.fixture(scope="module")
def pooled(photo_folder, tmp_path_factory):
    """Three views of the pagoda and an image that cannot be read, the first of them asked for by a box."""
    cache = tmp_path_factory.mktemp("cache")
    paths = [photo_folder / f"pagoda-{number}.jpg" for number in range(3)]
    (cache / "broken.jpg").write_bytes(b"no picture")
    one = Benchmark("one", "instances", (*paths, cache / "broken.jpg"), (QueryPicture(paths[0], BOX),), {})
    extraction = extract(one, RECIPE, cache, **IN_PROCESS)
    arguments = (one, RECIPE, extraction.files, extraction.queries, cache / "pooled")
    return arguments, pool_benchmark(*arguments, **IN_PROCESS)


def test_a_picture_is_pooled_whole_and_by_regions_and_a_query_by_its_box(pooled):
    (benchmark, _, files, *_), (pictures, queries) = pooled
    network = load_feature_network(find_file("delf-efficientnet-lite0", FeatureError))
    image = read_image(benchmark.database[0])
    whole = pool_pictures(network, [image], (gem, rmac))[:, 0]
    np.testing.assert_allclose(pictures[0].gem[0], whole[0], atol=1e-5)
    np.testing.assert_allclose(pictures[0].rmac[0], whole[1], atol=1e-5)
    boxes = read_description(files[0]).boxes
    x1, y1, x2, y2 = boxes[1].astype(int)
    region = pool_pictures(network, [np.ascontiguousarray(image[y1:y2, x1:x2])], (gem,))[0, 0]
    np.testing.assert_allclose(pictures[0].gem[1], region, atol=1e-5)
    assert len(pictures[0].gem) == len(boxes) > 1
    crop = np.ascontiguousarray(image[40:220, 60:300])
    np.testing.assert_allclose(queries[0].gem, pool_pictures(network, [crop], (gem,))[0], atol=1e-5)


def test_a_picture_that_cannot_be_used_is_zero(pooled):
    _, (pictures, _) = pooled
    assert [len(one.gem) > 0 for one in pictures] == [True] * 4
    assert not pictures[3].gem.any()
    assert not pictures[3].rmac.any()


def test_pictures_are_pooled_once(pooled, monkeypatch):
    arguments, (pictures, queries) = pooled
    monkeypatch.setattr(global_descriptors, "pool_pictures", lambda *_: pytest.fail("pooled again"))
    again, asked = pool_benchmark(*arguments, **IN_PROCESS)
    for one, same in zip([*pictures, *queries], [*again, *asked], strict=True):
        np.testing.assert_array_equal(one.gem, same.gem)
        np.testing.assert_array_equal(one.rmac, same.rmac)


def test_crops_are_shrunk_as_those_of_local_features_are(photo_folder, tmp_path):
    path = photo_folder / "pagoda-0.jpg"
    one = Benchmark("one", "instances", (path,), (QueryPicture(path, None),), {})
    found = []
    for side in (1024, 128):
        recipe = replace(RECIPE, regions="whole", max_side=side)
        extraction = extract(one, recipe, tmp_path, **IN_PROCESS)
        folder = tmp_path / str(side)
        found.append(pool_benchmark(one, recipe, extraction.files, extraction.queries, folder, **IN_PROCESS)[1][0])
    assert 0.5 < float(found[0].gem[0] @ found[1].gem[0]) < 0.999


def test_scores_are_inner_products_of_whitened_descriptors(pooled):
    _, (pictures, queries) = pooled
    for look in (Look("gem"), Look("rmac")):
        search = GlobalSearch(look, pictures, queries)
        every = np.concatenate([getattr(one, look.pooling)[:1] for one in pictures])
        whitening = learn_whitening(every[:3], DIM, global_descriptors.SHRINKAGE)
        expected = whitening.apply(every) @ whitening.apply(getattr(queries[0], look.pooling)[:1])[0]
        np.testing.assert_allclose(search.scores(0), expected, atol=1e-5)
        assert search.scores(0)[3] == 0.0
        assert search.descriptors == 4
        assert search.descriptor_bytes == 4 * 4 * whitening.projection.shape[1]


def test_the_best_region_of_a_picture_counts_and_every_one_is_stored():
    pictures, queries = random_descriptors(3, 1, 4), random_descriptors(1, 1)
    look = Look("gem", regions=True)
    search = GlobalSearch(look, pictures, queries)
    every = np.concatenate([one.gem for one in pictures])
    whitening = learn_whitening(every, DIM, global_descriptors.SHRINKAGE)
    products = whitening.apply(every) @ whitening.apply(queries[1].gem)[0]
    expected = [products[:3].max(), products[3], products[4:].max()]
    np.testing.assert_allclose(search.scores(1), expected, atol=1e-5)
    assert search.descriptors == 8
    assert (GlobalSearch(Look("gem"), pictures, queries).descriptors, search.descriptor_bytes) == (3, 4 * 8 * 8)


def test_two_similarities_are_added_or_their_ranks_are_fused():
    local, seen = np.array([0.3, 0.0, 0.1], np.float32), np.array([0.1, 0.9, -0.2], np.float32)
    added = mixed(local, seen, Look("gem", mix="sum"))
    np.testing.assert_allclose(added, [0.3 + WEIGHT * 0.001, WEIGHT * 0.729, 0.1], atol=1e-7)
    fused = mixed(local, seen, Look("gem", mix="ranks"))
    np.testing.assert_allclose(fused, [1 / 61 + 1 / 62, 1 / 61, 1 / 62 + 1 / 63])


def test_features_without_a_map_say_so(tmp_path):
    assert without_map("delf") is None
    assert without_map("rootsift:top=200") == "rootsift:top=200 has no network whose map could be pooled"
    path = write_features(tmp_path / "toy.onnx")
    assert "toy.onnx does not give the backbone's map; export it again" in without_map(f"delf:model={path}")
    assert without_map(f"delf:model={write_features(tmp_path / 'map.onnx', backbone=24)}") is None
