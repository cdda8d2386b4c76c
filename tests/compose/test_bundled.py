"""The demo's collection: real photographs from installed libraries, no network, known answers."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from d2r.boxes import check_box
from d2r.compose import bundled
from d2r.compose.bundled import BundledError, DemoCollection, bundled_photos, demo_collection
from d2r.datasets.ground_truth import load_set
from d2r.features import Features, RootSIFT
from d2r.images import read_image
from programs import run

pytest.importorskip("skimage", reason="the demo's photographs are in scikit-image: pip install '.[demo]'")
pytest.importorskip("sklearn", reason="the demo's photographs are in scikit-learn: pip install '.[demo]'")


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> DemoCollection:
    return demo_collection(tmp_path_factory.mktemp("demo"), seed=3)


def test_every_bundled_photograph_is_read_and_none_is_both_instance_and_background():
    found = bundled_photos()
    instances = [photo for instance in found.instances for photo in instance.photos]
    assert len(found.instances) == 6
    assert not set(instances) & set(found.backgrounds)
    for path in [*instances, *found.backgrounds]:
        assert min(read_image(path).shape[:2]) > 100


def test_the_photographs_are_found_without_importing_the_libraries_and_so_without_a_download():
    code = (
        "import sys; from d2r.compose.bundled import bundled_photos; bundled_photos();"
        "sys.exit(any(name in sys.modules for name in ('skimage', 'sklearn', 'pooch')))"
    )
    done = run(sys.executable, "-c", code)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("missing", ["skimage", "sklearn"])
def test_without_the_libraries_the_error_says_what_to_install(monkeypatch, missing):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == missing else find(name))
    with pytest.raises(BundledError, match=rf"{missing}.*pip install 'detect-to-retrieve\[demo\]'"):
        bundled_photos()


def test_a_photograph_that_the_library_no_longer_brings_is_named(monkeypatch):
    monkeypatch.setattr(bundled, "_BACKGROUNDS", ("skimage/gone.png",))
    with pytest.raises(BundledError, match=r"gone\.png.*pip install 'detect-to-retrieve\[demo\]'"):
        bundled_photos()


def test_the_collection_is_sixty_jpeg_pictures_of_at_most_640_pixels(demo):
    photos = sorted(demo.photos.iterdir())
    assert len(photos) == 60
    assert {path.suffix for path in photos} == {".jpg"}
    assert max(max(read_image(path).shape) for path in photos) <= 640


def test_the_query_is_outside_the_collection_and_its_box_inside_the_query(demo):
    assert demo.photos not in demo.query.parents
    height, width = read_image(demo.query).shape[:2]
    assert check_box(demo.box, width, height) == pytest.approx(demo.box)


def test_there_are_five_answers_and_they_are_in_the_collection(demo):
    assert len(set(demo.answers)) == 5
    assert set(demo.answers) <= set(demo.photos.iterdir())


def test_no_photograph_is_skipped_and_all_six_things_are_planted_five_times(demo):
    whole = load_set(demo.photos.parent)
    assert whole.skipped == ()
    assert [len(query.positives) for query in whole.queries] == [5] * 6


def test_the_same_seed_gives_the_same_collection_also_over_the_old_one(demo):
    before = {path: path.read_bytes() for path in demo.photos.iterdir()}
    assert demo_collection(demo.photos.parent, seed=3) == demo
    assert {path: path.read_bytes() for path in demo.photos.iterdir()} == before


def consistent_matches(query: Features, other: Features) -> int:
    """The number of inliers of one affine transform from a query to another picture."""
    likeness = query.descriptors @ other.descriptors.T
    ranked = np.sort(likeness, axis=1)
    sure = 1 - ranked[:, -1] < 0.7 * (1 - ranked[:, -2])
    if sure.sum() < 4:
        return 0
    there = other.positions[likeness.argmax(axis=1)[sure]]
    _, agree = cv2.estimateAffine2D(query.positions[sure], there, ransacReprojThreshold=8.0)
    return int(agree.sum())


def test_the_answers_show_the_query_and_other_pictures_do_not(demo):
    def described(path: Path) -> Features:
        return RootSIFT().extract([read_image(path)])[0]

    x1, y1, x2, y2 = map(int, demo.box)
    query = RootSIFT().extract([np.ascontiguousarray(read_image(demo.query)[y1:y2, x1:x2])])[0]
    others = [path for path in sorted(demo.photos.iterdir()) if path not in demo.answers][:5]
    right = [consistent_matches(query, described(path)) for path in demo.answers]
    wrong = [consistent_matches(query, described(path)) for path in others]
    assert min(right) > 2 * max(wrong)
