import pickle
from dataclasses import replace

import cv2
import numpy as np
import pytest

from d2r.boxes import iou
from d2r.compose.bundled import bundled_photos
from d2r.describe import describe
from d2r.features import make_extractor
from d2r.images import read_image, shrink
from d2r.regions import SELECTORS, Detector, DetectorError, make_selector, pinned_regions
from d2r.regions.detector import squash, suppress
from d2r.support.registry import SpecError
from detectors import SIDE, write_detector

BOXES = [(0.1, 0.2, 0.5, 0.6), (0.12, 0.2, 0.5, 0.6), (0.6, 0.5, 0.9, 1.0), (0.0, 0.0, 0.3, 0.3)]
SCORES = [0.9, 0.8, 0.5, 0.2]


@pytest.fixture(scope="module")
def photo():
    return shrink(read_image(bundled_photos().instances[0].photos[0]), 400)


@pytest.fixture
def detector(tmp_path):
    return Detector(str(write_detector(tmp_path / "toy.onnx", BOXES, SCORES)), threshold=0.3)


def test_boxes_are_in_pixels_of_the_picture_and_best_first(detector):
    found = detector.select(np.zeros((200, 400, 3), np.uint8))
    np.testing.assert_allclose(found.boxes, [[40, 40, 200, 120], [240, 100, 360, 200]], rtol=1e-6)
    np.testing.assert_allclose(found.scores, [0.9, 0.5], rtol=1e-6)
    assert found.boxes.dtype == found.scores.dtype == np.float32


def test_threshold_number_and_overlap_decide_what_is_kept(detector):
    picture = np.zeros((200, 400, 3), np.uint8)
    assert len(replace(detector, threshold=0.1).select(picture)) == 3
    assert len(replace(detector, threshold=0.95).select(picture)) == 0
    assert replace(detector, threshold=0.95).select(picture).boxes.shape == (0, 4)
    assert len(replace(detector, top=1).select(picture)) == 1
    assert replace(detector, nms=0.99, threshold=0.1).select(picture).scores.tolist() == pytest.approx(SCORES)


def test_the_order_of_the_network_does_not_matter(tmp_path, detector):
    turned = Detector(str(write_detector(tmp_path / "turned.onnx", BOXES[::-1], SCORES[::-1])), threshold=0.3)
    picture = np.zeros((200, 400, 3), np.uint8)
    np.testing.assert_array_equal(turned.select(picture).boxes, detector.select(picture).boxes)


def test_boxes_end_at_the_edges_and_have_an_area(tmp_path):
    boxes = [(-0.2, -0.1, 0.5, 1.3), (1.0, 0.2, 1.2, 0.5), (0.7, 0.6, 0.6, 0.9)]
    detector = Detector(str(write_detector(tmp_path / "toy.onnx", boxes, [0.9, 0.8, 1.5])))
    found = detector.select(np.zeros((244, 333, 3), np.uint8))
    np.testing.assert_allclose(found.boxes, [[0, 0, 166.5, 244]])


def test_a_box_that_is_the_whole_picture_is_a_detection_but_no_region(tmp_path):
    boxes = [(0.0, 0.0, 1.0, 0.98), *BOXES[::2]]
    detector = Detector(str(write_detector(tmp_path / "toy.onnx", boxes, [0.95, 0.9, 0.5])), top=1)
    picture = np.zeros((200, 400, 3), np.uint8)
    np.testing.assert_allclose(detector.select(picture).boxes, [[40, 40, 200, 120]], rtol=1e-6)
    np.testing.assert_allclose(detector.detect([picture])[0].boxes, [[0, 0, 400, 196]], rtol=1e-6)


@pytest.mark.parametrize("batch", ["N", 1])
def test_several_pictures_have_the_boxes_that_each_has_alone(tmp_path, photo, batch):
    """The redder the picture, the higher the scores; sizes differ."""
    path = write_detector(tmp_path / "toy.onnx", BOXES, [1.0, 0.9, 0.8, 0.7], by_red=True, batch=batch)
    detector = Detector(str(path), threshold=0.01, nms=1.0)
    red = np.zeros((50, 70, 3), np.uint8)
    red[..., 0] = 255
    pictures = [photo, red, np.zeros((30, 20, 3), np.uint8), photo[:100]]
    together = detector.detect(pictures)
    assert [len(one) for one in together] == [4, 4, 0, 4]
    assert together[1].scores[0] == 1.0
    for picture, found in zip(pictures, together, strict=True):
        (alone,) = detector.detect([picture])
        np.testing.assert_allclose(found.boxes, alone.boxes, rtol=1e-6)
        np.testing.assert_allclose(found.scores, alone.scores, rtol=1e-6)
    assert detector.detect([]) == []


