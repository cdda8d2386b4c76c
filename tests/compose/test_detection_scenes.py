"""Scenes for a detector: decoys are planted like landmarks, boxes are at landmarks, splits share nothing."""

from __future__ import annotations

import json

import cv2
import numpy as np
import pytest

from d2r.boxes import iou
from d2r.compose import detection_scenes, planting
from d2r.compose.detection_scenes import compose_scene, compose_scenes
from d2r.compose.scene_plan import plan_scenes, split_backgrounds
from d2r.datasets.detection import DetectionDataError, DetectionPicture, read_training
from d2r.datasets.ground_truth import ClutterError
from d2r.images import ImageError, read_image
from synthetic import texture, write


@pytest.fixture(scope="session")
def backgrounds(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ordinary")
    for k in range(20):
        write(folder / "deep" / f"{k:02d}.jpg", texture(100 + k))
    return folder


@pytest.fixture(scope="session")
def boxed(tmp_path_factory):
    """Three photographs of a red oval on a texture, with its box."""
    folder = tmp_path_factory.mktemp("boxed")
    found = []
    for k, box in enumerate([(0.25, 0.25, 0.75, 0.75), (0.1, 0.3, 0.9, 0.8), (0.4, 0.0, 0.7, 1.0)]):
        photo = texture(k)
        x1, y1, x2, y2 = np.array(box) * (320, 240, 320, 240)
        cv2.ellipse(photo, (((x1 + x2) / 2, (y1 + y2) / 2), (x2 - x1, y2 - y1), 0), (250, 0, 0), -1)
        found.append(DetectionPicture(write(folder / f"{k}.jpg", photo), (box,)))
    return found


@pytest.fixture(scope="session")
def plan(boxed, backgrounds):
    return plan_scenes(boxed, split_backgrounds(backgrounds), 3)


def test_a_decoy_takes_the_place_and_the_size_of_the_landmark_that_could_have_been_there(plan):
    for index in range(6):
        (landmark,) = compose_scene(plan, index, ["landmark"]).objects
        (decoy,) = compose_scene(plan, index, ["decoy"]).objects
        assert np.allclose(landmark.box, decoy.box, atol=2)
        assert landmark.source.parent.name.startswith("boxed")
        assert decoy.source in plan.backgrounds


def test_the_box_of_a_landmark_is_where_it_is_seen(plan, monkeypatch):
    monkeypatch.setattr(detection_scenes, "_HIDDEN", 0.0)
    monkeypatch.setattr(planting, "_match_tone", lambda texture, around, alpha: texture)  # red stays red
    for index in range(8):
        scene = compose_scene(plan, index, ["landmark"])
        picture = scene.picture.astype(int)
        red = (picture[..., 0] - picture[..., 1:].max(axis=2) > 90).astype(np.uint8)
        x, y, width, height, _ = max(cv2.connectedComponentsWithStats(red)[2][1:], key=lambda blob: blob[4])
        seen = (x, y, x + width, y + height)
        assert iou(seen, scene.objects[0].box)[0, 0] > 0.8


def test_pictures_hold_landmarks_and_decoys_in_all_sizes_that_do_not_lie_outside(plan):
    landmarks, decoys, shares = [], [], []
    for index in range(60):
        scene = compose_scene(plan, index)
        height, width = scene.picture.shape[:2]
        landmarks.append(sum(one.kind == "landmark" for one in scene.objects))
        decoys.append(sum(one.kind == "decoy" for one in scene.objects))
        for one in scene.objects:
            x1, y1, x2, y2 = one.box
            assert 0 <= x1 < x2 <= width
            assert 0 <= y1 < y2 <= height
            shares.append((x2 - x1) * (y2 - y1) / (width * height))
    assert {0, 1} <= set(landmarks)
    assert {0, 1, 2} <= set(decoys)
    assert any(n == 0 and m > 0 for n, m in zip(landmarks, decoys, strict=True))
    assert min(shares) < 0.1
    assert max(shares) > 0.55


def test_a_set_is_read_as_training_data_and_its_decoys_are_told_apart(plan, tmp_path):
    calls = []
    compose_scenes(plan, 12, tmp_path / "set", workers=0, progress=lambda *call: calls.append(call))
    pictures = read_training(str(tmp_path / "set" / "boxes.json"))
    document = json.loads((tmp_path / "set" / "boxes.json").read_text())
    assert [picture.path.name for picture in pictures] == [f"{k:05d}.jpg" for k in range(12)]
    scenes = [compose_scene(plan, k) for k in range(12)]
    for picture, scene in zip(pictures, scenes, strict=True):
        height, width = read_image(picture.path).shape[:2]
        size = (width, height, width, height)
        wanted = [np.array(one.box) / size for one in scene.objects if one.kind == "landmark"]
        assert np.allclose(np.array(picture.boxes).reshape(-1, 4), np.array(wanted).reshape(-1, 4), atol=1e-3)
    assert len(document["decoys"]) == sum(one.kind == "decoy" for scene in scenes for one in scene.objects)
    assert calls == [("pictures", k + 1, 12) for k in range(12)]
    assert [path.name for path in tmp_path.iterdir()] == ["set"]


def test_the_number_of_workers_changes_nothing(plan, tmp_path):
    compose_scenes(plan, 5, tmp_path / "one", workers=0)
    compose_scenes(plan, 5, tmp_path / "two", workers=2)
    files = sorted(path.relative_to(tmp_path / "one") for path in (tmp_path / "one").rglob("*.*"))
    assert len(files) == 6
    for file in files:
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()


def test_splits_share_no_background(backgrounds):
    training, validation = (split_backgrounds(backgrounds, validation=held_out) for held_out in (False, True))
    assert len(training) + len(validation) == 20
    assert not set(training) & set(validation)
    assert 0 < len(validation) < len(training)


def test_backgrounds_that_show_landmarks_can_be_left_out(backgrounds):
    both = [
        path for held_out in (False, True) for path in split_backgrounds(backgrounds, ["*/1?.jpg"], validation=held_out)
    ]
    assert sorted(path.name for path in both) == [f"{k:02d}.jpg" for k in range(10)]
    with pytest.raises(ClutterError, match=r"no picture to leave out matches '\*castle\*'"):
        split_backgrounds(backgrounds, ["*castle*"])
    with pytest.raises(ClutterError, match="none of its 20 pictures is left for training"):
        split_backgrounds(backgrounds, ["*"])


def test_a_photograph_of_a_landmark_is_no_background(boxed):
    with pytest.raises(ClutterError, match="no background is left"):
        plan_scenes(boxed, [picture.path for picture in boxed], 0)


def test_pictures_without_a_box_are_nothing_to_plant(backgrounds):
    with pytest.raises(DetectionDataError, match="no picture has a box"):
        plan_scenes([DetectionPicture(backgrounds / "a.jpg", ())], split_backgrounds(backgrounds), 0)


def test_a_folder_that_holds_something_is_refused_and_kept(plan, tmp_path):
    write(tmp_path / "set" / "mine.jpg", texture(0, 40, 30))
    with pytest.raises(ClutterError, match="set: not empty; compose into a new folder"):
        compose_scenes(plan, 1, tmp_path / "set", workers=0)
    assert [path.name for path in (tmp_path / "set").iterdir()] == ["mine.jpg"]


def test_after_a_failure_nothing_is_left(plan, tmp_path):
    def fail(stage, done, total):
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        compose_scenes(plan, 4, tmp_path / "set", workers=0, progress=fail)
    assert not list(tmp_path.iterdir())


def test_a_broken_background_is_skipped_and_a_broken_landmark_is_named(boxed, plan, tmp_path):
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"nothing")
    mixed = plan_scenes(boxed, [broken, *plan.backgrounds[:1]], 0)
    skipped = compose_scenes(mixed, 6, tmp_path / "set", workers=0)
    assert [one.path for one in skipped] == [str(broken)]
    with pytest.raises(ImageError, match=r"broken\.jpg"):
        compose_scene(plan_scenes([DetectionPicture(broken, ((0, 0, 1, 1),))], plan.backgrounds, 0), 0, ["landmark"])
