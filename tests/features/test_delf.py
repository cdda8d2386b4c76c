import pickle
from dataclasses import replace

import cv2
import numpy as np
import pytest

from d2r.asmk.learning import single_word
from d2r.compose.bundled import bundled_photos
from d2r.describe import describe, describe_query
from d2r.features import EXTRACTORS, Delf, FeatureError, make_extractor, pinned_features
from d2r.features.delf import suppress_near
from d2r.images import read_image, shrink
from d2r.models import onnx as onnx_files
from d2r.regions import make_selector
from d2r.support.registry import SpecError
from d2r.verify.keypoints import make_keypoints
from d2r.verify.verify import verify
from local_features import FIELD, METADATA, STRIDE, write_features

MANY = 100_000


@pytest.fixture(scope="module")
def photo():
    """A photograph whose sides are multiples of four strides, so that levels at 0.5, 1 and 2 are exact."""
    image = shrink(read_image(bundled_photos().instances[0].photos[0]), 400)
    height, width = (side // (4 * STRIDE) * 4 * STRIDE for side in image.shape[:2])
    return np.ascontiguousarray(image[:height, :width])


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return str(write_features(tmp_path_factory.mktemp("models") / "toy.onnx"))


@pytest.fixture
def delf(model):
    return Delf(model, top=MANY)


def keyed(features):
    """Features by their place and scale."""
    keys = np.column_stack([features.positions, features.scales]).round(3)
    return {tuple(key): row for row, key in enumerate(keys.tolist())}


def test_fields_agree_and_are_of_the_network(delf, photo):
    (features,) = replace(delf, top=300).extract([photo])
    assert len(features) == 300
    assert features.descriptors.shape == (300, 24)
    assert delf.dim == 24
    for field in (features.positions, features.scales, features.descriptors, features.attention):
        assert field.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(features.descriptors, axis=1), 1.0, rtol=1e-5)
    assert (np.diff(features.attention) <= 0).all()
    assert set(features.scales.tolist()) == {2.0 * FIELD, FIELD, FIELD / 2}
    assert (features.positions > 0).all()
    assert (features.positions < photo.shape[1::-1]).all()


