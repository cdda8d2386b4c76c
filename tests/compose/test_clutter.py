"""The clutter benchmark: the same bytes from the same seed, true boxes, no decoy among the answers."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from d2r.boxes import iou
from d2r.compose.clutter import compose_picture, compose_set
from d2r.compose.planning import plan_set
from d2r.compose.sources import read_instances
from d2r.datasets.difficulty import DIFFICULTIES
from d2r.datasets.ground_truth import ClutterError, Instance, load_set
from d2r.features import RootSIFT
from d2r.images import read_image
from synthetic import MILD, SMALL, texture, write


def pictures(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*.jpg"))}


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


def test_an_instance_with_several_photographs_is_planted_from_others_than_the_querys(sources, folder_of_views):
    instances = read_instances(folder_of_views("castle", 40))
    plan = plan_set(SMALL, instances, sources[1], 1)
    shown = [compose_picture(plan, k).truth.planted for k in range(len(plan))]
    used = {thing.source for planted in shown for thing in planted if thing.kind == "instance"}
    query = plan.targets[0].query.photo
    assert used == set(instances[0].photos) - {query}


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


def test_real_scenes_are_planted_from_other_viewpoints_at_true_boxes(shared_data, tmp_path):
    photos = tuple(sorted((shared_data / "scenes" / "fountain").glob("*.jpg"))[2:7])
    backgrounds = sorted((shared_data / "photos").glob("*.jpg"))[:10]
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


def test_a_folder_with_pictures_of_another_set_is_refused_and_kept(sources, tmp_path):
    other = write(tmp_path / "photos" / "holiday.jpg", texture(1, 40, 30))
    with pytest.raises(ClutterError, match=r"holiday\.jpg: not of this set"):
        compose_set(SMALL, *sources, 1, tmp_path)
    assert other.exists()


def test_a_folder_that_cannot_be_written_is_named(sources, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ClutterError, match="file: cannot be written"):
        compose_set(SMALL, *sources, 1, tmp_path / "file")


def test_a_picture_of_the_user_with_the_name_of_one_of_the_set_is_kept(sources, tmp_path):
    mine = tmp_path / "photos" / "00000.jpg"
    before = write(mine, texture(1, 40, 30)).read_bytes()
    with pytest.raises(ClutterError, match=r"00000\.jpg: not of this set; compose into an empty folder"):
        compose_set(SMALL, *sources, 1, tmp_path)
    assert mine.read_bytes() == before


@pytest.mark.parametrize("name", ["notes.txt", "photos", "ground_truth.json"])
def test_a_folder_of_something_else_is_refused_and_nothing_is_added_to_it(sources, tmp_path, name):
    folder = tmp_path / "set"
    folder.mkdir()
    if name == "photos":
        (tmp_path / "elsewhere").mkdir()
        (folder / name).symlink_to(tmp_path / "elsewhere")
    else:
        (folder / name).write_text("mine")
    with pytest.raises(ClutterError, match=name):
        compose_set(SMALL, *sources, 1, folder)
    assert [path.name for path in folder.iterdir()] == [name]
    assert name == "photos" or (folder / name).read_text() == "mine"


def test_a_set_of_another_seed_is_not_written_over(composed, sources):
    before = {path: path.read_bytes() for path in composed.folder.rglob("*") if path.is_file()}
    with pytest.raises(ClutterError, match=r"ground_truth\.json: not of this set"):
        compose_set(SMALL, *sources, 8, composed.folder)
    assert {path: path.read_bytes() for path in composed.folder.rglob("*") if path.is_file()} == before


def test_a_set_that_was_stopped_is_gone_on_with_and_its_pictures_are_not_written_again(composed, sources, tmp_path):
    class Stopped(Exception):  # noqa: N818
        pass

    def stop(stage, done, total):
        if (stage, done) == ("pictures", 3):
            raise Stopped

    with pytest.raises(Stopped):
        compose_set(SMALL, *sources, 7, tmp_path, stop)
    (tmp_path / "photos" / f".{'0' * 32}.part").touch()  # left by a kill
    times = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.jpg")}
    assert len(times) == len(composed.queries) + 3
    compose_set(SMALL, *sources, 7, tmp_path)
    assert pictures(tmp_path) == pictures(composed.folder)
    assert {path: path.stat().st_mtime_ns for path in times} == times
