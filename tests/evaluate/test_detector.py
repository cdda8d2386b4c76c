from pathlib import Path

import numpy as np
import pytest

from d2r.boxes import as_boxes
from d2r.datasets.detection import DetectionDataError, DetectionPicture
from d2r.evaluate.detector import Judged, detector_as_json, judge_source, scoring_spec, worst_failures
from d2r.regions import Detector, Regions, make_selector
from detectors import write_detector
from synthetic import texture, write

QUIET = {"max_pixels": 10**9, "progress": lambda *_: None}
MIDDLE = (0.25, 0.25, 0.75, 0.75)
CORNER = (0.0, 0.0, 0.25, 0.25)


@pytest.fixture
def photos(tmp_path):
    for k, (width, height) in enumerate([(60, 40), (40, 60), (50, 50)]):
        write(tmp_path / f"{k}.jpg", texture(k, width, height))
    return tmp_path


def pictures(folder, *boxes):
    return [DetectionPicture(folder / f"{k}.jpg", boxes) for k, boxes in enumerate(boxes)]


def test_a_detector_that_finds_every_box_first_scores_one(photos):
    detector = Detector(str(write_detector(photos / "toy.onnx", [MIDDLE, CORNER], [0.9, 0.1])), threshold=0.01)
    scores = judge_source(detector, "toys", pictures(photos, (MIDDLE,), (MIDDLE,), (MIDDLE,)), **QUIET).scores
    assert (scores.ap50, scores.pictures, scores.boxes) == (pytest.approx(1.0), 3, 3)
    assert scores.recall50.tolist() == [1.0, 1.0, 1.0]


def test_recall_counts_the_boxes_that_are_found_second(photos):
    detector = Detector(str(write_detector(photos / "toy.onnx", [MIDDLE, CORNER], [0.9, 0.1])), threshold=0.01)
    one = judge_source(detector, "toys", pictures(photos, (MIDDLE,), (CORNER,), ()), **QUIET)
    assert one.scores.recall50.tolist() == [0.5, 1.0, 1.0]
    assert one.scores.ap50 < 1.0
    assert detector_as_json(one)["recall50"] == {"1": 0.5, "2": 1.0, "5": 1.0}
    assert one.milliseconds > 0


def test_a_landmark_that_fills_its_picture_is_found(photos):
    detector = Detector(str(write_detector(photos / "toy.onnx", [(0, 0, 1, 1)], [0.9])))
    assert judge_source(detector, "x", pictures(photos, ((0, 0, 1, 1),)), **QUIET).scores.ap50 == pytest.approx(1.0)


def test_other_selectors_are_judged_too(photos):
    one = judge_source(make_selector("rmac:levels=2"), "x", pictures(photos, (MIDDLE,)), **QUIET)
    assert one.scores.boxes == 1


def test_a_picture_that_cannot_be_read_is_left_out_and_listed(photos):
    (photos / "1.jpg").write_bytes(b"no picture")
    one = judge_source(make_selector("rmac"), "x", pictures(photos, (MIDDLE,), (MIDDLE,), ()), **QUIET)
    assert (one.scores.pictures, one.scores.boxes) == (2, 1)
    ((path, reason),) = one.skipped
    assert path == str(photos / "1.jpg")
    assert "not a picture" in reason


def test_pictures_without_any_box_cannot_be_scored(photos):
    (photos / "0.jpg").write_bytes(b"")
    with pytest.raises(DetectionDataError, match=r"toys: no picture that can be read .* \(2 pictures without a box, 1"):
        judge_source(make_selector("rmac"), "toys", pictures(photos, (MIDDLE,), (), ()), **QUIET)


@pytest.mark.parametrize(
    ("spec", "wanted"),
    [
        ("detector", "detector:threshold=0.01,top=100"),
        ("detector:model=x.onnx", "detector:model=x.onnx,threshold=0.01,top=100"),
        ("detector:top=5,model=x.onnx", "detector:top=5,model=x.onnx,threshold=0.01"),
        ("detector:threshold=0.3,top=5", "detector:threshold=0.3,top=5"),
        ("rmac:levels=2", "rmac:levels=2"),
    ],
)
def test_a_detector_is_scored_with_its_unsure_boxes_unless_told_otherwise(spec, wanted):
    assert scoring_spec(spec) == wanted
    make_selector(scoring_spec(spec))


def test_the_worst_failures_are_confident_ghosts_and_missed_boxes():
    def judged(name, true, found, score):
        boxes = as_boxes(found)
        return Judged(Path(name), as_boxes(true), Regions(boxes, np.full(len(boxes), score, np.float32)))

    box = [0, 0, 10, 10]
    rows = [
        judged("right", [box], [[0, 0, 10, 9]], 0.9),
        judged("poor", [box], [[0, 0, 10, 4]], 0.9),
        judged("ghost", [], [box], 0.8),
        judged("faint ghost", [], [box], 0.1),
        judged("missed", [box], [], 0.9),
        judged("elsewhere", [box], [[20, 20, 30, 30]], 0.9),
        judged("empty", [], [], 0.9),
    ]
    assert [one.path.name for one in worst_failures(rows, 10)] == ["missed", "elsewhere", "ghost", "poor"]
    assert len(worst_failures(rows, 2)) == 2
