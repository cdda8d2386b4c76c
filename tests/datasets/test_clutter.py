"""The clutter benchmark: the same bytes from the same seed, true boxes, no decoy among the answers."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from d2r.boxes import iou
from d2r.datasets.clutter import compose_picture, compose_set, plan_set, read_backgrounds, read_instances
from d2r.datasets.clutter_set import DIFFICULTIES, ClutterConfig, ClutterError, ClutterSet, Instance, load_set
from d2r.datasets.planting import plant, textured_box
from d2r.features import RootSIFT
from d2r.images import Picture, encode_jpeg, read_image

SMALL = dataclasses.replace(DIFFICULTIES["medium"], views=3, decoy_pictures=2, distractors=2, side=320)
MILD = dataclasses.replace(
    DIFFICULTIES["easy"], tilt=10, roll=5, stretch=1.05, lighting=0.2, blur=0, noise=0, share=(0.15, 0.25)
)


def shared_data() -> Path:
    """The folder of shared photographs; the test skips, naming it, where there is none."""
    beside = Path(__file__).resolve().parents[3] / "shared" / "data"
    folder = Path(os.environ.get("D2R_DATA", beside))
    if not folder.is_dir():
        pytest.skip(f"no shared data: set D2R_DATA, or put it in {beside}")
    return folder


def texture(seed: int, width: int = 320, height: int = 240) -> Picture:
    """A picture with detail at every scale, unlike that of any other seed."""
    rng = np.random.default_rng(seed)
    total = np.zeros((height, width, 3), np.float32)
    for cell in (3, 6, 12, 24, 48):
        coarse = rng.uniform(-1, 1, (height // cell + 2, width // cell + 2, 3)).astype(np.float32)
        total += cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    return np.clip(128 + 60 * total, 0, 255).astype(np.uint8)


def write(path: Path, picture: Picture) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encode_jpeg(picture, 95))
    return path


def seen_from(facade: Picture, corners: list[tuple[int, int]], around: int) -> Picture:
    """A photograph of a facade: it fills the quadrilateral ``corners``, other texture is around it."""
    height, width = facade.shape[:2]
    flat = np.array([(0, 0), (width, 0), (width, height), (0, height)], np.float32)
    photo = texture(around)
    matrix = cv2.getPerspectiveTransform(flat, np.array(corners, np.float32))
    cv2.warpPerspective(facade, matrix, (photo.shape[1], photo.shape[0]), photo, borderMode=cv2.BORDER_TRANSPARENT)
    return photo


VIEWS = (
    [(30, 20), (290, 20), (290, 220), (30, 220)],
    [(50, 30), (270, 15), (280, 215), (40, 200)],
    [(20, 10), (260, 40), (270, 190), (30, 230)],
)


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Instance], list[Path]]:
    """Four flat instances and twelve backgrounds."""
    folder = tmp_path_factory.mktemp("sources")
    for k in range(4):
        write(folder / "instances" / f"thing{k}.jpg", texture(k))
    for k in range(12):
        write(folder / "backgrounds" / "nested" / f"{k:02d}.jpg", texture(100 + k))
    return read_instances(folder / "instances"), read_backgrounds(folder / "backgrounds")


@pytest.fixture(scope="module")
def composed(sources: tuple[list[Instance], list[Path]], tmp_path_factory: pytest.TempPathFactory) -> ClutterSet:
    return compose_set(SMALL, *sources, 7, tmp_path_factory.mktemp("set"))


def pictures(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*.jpg"))}


# --- one seed, one set -----------------------------------------------------------------------------------------------


def test_same_seed_configuration_and_sources_give_the_same_bytes(composed, sources, tmp_path):
    compose_set(SMALL, *sources, 7, tmp_path)
    assert pictures(tmp_path) == pictures(composed.folder)


def test_another_seed_gives_other_pictures(composed, sources):
    plan = plan_set(SMALL, *sources, 8)
    before = pictures(composed.folder)
    after = [compose_picture(plan, k) for k in range(len(plan))]
    assert all(picture.jpeg != before[picture.truth.path] for picture in after)


def test_a_picture_does_not_depend_on_what_was_composed_before_it(composed, sources):
    plan = plan_set(SMALL, *sources, 7)
    before = pictures(composed.folder)
    for index in (len(plan) - 1, 3, 0, 3):
        picture = compose_picture(plan, index)
        assert picture.jpeg == before[picture.truth.path]
        assert picture.truth == composed.database[index]


def test_a_set_is_made_again_from_its_own_ground_truth(composed, tmp_path):
    read = load_set(composed.folder)
    compose_set(read.config, read.instances, read.backgrounds, read.seed, tmp_path)
    assert pictures(tmp_path) == pictures(composed.folder)


def test_the_name_of_a_picture_does_not_tell_what_it_holds(composed):
    kinds = ["".join(planted.kind[0] for planted in picture.planted)[:1] for picture in composed.database]
    assert kinds != sorted(kinds)
    assert kinds != sorted(kinds, reverse=True)


# --- what a set holds ------------------------------------------------------------------------------------------------


def test_a_set_has_the_pictures_that_its_configuration_asks_for(composed):
    shows = [{planted.kind for planted in picture.planted} for picture in composed.database]
    assert sum("instance" in kinds for kinds in shows) == 4 * SMALL.views
    assert sum(kinds == {"decoy"} for kinds in shows) == SMALL.decoy_pictures
    assert sum(not kinds for kinds in shows) == SMALL.distractors
    assert {query.instance for query in composed.queries} == {f"thing{k}" for k in range(4)}
    assert all(max(read_image(composed.folder / name).shape) == SMALL.side for name in pictures(composed.folder))


def test_positives_are_exactly_the_pictures_in_which_the_instance_is_planted(composed):
    for query in composed.queries:
        planted = [
            picture.path
            for picture in composed.database
            if any(thing.instance == query.instance for thing in picture.planted)
        ]
        assert list(query.positives) == planted
        assert len(planted) == SMALL.views


def test_decoys_are_of_no_instance_and_from_no_instances_photograph(composed):
    own = {photo for instance in composed.instances for photo in instance.photos}
    decoys = [thing for picture in composed.database for thing in picture.planted if thing.kind == "decoy"]
    assert decoys
    assert all(thing.instance is None and thing.source not in own for thing in decoys)


def test_a_picture_with_only_decoys_is_in_no_positives(composed):
    positives = {path for query in composed.queries for path in query.positives}
    for picture in composed.database:
        shows = any(thing.kind == "instance" for thing in picture.planted)
        assert (picture.path in positives) == shows


def test_photographs_of_instances_are_left_out_of_the_backgrounds(sources):
    instances, backgrounds = sources
    plan = plan_set(SMALL, instances, [*backgrounds, *(instance.photos[0] for instance in instances)], 1)
    assert list(plan.backgrounds) == backgrounds


def test_objects_in_one_picture_do_not_overlap(sources):
    config = dataclasses.replace(DIFFICULTIES["hard"], views=4, decoys=(3, 3), decoy_pictures=0, distractors=0)
    plan = plan_set(config, *sources, 3)
    shown = [compose_picture(plan, k).truth.planted for k in range(len(plan))]
    assert len(shown) == 16
    assert max(map(len, shown)) == 4
    for planted in shown:
        boxes = [thing.box for thing in planted]
        assert not np.triu(iou(boxes, boxes), 1).any()


def test_a_query_box_lies_in_its_query_picture(composed):
    for query in composed.queries:
        height, width = read_image(composed.folder / query.path).shape[:2]
        x1, y1, x2, y2 = query.box
        assert 0 <= x1 < x2 <= width
        assert 0 <= y1 < y2 <= height


def test_progress_counts_instances_and_pictures(sources, tmp_path):
    calls: list[tuple[str, int, int]] = []
    whole = compose_set(SMALL, *sources, 1, tmp_path, lambda *call: calls.append(call))
    count = len(whole.database)
    assert calls == [("instances", k + 1, 4) for k in range(4)] + [("pictures", k + 1, count) for k in range(count)]


# --- one object ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", list(DIFFICULTIES))
def test_the_visible_box_covers_a_share_within_the_configured_range(name):
    config, photo, host = DIFFICULTIES[name], texture(1), texture(2, 400, 300)
    rng = np.random.default_rng(0)
    for _ in range(40):
        planting = plant(host, photo, textured_box(photo), config, rng, occluder=texture(3))
        x1, y1, x2, y2 = planting.box
        assert config.share[0] <= (x2 - x1) * (y2 - y1) / (400 * 300) <= config.share[1]
        assert 0 <= x1 < x2 <= 400
        assert 0 <= y1 < y2 <= 300


@pytest.mark.parametrize("size", [(400, 170), (170, 400)])
def test_the_share_holds_in_long_pictures_too(size):
    config, photo, host = DIFFICULTIES["easy"], texture(1, 400, 130), texture(2, *size)
    rng = np.random.default_rng(0)
    for _ in range(40):
        x1, y1, x2, y2 = plant(host, photo, textured_box(photo), config, rng).box
        assert config.share[0] <= (x2 - x1) * (y2 - y1) / (size[0] * size[1]) <= config.share[1]


@pytest.mark.parametrize("name", list(DIFFICULTIES))
def test_outside_the_object_and_its_rim_the_picture_is_unchanged(name):
    config, host = DIFFICULTIES[name], texture(2, 400, 300)
    rng = np.random.default_rng(1)
    for k in range(10):
        planting = plant(host, texture(1), (60, 50, 240, 190), config, rng, occluder=texture(3))
        outside = planting.alpha == 0
        np.testing.assert_array_equal(planting.picture[outside], host[outside], err_msg=str(k))
        # The rim is narrow: six sigma and a pixel around the visible box, but for what an occluder hides.
        x1, y1, x2, y2 = planting.box
        touched = cv2.boundingRect((planting.alpha > 0.5).astype(np.uint8))
        assert touched[0] <= x1
        assert touched[1] <= y1
        assert x2 <= touched[0] + touched[2]
        assert y2 <= touched[1] + touched[3]
        rows, columns = np.nonzero(planting.alpha)
        margin = 1 + 6 * 0.02 * np.sqrt(touched[2] * touched[3]) + 3
        assert columns.min() >= touched[0] - margin
        assert columns.max() <= touched[0] + touched[2] + margin
        assert rows.min() >= touched[1] - margin
        assert rows.max() <= touched[1] + touched[3] + margin


def test_neither_the_picture_nor_the_photograph_is_written_to():
    host, photo = texture(2), texture(1)
    host.flags.writeable = photo.flags.writeable = False
    plant(host, photo, (60, 50, 240, 190), DIFFICULTIES["hard"], np.random.default_rng(0), occluder=photo)
    np.testing.assert_array_equal(host, texture(2))


def test_the_planted_object_is_where_box_and_homography_say():
    """SIFT matches of a mildly warped object lie in its box, at the places that its homography predicts."""
    photo, host = texture(1, 400, 300), texture(2, 640, 480)
    rng = np.random.default_rng(5)
    for _ in range(2):
        planting = plant(host, photo, (60, 50, 340, 250), MILD, rng)
        before, after = RootSIFT(top=2500).extract([photo, planting.picture])
        likeness = before.descriptors @ after.descriptors.T
        nearest = likeness.argmax(axis=1)
        ranked = np.sort(likeness, axis=1)
        sure = 1 - ranked[:, -1] < 0.5 * (1 - ranked[:, -2])
        assert sure.sum() > 50
        found = after.positions[nearest[sure]]
        x1, y1, x2, y2 = planting.box
        assert ((found >= [x1 - 2, y1 - 2]) & (found <= [x2 + 2, y2 + 2])).all(axis=1).mean() > 0.95
        wanted = np.c_[before.positions[sure], np.ones(sure.sum())] @ planting.homography.T
        error = np.linalg.norm(found - wanted[:, :2] / wanted[:, 2:], axis=1)
        assert np.median(error) < 0.5
        assert (error < 2).mean() > 0.95


def test_an_occluder_changes_the_object_and_nothing_else():
    config = dataclasses.replace(DIFFICULTIES["hard"], blur=0, noise=0)
    host, photo = texture(2, 640, 480), texture(1)
    changed = 0
    for seed in range(8):
        free, hidden = (
            plant(host, photo, (60, 50, 240, 190), config, np.random.default_rng(seed), occluder=occluder)
            for occluder in (None, texture(3))
        )
        np.testing.assert_array_equal(free.alpha, hidden.alpha)
        changed += not np.array_equal(free.picture, hidden.picture)
        assert hidden.box[0] >= free.box[0]
        assert hidden.box[3] <= free.box[3]
    assert changed >= 6


def test_an_object_finds_no_place_where_everything_is_taken():
    host = texture(2)
    planting = plant(host, texture(1), (60, 50, 240, 190), MILD, np.random.default_rng(0), taken=[(0, 0, 320, 240)])
    assert planting is None


def test_the_textured_box_leaves_out_empty_sky():
    photo = np.full((300, 400, 3), 200, np.uint8)
    photo[140:, 100:320] = texture(1, 220, 160)
    x1, y1, x2, y2 = textured_box(photo)
    assert y1 > 90
    assert 40 < x1 < x2 < 380
    assert y2 <= 300


@pytest.mark.parametrize("size", [(1, 1), (2, 90), (90, 2), (900, 30)])
def test_a_photograph_of_any_shape_can_be_planted(size):
    photo = texture(1, *size)
    planting = plant(texture(2), photo, textured_box(photo), MILD, np.random.default_rng(0))
    assert planting.picture.shape == (240, 320, 3)


# --- several photographs of one instance -----------------------------------------------------------------------------


@pytest.fixture
def folder_of_views(tmp_path) -> Callable[..., Path]:
    """Writes ``instances/NAME/K.jpg``: facade ``facade`` from each of the viewpoints ``views``."""

    def make(name: str, facade: int, views: tuple[int, ...] = (0, 1, 2), around: int = 0) -> Path:
        for k in views:
            photo = seen_from(texture(facade), VIEWS[k], 500 + 10 * around + k)
            write(tmp_path / "instances" / name / f"{k}.jpg", photo)
        return tmp_path / "instances"

    return make


def test_an_instance_with_several_photographs_is_planted_from_others_than_the_querys(sources, folder_of_views):
    instances = read_instances(folder_of_views("castle", 40))
    plan = plan_set(SMALL, instances, sources[1], 1)
    shown = [compose_picture(plan, k).truth.planted for k in range(len(plan))]
    used = {thing.source for planted in shown for thing in planted if thing.kind == "instance"}
    query = plan.targets[0].query.photo
    assert used == set(instances[0].photos) - {query}


def test_a_photograph_that_shows_something_else_is_not_planted(sources, folder_of_views, tmp_path):
    folder = folder_of_views("castle", 40)
    odd = write(folder / "castle" / "odd.jpg", texture(41))
    plan = plan_set(dataclasses.replace(SMALL, views=6), read_instances(folder), sources[1], 1)
    assert len(plan.targets) == 1
    assert odd not in {part.photo for part in plan.targets[0].views}


def test_a_copy_of_the_query_is_no_other_viewpoint(sources, folder_of_views, tmp_path):
    folder = folder_of_views("castle", 40, views=(0,))
    (folder / "castle" / "copy.jpg").write_bytes((folder / "castle" / "0.jpg").read_bytes())
    with pytest.raises(ClutterError, match="no two of its photographs"):
        plan_set(SMALL, read_instances(folder), sources[1], 1)


def test_views_of_an_overlapping_instance_are_junk_and_no_positives(sources, folder_of_views, tmp_path):
    folder_of_views("castle", 40, around=0)
    folder_of_views("entry", 40, around=1)
    folder = folder_of_views("church", 60, around=2)
    whole = compose_set(SMALL, read_instances(folder), sources[1], 1, tmp_path / "set")
    queries = {query.instance: query for query in whole.queries}
    assert set(queries["castle"].junk) == set(queries["entry"].positives)
    assert set(queries["entry"].junk) == set(queries["castle"].positives)
    assert queries["church"].junk == ()
    assert not set(queries["castle"].junk) & set(queries["castle"].positives)


def test_real_scenes_are_planted_from_other_viewpoints_at_true_boxes(tmp_path):
    data = shared_data()
    photos = tuple(sorted((data / "scenes" / "fountain").glob("*.jpg"))[2:7])
    backgrounds = sorted((data / "photos").glob("*.jpg"))[:10]
    config = dataclasses.replace(MILD, views=3, decoy_pictures=0, distractors=0, decoys=(1, 1), share=(0.2, 0.25))
    whole = compose_set(config, [Instance("fountain", photos)], backgrounds, 0, tmp_path)
    (query,) = whole.queries
    assert len(query.positives) == 3
    x1, y1, x2, y2 = map(int, query.box)
    part = np.ascontiguousarray(read_image(tmp_path / query.path)[y1:y2, x1:x2])
    wanted = RootSIFT().extract([part])[0]
    for picture in whole.database:
        instance = next(thing for thing in picture.planted if thing.kind == "instance")
        assert instance.source != query.source
        found = RootSIFT().extract([read_image(tmp_path / picture.path)])[0]
        likeness = wanted.descriptors @ found.descriptors.T
        ranked = np.sort(likeness, axis=1)
        sure = 1 - ranked[:, -1] < 0.6 * (1 - ranked[:, -2])
        places = found.positions[likeness.argmax(axis=1)[sure]]
        bx1, by1, bx2, by2 = instance.box
        inside = ((places >= [bx1, by1]) & (places <= [bx2, by2])).all(axis=1)
        assert inside.sum() >= 8
        assert inside.mean() > 0.8


# --- sources that cannot be used -------------------------------------------------------------------------------------


def test_broken_sources_are_skipped_and_listed_and_the_set_is_whole(sources, tmp_path):
    instances, backgrounds = sources
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(backgrounds[0].read_bytes()[:500])
    empty = tmp_path / "empty.jpg"
    empty.touch()
    config = dataclasses.replace(SMALL, distractors=12)
    whole = compose_set(config, [*instances, Instance("gone", (empty,))], [*backgrounds, broken], 2, tmp_path / "set")
    assert {entry.path for entry in whole.skipped} == {str(broken), str(empty)}
    assert all(entry.reason for entry in whole.skipped)
    assert len(whole.queries) == 4
    assert len(whole.database) == 4 * SMALL.views + SMALL.decoy_pictures + 12
    used = {picture.background for picture in whole.database}
    used |= {thing.source for picture in whole.database for thing in picture.planted}
    assert broken not in used


def test_a_broken_photograph_among_several_does_not_cost_the_instance(sources, folder_of_views):
    folder = folder_of_views("castle", 40)
    (folder / "castle" / "3.jpg").write_bytes(b"not a picture")
    plan = plan_set(SMALL, read_instances(folder), sources[1], 1)
    assert [entry.path for entry in plan.skipped] == [str(folder / "castle" / "3.jpg")]
    assert len(plan.targets) == 1


def test_no_usable_source_is_an_error_that_says_so(sources, tmp_path):
    instances, backgrounds = sources
    empty = tmp_path / "empty.jpg"
    empty.touch()
    with pytest.raises(ClutterError, match=r"none of 1 instances can be used .*empty\.jpg"):
        plan_set(SMALL, [Instance("gone", (empty,))], backgrounds, 1)
    with pytest.raises(ClutterError, match="no background is left"):
        plan_set(SMALL, instances, [], 1)
    with pytest.raises(ClutterError, match="none of the backgrounds can be read"):
        compose_picture(plan_set(SMALL, instances, [empty], 1), 0)


def test_two_instances_of_one_name_are_refused(sources):
    instances, backgrounds = sources
    with pytest.raises(ClutterError, match="two instances are called 'thing0'"):
        plan_set(SMALL, [*instances, instances[0]], backgrounds, 1)


def test_a_folder_without_pictures_or_no_folder_is_named(tmp_path):
    (tmp_path / "notes.txt").write_text("no picture")
    for read in (read_instances, read_backgrounds):
        with pytest.raises(ClutterError, match=f"{tmp_path.name}: no pictures"):
            read(tmp_path)
        with pytest.raises(ClutterError, match=r"missing: cannot be read: No such file"):
            read(tmp_path / "missing")


def test_sub_folders_are_instances_and_so_are_pictures_beside_them(tmp_path):
    for name in ("castle/2.jpg", "castle/1.JPG", "lamp.jpg"):
        write(tmp_path / name, texture(1, 40, 30))
    (tmp_path / "empty").mkdir()
    assert read_instances(tmp_path) == [
        Instance("castle", (tmp_path / "castle/1.JPG", tmp_path / "castle/2.jpg")),
        Instance("lamp", (tmp_path / "lamp.jpg",)),
    ]


def test_a_folder_with_pictures_of_another_set_is_refused_and_kept(sources, tmp_path):
    other = write(tmp_path / "photos" / "holiday.jpg", texture(1, 40, 30))
    with pytest.raises(ClutterError, match=r"holiday\.jpg: not of this set"):
        compose_set(SMALL, *sources, 1, tmp_path)
    assert other.exists()


def test_a_folder_that_cannot_be_written_is_named(sources, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ClutterError, match="file: cannot be written"):
        compose_set(SMALL, *sources, 1, tmp_path / "file")


# --- the ground truth file -------------------------------------------------------------------------------------------


def test_ground_truth_is_read_back_as_it_was_written(composed):
    assert load_set(composed.folder) == composed


def _set(document: dict[str, Any], path: tuple[str | int, ...], value: object) -> None:
    node: Any = document
    for key in path[:-1]:
        node = node[key]
    node[path[-1]] = value


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("queries", 1, "box"), [1, 2, 3], r"queries\[1\]\.box: expected a list of 4"),
        (("queries", 1, "box"), [9, 2, 3, 4], r"queries\[1\]\.box: expected a box"),
        (("queries", 0, "box", 2), "wide", r"queries\[0\]\.box\[2\]: expected a number, found 'wide'"),
        (("queries", 0, "path"), "../../secret.jpg", r"queries\[0\]\.path: expected a path within the set"),
        (("queries", 0, "positives"), {}, r"queries\[0\]\.positives: expected a list"),
        (("database", 2), 5, r"database\[2\]: expected an object"),
        (("database", 2), {}, r"database\[2\]\.path: missing"),
        (("database", 0, "width"), 1.5, r"database\[0\]\.width: expected a whole number"),
        (("database", 0, "planted"), [{"kind": "ghost"}], r"database\[0\]\.planted\[0\]\.kind: expected 'instance'"),
        (("config", "share"), [0.5, 0.1], r"config\.share: .* out of range"),
        (("config", "tilt"), True, r"config\.tilt: expected a number"),
        (("seed",), None, r"seed: expected a whole number"),
        (("format",), "d2r-clutter-99", r"format: .* another version"),
    ],
)
def test_a_wrong_ground_truth_names_the_file_and_the_field(composed, tmp_path, path, value, message):
    document = json.loads((composed.folder / "ground_truth.json").read_text())
    _set(document, path, value)
    (tmp_path / "ground_truth.json").write_text(json.dumps(document))
    with pytest.raises(ClutterError, match=rf"ground_truth\.json: {message}"):
        load_set(tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [("{", "not JSON"), ("", "not JSON"), ("[]", "the document: expected an object"), ("\udcff", "not JSON")],
)
def test_a_ground_truth_that_is_no_json_document_is_named(tmp_path, text, message):
    (tmp_path / "ground_truth.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(ClutterError, match=rf"ground_truth\.json: {message}"):
        load_set(tmp_path)


def test_a_missing_ground_truth_is_named(tmp_path):
    with pytest.raises(ClutterError, match=r"ground_truth\.json: cannot be read: No such file"):
        load_set(tmp_path)


@pytest.mark.parametrize(
    ("field", "value"),
    [("share", (0.0, 0.1)), ("tilt", 85), ("stretch", 0.9), ("lighting", 2), ("occlusion", 0.6), ("quality", (0, 90))],
)
def test_a_setting_out_of_range_is_named(field, value):
    with pytest.raises(ValueError, match=f"{field}: .* out of range"):
        dataclasses.replace(DIFFICULTIES["easy"], **{field: value})


def test_each_difficulty_is_harder_than_the_one_before():
    easy, medium, hard = (DIFFICULTIES[name] for name in ("easy", "medium", "hard"))

    def strengths(config: ClutterConfig) -> list[float]:
        fields = (config.tilt, config.roll, config.stretch, config.lighting, config.blur, config.noise)
        return [*fields, config.occlusion, *config.decoys, -config.share[0], -config.share[1], -config.quality[0]]

    for weaker, stronger in ((easy, medium), (medium, hard)):
        assert all(a < b for a, b in zip(strengths(weaker), strengths(stronger), strict=True))
    assert hard.share[0] >= 0.02
    assert easy.share[1] <= 0.25