def test_cells_lie_where_the_file_says(model, photo):
    (features,) = Delf(model, top=MANY, threshold=0.0, scales="1").extract([photo])
    height, width = photo.shape[:2]
    grid = {(STRIDE / 2 + STRIDE * x, STRIDE / 2 + STRIDE * y) for x in range(width // 8) for y in range(height // 8)}
    assert set(map(tuple, features.positions.tolist())) == grid


@pytest.mark.parametrize("centre", [(36, 36), (100, 52), (68, 124)])
def test_a_spot_is_found_at_its_centre_at_every_scale(delf, centre):
    across = np.arange(192) + 0.5
    spot = np.exp(-((across[None, :] - centre[0]) ** 2 + (across[:, None] - centre[1]) ** 2) / 8)
    picture = np.repeat(np.rint(250 * spot).astype(np.uint8)[:, :, None], 3, axis=2)
    (features,) = delf.extract([picture])
    for scale in (0.5, 1.0, 2.0):
        near = features.take(features.scales == np.float32(FIELD / scale))
        assert np.abs(near.positions - centre).max() <= FIELD / scale / 2 + 8  # where filters reach the spot
        assert (np.abs(near.positions - centre) <= STRIDE / scale / 2).all(axis=1).any()


def test_features_move_with_the_picture(delf, photo):
    """After a crop by a multiple of the stride at all scales, cells away from the new edges stay the same."""
    right, down = 8 * STRIDE, 4 * STRIDE
    (whole,) = delf.extract([photo])
    (part,) = delf.extract([np.ascontiguousarray(photo[down:, right:])])
    inside = (part.positions > 2 * FIELD).all(axis=1)
    assert inside.sum() > 500
    places = keyed(whole)
    part = part.take(inside)
    rows = [places[x, y, s] for x, y, s in keyed(part.placed(1.0, right, down))]
    np.testing.assert_array_equal(whole.positions[rows] - part.positions, np.full((len(part), 2), [right, down]))
    np.testing.assert_allclose(whole.descriptors[rows], part.descriptors, atol=1e-5)
    np.testing.assert_allclose(whole.attention[rows], part.attention, rtol=1e-4)


def test_features_scale_with_the_picture(delf, photo):
    double = cv2.resize(photo, None, fx=2, fy=2, interpolation=cv2.INTER_LINEAR)
    (small,) = replace(delf, scales="2").extract([photo])
    (large,) = replace(delf, scales="1").extract([double])
    np.testing.assert_array_equal(large.positions, 2 * small.positions)
    np.testing.assert_array_equal(large.scales, 2 * small.scales)
    np.testing.assert_array_equal(large.descriptors, small.descriptors)


def test_positions_map_back_by_width_and_height_apart(delf):
    """100 x 40 pixels at half scale become 48 x 24: the factors of the two sides differ."""
    picture = np.random.default_rng(0).integers(0, 256, (40, 100, 3), dtype=np.uint8)
    (features,) = replace(delf, scales="0.5", threshold=0.0).extract([picture])
    assert set(features.positions[:, 0].tolist()) == {np.float32((4 + 8 * k) * 100 / 48) for k in range(6)}
    assert set(features.positions[:, 1].tolist()) == {np.float32((4 + 8 * k) * 40 / 24) for k in range(3)}
    np.testing.assert_allclose(features.scales, FIELD / np.sqrt(0.48 * 0.6), rtol=1e-6)


def test_fewer_are_the_strongest_of_many_and_each_pass_the_threshold(delf, photo):
    (every,) = delf.extract([photo])
    (few,) = replace(delf, top=40).extract([photo])
    np.testing.assert_array_equal(few.positions, every.positions[:40])
    np.testing.assert_array_equal(few.descriptors, every.descriptors[:40])
    least = float(every.attention[100])
    (strong,) = replace(delf, threshold=least).extract([photo])
    assert len(strong) == (every.attention >= least).sum() == 101
    assert every.attention.min() >= 0.01 > replace(delf, threshold=0.0).extract([photo])[0].attention.min()


def test_scales_can_be_chosen(delf, photo):
    (features,) = replace(delf, scales="0.5+1").extract([photo])
    assert set(features.scales.tolist()) == {2.0 * FIELD, FIELD}


def test_the_same_picture_has_the_same_features_among_others(delf, photo):
    pictures = [photo[:96, :64], photo[:64, :96], photo, photo[:, :64], photo[32:128, :64]]
    pictures = [np.ascontiguousarray(picture) for picture in pictures]
    together = delf.extract(pictures)
    for picture, found in zip(pictures, together, strict=True):
        (alone,) = delf.extract([picture])
        assert keyed(found).keys() == keyed(alone).keys()
        np.testing.assert_allclose(found.attention, alone.attention, rtol=1e-4)
    assert delf.extract([]) == []


def test_runs_are_as_large_as_was_set(delf, photo, monkeypatch):
    counts = []
    run = onnx_files.OnnxFile.run
    monkeypatch.setattr(onnx_files.OnnxFile, "run", lambda *given: counts.append(len(given[2])) or run(*given))
    pictures = [photo] * 5
    monkeypatch.setattr(onnx_files, "_pixels", None)
    wanted = replace(delf, scales="1").extract(pictures)
    assert counts == [5]
    onnx_files.set_pixels_a_run(2 * photo.shape[0] * photo.shape[1])
    for features, same in zip(replace(delf, scales="1").extract(pictures), wanted, strict=True):
        np.testing.assert_array_equal(features.positions, same.positions)
    assert counts == [5, 2, 2, 1]


def test_equal_features_come_in_the_order_of_the_picture(delf):
    tile = np.random.default_rng(0).integers(0, 256, (STRIDE, STRIDE, 3), dtype=np.uint8)
    (features,) = replace(delf, scales="1").extract([np.tile(tile, (6, 6, 1))])
    inner = features.take((np.abs(features.positions - 24) < 16).all(axis=1))
    assert len(inner) == 16
    assert inner.positions.tolist() == [[12 + 8 * x, 12 + 8 * y] for y in range(4) for x in range(4)]


def test_suppression_keeps_the_strongest_of_what_lies_close(delf, photo):
    thin = replace(delf, nms=1.5 * STRIDE)
    (every,), (kept,) = delf.extract([photo]), thin.extract([photo])
    assert 50 < len(kept) < len(every) / 4
    np.testing.assert_array_equal(kept.positions[0], every.positions[0])
    reach = 1.5 * STRIDE * kept.scales / FIELD  # in pixels of the picture: more at coarser scales
    for row in range(1, len(kept)):
        assert np.linalg.norm(kept.positions[:row] - kept.positions[row], axis=1).min() > reach[row]
    places, stayed = keyed(every), keyed(kept)
    for x, y, scale in sorted(places.keys() - stayed.keys())[:200]:
        distances = np.linalg.norm(kept.positions - [x, y], axis=1)
        stronger = kept.attention >= every.attention[places[x, y, scale]]
        assert distances[stronger].min() <= 1.5 * STRIDE * scale / FIELD + 1e-3
    (few,) = replace(thin, top=20).extract([photo])
    np.testing.assert_array_equal(few.positions, kept.positions[:20])


def test_a_point_stays_whose_only_neighbour_was_dropped_itself():
    points = np.array([[0, 0], [3, 0], [6, 0]], np.float32)
    assert suppress_near(points, np.full(3, 4, np.float32), 9).tolist() == [0, 2]
    assert suppress_near(points, np.array([9, 2, 2], np.float32), 9).tolist() == [0, 1, 2]
    assert suppress_near(points, np.zeros(3, np.float32), 2).tolist() == [0, 1]
    assert suppress_near(points[:0], np.zeros(0, np.float32), 2).tolist() == []


@pytest.mark.parametrize("shape", [(1, 1, 3), (1, 300, 3), (300, 2, 3), (STRIDE, STRIDE, 3), (37, 41, 3)])
def test_pictures_of_any_size_are_described(delf, shape):
    noise = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    (features,) = delf.extract([noise])
    assert len(features)
    assert (features.positions <= [shape[1], shape[0]]).all()
    (nothing,) = delf.extract([np.zeros(shape, np.uint8)])
    assert len(nothing) == 0
    assert nothing.descriptors.shape == (0, 24)


def test_a_picture_and_its_regions_are_described_and_lie_in_place(delf, photo):
    description = describe(photo, make_selector("rmac:levels=2"), replace(delf, top=200), max_side=1024)
    assert np.bincount(description.regions).tolist() == [200] * len(description.boxes)
    for region, (x1, y1, x2, y2) in enumerate(description.boxes):
        positions = description.features.positions[description.regions == region]
        assert (positions >= [x1, y1]).all()
        assert (positions <= [x2, y2]).all()


def test_a_shifted_part_of_a_photograph_is_verified(delf, photo):
    part = describe_query(photo, (64, 32, photo.shape[1], photo.shape[0]), delf, max_side=1024)
    cut = np.ascontiguousarray(photo[32:, 64:])
    (other,) = delf.extract([cut])
    words = single_word(other.descriptors)
    own, its = make_keypoints(part.features, words), make_keypoints(other, words)
    verification = verify(own, its, bits=words.bits)
    assert verification.inliers > 200
    np.testing.assert_allclose(verification.transform, [[1, 0, -64], [0, 1, -32]], atol=0.05)


def test_it_is_made_by_its_specification_and_pickles(model):
    spec = f"delf:model={model},top=50,threshold=0.2,nms=4.0,scales=0.5+1"
    made = make_extractor(spec)
    assert made == Delf(model, 50, 0.2, 4.0, "0.5+1")
    assert EXTRACTORS.spec(made) == spec
    made.extract([np.zeros((20, 20, 3), np.uint8)])
    assert pickle.loads(pickle.dumps(made)) == made


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ("top=0", "top must be 1 or more"),
        ("threshold=nan", "threshold must be a number"),
        ("nms=-1", "nms must be 0 or more"),
        ("nms=inf", "nms must be 0 or more"),
        ("scales=1+big", r"scales must be numbers above 0 .* not '1\+big'"),
        ("scales=0", "scales must be numbers above 0"),
        ("scales=8", "at most 4"),
        ("sha256=12", "sha256 must be 64 digits"),
    ],
)
def test_values_out_of_range_are_refused(options, problem):
    with pytest.raises(SpecError, match=problem):
        make_extractor(f"delf:{options}")