@pytest.mark.parametrize("shape", [(1, 1, 3), (1, 900, 3), (3000, 40, 3), (SIDE, SIDE, 3)])
def test_pictures_of_any_size_are_looked_at(detector, shape):
    noise = np.random.default_rng(0).integers(0, 255, shape, dtype=np.uint8)
    found = detector.select(noise)
    assert len(found) == 2
    assert (found.boxes <= [shape[1], shape[0]] * 2).all()


def test_squashing_averages_what_shrinks_and_interpolates_what_grows(photo):
    small = squash(photo, 64)
    assert small.shape == (64, 64, 3)
    assert small.dtype == np.uint8
    np.testing.assert_array_equal(small, cv2.resize(photo, (64, 64), interpolation=cv2.INTER_AREA))
    np.testing.assert_array_equal(squash(small, 320), cv2.resize(small, (320, 320), interpolation=cv2.INTER_LINEAR))


def test_suppression_keeps_a_box_whose_rival_was_dropped_itself():
    boxes = np.array([[0, 0, 10, 10], [4, 0, 14, 10], [8, 0, 18, 10]], np.float32)
    scores = np.array([0.7, 0.8, 0.9], np.float32)
    assert iou(boxes, boxes)[0, 1] > 0.4 > iou(boxes, boxes)[0, 2]
    assert suppress(boxes, scores, 0.4).tolist() == [2, 0]
    assert suppress(boxes, np.array([0.5, 0.5, 0.5], np.float32), 1.0).tolist() == [0, 1, 2]
    assert suppress(boxes[:0], scores[:0], 0.4).tolist() == []


def test_a_picture_is_described_in_the_regions_that_were_detected(detector, photo):
    description = describe(photo, detector, make_extractor("rootsift"), max_side=400)
    assert description.box_scores.tolist() == pytest.approx([1.0, 0.9, 0.5])
    assert set(description.regions.tolist()) == {0, 1, 2}


def test_a_detector_is_made_by_its_specification_and_pickles(detector):
    spec = f"detector:model={detector.model},threshold=0.2,top=3"
    made = make_selector(spec)
    assert made == replace(detector, threshold=0.2, top=3)
    assert SELECTORS.spec(made) == spec
    made.select(np.zeros((20, 20, 3), np.uint8))
    assert pickle.loads(pickle.dumps(made)) == made


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ("threshold=1.5", "threshold must be 0 to 1"),
        ("threshold=nan", "threshold must be 0 to 1"),
        ("top=0", "top must be 1 or more"),
        ("nms=-1", "nms must be 0 to 1"),
        ("sha256=12", "sha256 must be 64 digits"),
    ],
)
def test_values_out_of_range_are_refused(options, problem):
    with pytest.raises(SpecError, match=problem):
        make_selector(f"detector:{options}")


def test_a_pinned_specification_holds_for_its_file_only(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_detector(tmp_path / "toy.onnx")
    spec = pinned_regions("detector:model=toy.onnx,top=2")
    pinned = make_selector(spec)
    assert pinned.model == str(tmp_path / "toy.onnx")
    assert len(pinned.sha256) == 64
    assert pinned_regions(spec) == spec
    picture = np.zeros((20, 20, 3), np.uint8)
    assert len(pinned.select(picture)) == 1
    write_detector(tmp_path / "toy.onnx", scores=[0.5])
    with pytest.raises(DetectorError, match=r"toy\.onnx: not the expected file: its SHA-256 is"):
        pinned.select(picture)
    assert pinned_regions("rmac:levels=1") == "rmac:levels=1"


def test_a_path_that_cannot_be_written_in_a_specification_is_refused(tmp_path, monkeypatch):
    (tmp_path / "a,b").mkdir()
    write_detector(tmp_path / "a,b" / "toy.onnx")
    monkeypatch.chdir(tmp_path / "a,b")
    with pytest.raises(SpecError, match=r"a,b/toy\.onnx: a path with a comma"):
        pinned_regions("detector:model=toy.onnx")


def test_a_model_that_is_not_shipped_is_named_with_those_that_are():
    with pytest.raises(DetectorError, match=r"best: there is no such model \(there are: .*\), and the name of a file"):
        make_selector("detector:model=best").select(np.zeros((20, 20, 3), np.uint8))