def test_a_pinned_specification_holds_for_its_file_only(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_features(tmp_path / "toy.onnx")
    spec = pinned_features("delf:model=toy.onnx,top=2")
    pinned = make_extractor(spec)
    assert pinned.model == str(tmp_path / "toy.onnx")
    assert len(pinned.sha256) == 64
    assert pinned_features(spec) == spec
    assert pinned.dim == 24
    write_features(tmp_path / "toy.onnx", dim=12)
    with pytest.raises(FeatureError, match=r"toy\.onnx: not the expected file: its SHA-256 is"):
        pinned.extract([np.zeros((20, 20, 3), np.uint8)])
    assert pinned_features("rootsift:top=3") == "rootsift:top=3"


def test_a_path_that_cannot_be_written_in_a_specification_is_refused(tmp_path, monkeypatch):
    (tmp_path / "a,b").mkdir()
    write_features(tmp_path / "a,b" / "toy.onnx")
    monkeypatch.chdir(tmp_path / "a,b")
    with pytest.raises(SpecError, match=r"a,b/toy\.onnx: a path with a comma"):
        pinned_features("delf:model=toy.onnx")


def test_a_model_that_is_not_there_is_named_with_what_to_do():
    with pytest.raises(FeatureError, match=r"best: there is no such model \(there are: .*\)"):
        make_extractor("delf:model=best").extract([np.zeros((20, 20, 3), np.uint8)])
    with pytest.raises(FeatureError, match=r"how-r50: .*fetched with: d2r models pull how-r50"):
        pinned_features("delf:model=how-r50")


def test_the_threshold_and_scales_are_those_of_the_file(tmp_path, photo):
    path = write_features(tmp_path / "toy.onnx", metadata={**METADATA, "threshold": "0.05", "scales": "1.5"})
    (features,) = Delf(str(path), top=MANY).extract([photo])
    assert features.attention.min() >= 0.05
    assert len(set(features.scales.tolist())) == 1
