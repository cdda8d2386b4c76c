import errno
import os
import shutil
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from d2r.asmk.codebook import CodebookError, Origin
from d2r.asmk.kernels import KERNELS, aggregate, assign, local_codes, pool_codes
from d2r.asmk.learning import train_codebook
from d2r.boxes import BoxError, iou
from d2r.describe import assign_words, describe, describe_query
from d2r.engine import Engine
from d2r.errors import UsageError
from d2r.expand import inside, join
from d2r.features import RootSIFT, make_extractor
from d2r.images import ImageError, read_image
from d2r.index import StoreError
from d2r.indexing.codebook import codebook_from, learn_codebook
from d2r.indexing.entry import verified_rows
from d2r.options import SearchOptions
from d2r.regions import Whole, make_selector
from d2r.sources import picture_file
from d2r.support.files import display_path
from d2r.support.registry import SpecError
from d2r.support.version import package_version


def names(answer):
    return [Path(result.path).name for result in answer.results]


def paths(engine):
    return {row.path for row in engine.index.pictures() if row.segment is not None}


def touch_later(path):
    """Give a file another time, as if it was saved again."""
    status = path.stat()
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 10_000_000_000))


def flat(path):
    Image.new("RGB", (80, 60), (120, 130, 140)).save(path)
    return path


def test_the_views_of_one_building_are_found_first(built_index, photo_folder):
    with Engine.open(built_index) as engine:
        answer = engine.search(photo_folder / "pagoda-1.jpg", SearchOptions(top=3))
    assert names(answer)[0] == "pagoda-1.jpg"
    assert set(names(answer)) == {"pagoda-0.jpg", "pagoda-1.jpg", "pagoda-2.jpg"}
    assert all(result.inliers >= 8 for result in answer.results)
    assert set(answer.seconds) == {"describe", "search", "verify", "expand"}


def test_a_picture_itself_has_the_highest_score_and_all_its_points_agree(built_index, photo_folder):
    with Engine.open(built_index) as engine:
        best = engine.search(photo_folder / "pagoda-0.jpg", SearchOptions(top=1)).results[0]
    assert Path(best.path).name == "pagoda-0.jpg"
    np.testing.assert_allclose(best.transform, [[1, 0, 0], [0, 1, 0]], atol=0.02)
    np.testing.assert_allclose(best.query_positions, best.positions, atol=0.5)


def test_matched_points_and_the_map_are_in_pixels_of_both_pictures(built_index, photo_folder):
    picture = read_image(photo_folder / "pagoda-0.jpg")
    box = (60, 40, 300, 220)
    with Engine.open(built_index) as engine:
        answer = engine.search(picture, SearchOptions(top=3), box=box)
    for result in answer.results:
        assert (result.query_positions >= [60, 40]).all()
        assert (result.query_positions <= [300, 220]).all()
        mapped = result.query_positions @ result.transform[:, :2].T + result.transform[:, 2]
        assert np.linalg.norm(mapped - result.positions, axis=1).max() <= 10.5
        assert (result.positions <= [result.width, result.height]).all()


def test_a_result_says_where_it_has_what_the_box_shows(built_index, photo_folder):
    with Engine.open(built_index) as engine:
        results = engine.search(photo_folder / "pagoda-0.jpg", SearchOptions(top=4), box=(60, 40, 300, 220)).results
    assert Path(results[0].path).name == "pagoda-0.jpg"
    assert iou([results[0].found], [(60, 40, 300, 220)])[0, 0] > 0.9
    for result in results[:3]:
        x1, y1, x2, y2 = result.found
        assert 0 <= x1 <= result.positions[:, 0].min() < result.positions[:, 0].max() <= x2 <= result.width
        assert 0 <= y1 <= result.positions[:, 1].min() < result.positions[:, 1].max() <= y2 <= result.height
    assert (results[3].inliers, results[3].found) == (0, None)


def test_without_verification_results_are_ranked_by_score_and_have_no_inliers(built_index, photo_folder):
    with Engine.open(built_index) as engine:
        answer = engine.search(photo_folder / "pagoda-1.jpg", SearchOptions(top=10, verify=0))
    scores = [result.score for result in answer.results]
    assert scores == sorted(scores, reverse=True)
    assert {result.inliers for result in answer.results} == {None}


def test_verified_results_come_first_sorted_by_inliers_then_score(built_index, photo_folder):
    with Engine.open(built_index) as engine:
        answer = engine.search(photo_folder / "pagoda-1.jpg", SearchOptions(top=10, verify=4, expand=0))
    keys = [(result.inliers, result.score) for result in answer.results[:4]]
    assert keys == sorted(keys, reverse=True)
    assert all(result.inliers is None for result in answer.results[4:])


def test_a_picture_that_goes_while_others_are_verified_is_no_result(engine, collection):
    query = describe_query(read_image(collection / "pagoda-1.jpg"), None, RootSIFT(), max_side=1024)
    left = [collection / "pagoda-0.jpg"]
    lock = threading.Lock()  # several pictures are verified in parallel

    def remove_one():
        with lock:
            if left:
                engine.remove([left.pop()])
                engine.compact()
        return False

    answer = engine.search_described(query, SearchOptions(top=3), stopped=remove_one)
    assert names(answer)[:2] == ["pagoda-1.jpg", "pagoda-2.jpg"]
    assert "pagoda-0.jpg" not in names(answer)


def test_a_picture_scores_with_all_its_regions_what_it_is_found_with(built_index, photo_folder):
    with Engine.open(built_index) as engine:
        answer = engine.search(photo_folder / "pagoda-1.jpg", SearchOptions(top=10, verify=0))
        extractor = make_extractor(engine.recipe.features)
        for result in answer.results[:4]:
            picture = describe(read_image(result.path), make_selector(engine.recipe.regions), extractor, max_side=1024)
            scores = engine.scores_by_regions(answer.query, picture)
            assert len(scores) == len(result.boxes)
            assert scores[-1] == pytest.approx(result.score, abs=1e-5)
            whole = describe(read_image(result.path), Whole(), extractor, max_side=1024)
            assert scores[0] == pytest.approx(engine.scores_by_regions(answer.query, whole)[0], abs=1e-6)


def test_results_carry_the_regions_that_were_described(built_index, photo_folder):
    with Engine.open(built_index) as engine:
        result = engine.search(photo_folder / "pagoda-0.jpg", SearchOptions(top=1)).results[0]
    assert result.boxes[0].tolist() == [0, 0, result.width, result.height]
    assert len(result.boxes) == len(result.box_scores) > 1


@pytest.mark.parametrize("box", [(50, 50, 20, 80), (50, 50, 50, 80), (9000, 9000, 9100, 9100), (0, 0, np.nan, 5)])
def test_a_bad_box_is_refused(built_index, photo_folder, box):
    with Engine.open(built_index) as engine, pytest.raises(BoxError):
        engine.search(photo_folder / "pagoda-0.jpg", box=box)


def test_a_query_without_texture_finds_nothing(built_index, tmp_path):
    with Engine.open(built_index) as engine:
        answer = engine.search(flat(tmp_path / "flat.png"))
    assert answer.results == []
    assert len(answer.query.features) == 0


def test_a_query_that_is_no_picture_is_refused_by_name(built_index, tmp_path):
    (tmp_path / "note.jpg").write_text("not a picture")
    with Engine.open(built_index) as engine, pytest.raises(ImageError, match=r"note\.jpg"):
        engine.search(tmp_path / "note.jpg")


def test_syncing_again_touches_nothing(engine, collection, tmp_path):
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "photos.index" / "segments").rglob("*")}
    rows = list(engine.index.pictures())
    report = engine.sync(collection, workers=0)
    assert (report.added, report.changed, report.removed, report.unchanged) == (0, 0, 0, 10)
    assert list(engine.index.pictures()) == rows
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_syncing_adds_what_is_new_hides_what_is_gone_and_describes_what_changed_again(engine, collection):
    (collection / "pagoda-0.jpg").unlink()
    shutil.copy(collection / "pagoda-1.jpg", collection / "new.JPEG")
    Image.open(collection / "pagoda-1.jpg").rotate(180).save(collection / "pagoda-2.jpg")
    touch_later(collection / "pagoda-2.jpg")
    kept = {row.path: row for row in engine.index.pictures() if "other" in row.path}
    report = engine.sync(collection, workers=0)
    assert (report.added, report.changed, report.missing, report.unchanged) == (1, 1, 1, 8)
    assert {Path(path).name for path in paths(engine)} >= {"new.JPEG", "pagoda-1.jpg", "pagoda-2.jpg"}
    assert {row.path: row for row in engine.index.pictures() if "other" in row.path} == kept
    answer = engine.search(collection / "pagoda-1.jpg", SearchOptions(top=10))
    assert len(answer.results) == len(set(names(answer)))
    assert set(names(answer)[:2]) == {"new.JPEG", "pagoda-1.jpg"}


def test_a_file_whose_time_alone_changed_is_not_described_again(engine, collection):
    touch_later(collection / "pagoda-1.jpg")
    before = engine.index.picture(str(collection / "pagoda-1.jpg"))
    report = engine.sync(collection, workers=0)
    after = engine.index.picture(str(collection / "pagoda-1.jpg"))
    assert (report.changed, report.unchanged) == (0, 10)
    assert (after.segment, after.slot) == (before.segment, before.slot)
    assert after.mtime_ns > before.mtime_ns


def test_an_updated_index_answers_as_a_fresh_one_with_the_same_words(engine, collection, tmp_path):
    (collection / "pagoda-0.jpg").unlink()
    shutil.copy(collection / "pagoda-1.jpg", collection / "new.jpg")
    engine.sync(collection, workers=0)
    with Engine.create(
        tmp_path / "fresh.index", codebook=engine.index.codebook, regions="whole", features="rootsift"
    ) as fresh:
        fresh.sync(collection, workers=0)
        for query in ("new.jpg", "pagoda-2.jpg"):
            one, other = (each.search(collection / query, SearchOptions(top=20, verify=0)) for each in (engine, fresh))
            assert {(r.path, r.score) for r in one.results} == {(r.path, r.score) for r in other.results}


def test_bad_pictures_are_skipped_with_their_reason_and_the_others_indexed(engine, collection):
    (collection / "empty.jpg").touch()
    (collection / "text.png").write_text("hello")
    whole = (collection / "pagoda-0.jpg").read_bytes()
    (collection / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    report = engine.sync(collection, workers=0)
    reasons = {Path(path).name: reason for path, reason in report.skipped}
    assert set(reasons) == {"empty.jpg", "text.png", "cut.jpg"}
    assert "empty" in reasons["empty.jpg"]
    assert "truncated" in reasons["cut.jpg"]
    assert engine.index.size().pictures == 10


def test_a_skipped_picture_that_is_mended_is_indexed(engine, collection):
    (collection / "late.jpg").touch()
    assert len(engine.sync(collection, workers=0).skipped) == 1
    shutil.copy(collection / "pagoda-0.jpg", collection / "late.jpg")
    report = engine.sync(collection, workers=0)
    assert (report.added, report.skipped) == (1, [])


def test_a_picture_that_breaks_later_is_skipped_and_no_longer_found(engine, collection):
    (collection / "pagoda-2.jpg").write_bytes(b"\xff\xd8\xff broken")
    report = engine.sync(collection, workers=0)
    assert [Path(path).name for path, _ in report.skipped] == ["pagoda-2.jpg"]
    assert "pagoda-2.jpg" not in names(engine.search(collection / "pagoda-1.jpg", SearchOptions(top=10)))


def test_a_picture_above_the_pixel_limit_is_skipped_until_the_limit_is_raised(engine, collection):
    Image.effect_noise((400, 300), 80).convert("RGB").save(collection / "large.png")
    report = engine.sync(collection, workers=0, max_pixels=119_999)
    assert [(Path(path).name, "--max-pixels" in reason) for path, reason in report.skipped] == [("large.png", True)]
    assert engine.sync(collection, workers=0, max_pixels=120_000).added == 1


def test_a_picture_without_texture_is_reported_and_harmless(engine, collection):
    flat(collection / "flat.png")
    report = engine.sync(collection, workers=0)
    assert report.empty == [str(collection / "flat.png")]
    assert report.added == 1
    assert engine.index.picture(str(collection / "flat.png")).words == 0
    assert "flat.png" not in names(engine.search(collection / "pagoda-1.jpg", SearchOptions(top=20)))
    assert engine.sync(collection, workers=0).unchanged == 11


def test_an_emptied_folder_is_refused_and_nothing_is_dropped(engine, collection):
    shutil.rmtree(collection)
    with pytest.raises(NotADirectoryError):
        engine.sync(collection, workers=0)
    collection.mkdir()
    with pytest.raises(StoreError, match="no pictures"):
        engine.sync(collection, workers=0)
    assert engine.index.size().pictures == 10


def test_syncing_one_folder_leaves_pictures_of_another_alone(engine, collection, tmp_path):
    other = tmp_path / "photos-2"  # starts with the name of the first
    other.mkdir()
    shutil.copy(collection / "pagoda-0.jpg", other / "copy.jpg")
    report = engine.sync(other, workers=0)
    assert (report.added, report.missing) == (1, 0)
    report = engine.sync(collection, workers=0)
    assert (report.missing, engine.index.size().pictures) == (0, 11)


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser can read every folder")
def test_pictures_under_a_folder_that_cannot_be_read_are_not_dropped(engine, collection):
    (collection / "deep").chmod(0)
    try:
        report = engine.sync(collection, workers=0)
    finally:
        (collection / "deep").chmod(0o755)
    assert report.missing == 0
    assert engine.index.size().pictures == 10


def test_pictures_whose_folder_the_walk_could_not_list_are_kept(engine, collection, monkeypatch):
    scandir = os.scandir

    def refuse(path):
        if str(path).endswith("deep"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    report = engine.sync(collection, workers=0)
    assert report.missing == 0
    assert report.skipped == [(str(collection / "deep"), "cannot be read: Permission denied")]
    assert engine.index.size().pictures == 10


def test_removing_pictures_and_folders(engine, collection):
    assert engine.remove([collection / "deep", collection / "pagoda-0.jpg"]) == 8
    assert {Path(path).name for path in paths(engine)} == {"pagoda-1.jpg", "pagoda-2.jpg"}
    assert set(names(engine.search(collection / "pagoda-0.jpg", SearchOptions(top=10)))) == {
        "pagoda-1.jpg",
        "pagoda-2.jpg",
    }


def test_removing_an_unknown_path_removes_nothing(engine, collection):
    with pytest.raises(StoreError, match=r"nowhere\.jpg"):
        engine.remove([collection / "pagoda-0.jpg", collection / "nowhere.jpg"])
    assert engine.index.size().pictures == 10


def test_adding_files_by_path_reports_those_that_are_missing(engine, tmp_path, photo_folder):
    shutil.copy(photo_folder / "pagoda-0.jpg", tmp_path / "one.jpg")
    report = engine.add([tmp_path / "one.jpg", tmp_path / "none.jpg"], workers=0)
    assert report.added == 1
    assert [Path(path).name for path, _ in report.skipped] == ["none.jpg"]


def test_worker_processes_give_what_one_process_gives(engine, collection, tmp_path):
    with Engine.create(tmp_path / "parallel.index", num_words=128, regions="whole", features="rootsift") as parallel:
        parallel.sync(collection, workers=2)
        assert (parallel.index.codebook.centroids == engine.index.codebook.centroids).all()
        one, other = (dict(each.index.aggregated()) for each in (engine, parallel))
        one = {row.path: (agg.words.tolist(), agg.vectors.tolist()) for row, agg in one.items()}
        other = {row.path: (agg.words.tolist(), agg.vectors.tolist()) for row, agg in other.items()}
        assert one == other


def test_names_that_are_not_utf8_or_very_long_are_indexed_and_found(engine, collection):
    odd = Path(os.fsdecode(os.fsencode(collection) + b"/caf\xe9-\xff.jpg"))
    long = collection / ("x" * 251 + ".jpg")
    for path in (odd, long):
        shutil.copy(collection / "pagoda-1.jpg", path)
    assert engine.sync(collection, workers=0).added == 2
    found = [result.path for result in engine.search(odd, SearchOptions(top=3)).results]
    assert set(found) == {str(odd), str(long), str(collection / "pagoda-1.jpg")}
    assert engine.remove([odd, long]) == 2


def test_a_reader_that_is_open_sees_each_change_when_it_is_committed(engine, collection, tmp_path):
    with Engine.open(tmp_path / "photos.index") as reader:
        assert "pagoda-0.jpg" in names(reader.search(collection / "pagoda-1.jpg"))
        engine.remove([collection / "pagoda-0.jpg"])
        assert "pagoda-0.jpg" not in names(reader.search(collection / "pagoda-1.jpg"))
        shutil.copy(collection / "pagoda-1.jpg", collection / "again.jpg")
        engine.add([collection / "again.jpg"], workers=0)
        assert "again.jpg" in names(reader.search(collection / "pagoda-1.jpg"))


def test_a_codebook_of_another_dimension_is_refused_before_anything_is_made(tmp_path):
    codebook = train_codebook(np.random.default_rng(0).normal(size=(100, 64)).astype(np.float32), 8)
    with pytest.raises(CodebookError, match="64 dimensions, but the features have 128"):
        Engine.create(tmp_path / "new.index", codebook=codebook)
    assert not (tmp_path / "new.index").exists()


@pytest.mark.parametrize("option", [{"regions": "none"}, {"features": "rootsift:tops=3"}, {"regions": "rmac:levels=x"}])
def test_an_unknown_part_is_refused_before_anything_is_made(tmp_path, option):
    with pytest.raises(SpecError):
        Engine.create(tmp_path / "new.index", **option)
    assert not (tmp_path / "new.index").exists()


def test_a_folder_with_something_else_is_not_made_an_index(collection):
    with pytest.raises(StoreError, match="not an index"):
        Engine.create(collection)
    assert not (collection / ".writer.lock").exists()
    with pytest.raises(StoreError, match="not an index"):
        Engine.open(collection)


def test_an_index_that_is_there_is_said_to_be_one_and_to_be_opened(engine):
    with pytest.raises(StoreError, match=r"it is an index already; open it \(Engine\.open\)"):
        Engine.create(engine.index.folder, num_words=64, regions="whole", features="rootsift")
    assert engine.index.size().pictures == 10


@pytest.mark.parametrize("name", ["a\0b.jpg", b"a\0b.jpg", "\ud800.jpg", "x" * 300 + ".jpg"])
def test_a_path_that_no_file_can_have_stops_no_others(engine, collection, tmp_path, name):
    good = Path(shutil.copy(collection / "pagoda-0.jpg", tmp_path / "good.jpg"))
    report = engine.add([name, good, tmp_path], workers=0)
    assert (report.added, len(report.skipped)) == (1, 2)
    assert all(display_path(path) and reason.startswith("cannot be read: ") for path, reason in report.skipped)
    with pytest.raises(ImageError, match="cannot be read"):
        engine.search(name, max_pixels=1)
    with pytest.raises(StoreError, match="not in the index; nothing was removed"):
        engine.remove([good, name])
    assert engine.prune([name]) == 0
    with pytest.raises(OSError):  # noqa: PT011 - not a folder, or a name that is too long for one
        engine.sync(name, workers=0)
    assert engine.index.picture(str(good)).findable


def test_only_what_was_staged_is_deleted_from_the_folder_of_an_index(engine, collection):
    staging = engine.index.folder / "staging"
    staging.mkdir()
    ours = [staging / f"{'0a' * 16}.safetensors", staging / f".{'0b' * 16}.part"]
    theirs = [staging / "holiday.jpg", staging / "words.safetensors", engine.index.folder / "mine.txt"]
    for file in (*ours, *theirs):
        file.write_text("x")
    engine.sync(collection, workers=0)
    assert [file.exists() for file in ours] == [False, False]
    assert [file.exists() for file in theirs] == [True, True, True]


def test_a_collection_of_blank_pictures_cannot_teach_words(tmp_path):
    (tmp_path / "photos").mkdir()
    flat(tmp_path / "photos" / "a.png")
    with Engine.create(tmp_path / "x.index") as engine, pytest.raises(StoreError, match=r"a\.png: no features"):
        engine.sync(tmp_path / "photos", workers=0)


def test_an_index_made_anew_at_the_same_place_uses_its_own_words(collection, tmp_path):
    for num_words in (32, 64):
        shutil.rmtree(tmp_path / "again.index", ignore_errors=True)
        with Engine.create(
            tmp_path / "again.index", num_words=num_words, regions="whole", features="rootsift"
        ) as engine:
            engine.sync(collection, workers=0)
            best = engine.search(collection / "pagoda-0.jpg", SearchOptions(top=1, verify=0)).results[0]
            assert best.score > 0.9


def test_words_of_an_index_can_be_reused(built_index, tmp_path, collection):
    with Engine.create(tmp_path / "second.index", codebook=codebook_from(built_index)) as engine:
        report = engine.sync(collection, workers=0)
        assert report.words_learned == 0
        assert engine.index.size().num_words == 256  # 128 of each kind of features
        assert set(names(engine.search(collection / "pagoda-0.jpg", SearchOptions(top=3)))) == {
            "pagoda-0.jpg", "pagoda-1.jpg", "pagoda-2.jpg",
        }  # fmt: skip


def test_pairs_leave_a_picture_itself_out(built_index):
    with Engine.open(built_index) as engine:
        found = {Path(row.path).name: [Path(hit.picture.path).name for hit in hits] for row, hits in engine.pairs(2)}
    assert len(found) == 10
    assert set(found["pagoda-0.jpg"]) == {"pagoda-1.jpg", "pagoda-2.jpg"}
    assert all(name not in others for name, others in found.items())


def test_a_small_object_on_a_large_picture_is_described_at_its_own_resolution(tmp_path, photo_folder):
    """Region crops are cut before the picture is scaled down, so they keep their detail."""
    pagoda = Image.open(photo_folder / "pagoda-0.jpg")
    canvas = Image.new("RGB", (pagoda.width * 4, pagoda.height * 4), "gray")
    canvas.paste(pagoda, (0, 0))
    (tmp_path / "photos").mkdir()
    canvas.save(tmp_path / "photos" / "large.png")
    counts = {}
    for regions in ("whole", "rmac:levels=3"):
        with Engine.create(tmp_path / f"{regions}.index", regions=regions, num_words=32, max_side=360) as engine:
            engine.sync(tmp_path / "photos", workers=0)
            counts[regions] = next(engine.index.pictures()).words
    assert counts["rmac:levels=3"] > counts["whole"]


def test_progress_is_told_by_stage_and_ends_at_the_total(collection, tmp_path):
    calls = []
    with Engine.create(tmp_path / "x.index", num_words=64) as engine:
        engine.sync(collection, workers=0, progress=lambda *call: calls.append(call))
    assert list(dict.fromkeys(stage for stage, _, _ in calls)) == ["describe", "words", "index"]
    assert ("describe", 10, 10) in calls
    assert calls[-1] == ("index", 10, 10)


def test_opening_and_a_search_change_no_file(built_index, photo_folder):
    def state():
        return {path: path.stat().st_mtime_ns for path in built_index.rglob("*") if "sqlite-" not in path.name}

    before = state()
    time.sleep(0.01)
    with Engine.open(built_index) as engine:
        engine.search(photo_folder / "pagoda-0.jpg")
    after = state()
    del before[built_index / "segments"], after[built_index / "segments"]
    assert after == before


def test_a_file_that_cannot_be_looked_at_keeps_its_descriptor(engine, collection, monkeypatch):
    bad = sorted(collection.rglob("*.jpg"))[0]

    def look_at(path):
        if path == bad:
            raise OSError(errno.EIO, "Input/output error", os.fspath(path))
        return picture_file(path)

    monkeypatch.setattr("d2r.sources.picture_file", look_at)
    report = engine.sync(collection, workers=0)
    assert report.missing == 0
    assert report.skipped == [(os.fspath(bad), "cannot be read: Input/output error")]
    assert engine.index.picture(os.fspath(bad)).segment is not None


def test_only_the_time_of_a_file_changed_while_others_were_added(engine, collection):
    pictures = sorted(collection.rglob("*.jpg"))
    for number in range(7):  # small segments, about to be merged
        copy = collection / f"copy-{number}.jpg"
        copy.write_bytes(pictures[0].read_bytes())
        engine.add([copy], workers=0)
    os.utime(pictures[1], (5, 5))
    (collection / "new.jpg").write_bytes(pictures[0].read_bytes())
    report = engine.sync(collection, workers=0)
    assert (report.added, report.changed, report.missing) == (1, 0, 0)
    assert engine.check() == []
    assert engine.search(pictures[1], SearchOptions(verify=0)).results[0].path == os.fspath(pictures[1])
    again = engine.sync(collection, workers=0)
    assert (again.added, again.changed, again.unchanged) == (0, 0, report.unchanged + 1)


def test_an_expanded_query_finds_what_the_query_finds_and_orders_by_score_and_inliers(built_index, photo_folder):
    with Engine.open(built_index) as engine:
        plain = engine.search(photo_folder / "pagoda-1.jpg", SearchOptions(top=10, expand=0))
        expanded = engine.search(photo_folder / "pagoda-1.jpg", SearchOptions(top=10, expand=2))
    assert set(names(expanded)[:3]) == {"pagoda-0.jpg", "pagoda-1.jpg", "pagoda-2.jpg"}
    assert set(expanded.seconds) == {"describe", "search", "verify", "expand"}
    keys = [result.score * (1 + 0.2 * (result.inliers or 0)) for result in expanded.results]
    assert keys == sorted(keys, reverse=True)
    inliers = {result.id: result.inliers for result in plain.results}
    assert all(result.inliers == inliers[result.id] for result in expanded.results)


def test_the_descriptor_of_an_expanded_query_is_joined_from_the_index(built_index, photo_folder):
    """With two confirmed results, the scores are those of the query joined with what each has inside the query box."""
    box = (60.0, 40.0, 260.0, 200.0)
    with Engine.open(built_index) as engine:
        extractor = make_extractor(engine.recipe.features)
        query = describe_query(read_image(photo_folder / "pagoda-1.jpg"), box, extractor, max_side=1024)
        best = engine.search_described(query, SearchOptions(top=2, expand=0)).results
        parts = []
        for result in best:
            described = describe(read_image(result.path), Whole(), extractor, max_side=1024)
            picture = described.features.take(verified_rows(described, engine.recipe.verify_features))
            shown = inside(picture.positions, result.transform, box)
            assert 0 < shown.sum() < len(shown)
            assigned = assign(engine.index.codebook, picture.descriptors[shown], kinds=picture.kinds[shown])
            parts.append(pool_codes(local_codes(assigned, np.arange(shown.sum()))))
        own = aggregate(assign_words(engine.index.codebook, query), KERNELS["r-asmk*"])
        joined = join(own, parts)
        expected = {hit.picture.id: hit.score for hit in engine.index.search(joined, 10)}
        for result in engine.search_described(query, SearchOptions(top=10, expand=2)).results:
            assert result.score == pytest.approx(expected[result.id], abs=1e-6)


def test_a_query_that_nothing_confirms_is_answered_as_without_expansion(built_index, photo_folder):
    with Engine.open(built_index) as engine:
        picture = np.random.default_rng(0).integers(0, 256, (200, 200, 3), np.uint8)
        plain, expanded = (
            engine.search(picture, SearchOptions(top=10, expand=0)),
            engine.search(picture, SearchOptions(top=10, diffuse=True)),
        )
    assert [(result.id, result.score) for result in plain.results] == [
        (result.id, result.score) for result in expanded.results
    ]


def test_diffusion_keeps_the_confirmed_first_and_all_results(built_index, photo_folder):
    with Engine.open(built_index) as engine:
        expanded = engine.search(photo_folder / "pagoda-1.jpg", SearchOptions(top=10, expand=2))
        diffused = engine.search(photo_folder / "pagoda-1.jpg", SearchOptions(top=10, expand=2, diffuse=True))
    assert set(names(diffused)[:3]) == {"pagoda-0.jpg", "pagoda-1.jpg", "pagoda-2.jpg"}
    assert {(result.id, result.score) for result in diffused.results} == {
        (result.id, result.score) for result in expanded.results
    }


def test_a_query_may_have_regions_too(built_index, photo_folder):
    picture = read_image(photo_folder / "pagoda-0.jpg")
    with Engine.open(built_index) as engine:
        engine.recipe = replace(engine.recipe, regions="rmac:levels=1")
        answer = engine.search(picture, SearchOptions(top=3, query_regions=True), box=(60, 40, 300, 220))
        plain = engine.search(picture, SearchOptions(top=3), box=(60, 40, 300, 220))
    assert len(answer.query.boxes) == 3
    assert {result.id for result in answer.results} == {result.id for result in plain.results}
    assert {result.id: result.inliers for result in answer.results} == {
        result.id: result.inliers for result in plain.results
    }  # only the box is verified
    assert all((result.query_positions >= [60, 40]).all() for result in answer.results)
    assert [result.score for result in answer.results] != [result.score for result in plain.results]


@pytest.mark.parametrize(
    "options", [{"top": 0}, {"expand": -1}, {"diffuse": True, "verify": 0}, {"diffuse": True, "expand": 0}]
)
def test_a_search_that_cannot_be_is_refused(options):
    with pytest.raises(UsageError, match="must be"):
        SearchOptions(**options)


def test_each_link_comes_once_whichever_of_the_two_pictures_found_the_other(engine):
    found = [link for _, links in engine.links(3) for link in links]
    pairs = [(link.first.id, link.second.id) for link in found]
    assert len(set(pairs)) == len(pairs) > 0
    expected = set()
    for picture, hits in engine.pairs(3):
        for hit in hits:
            first, second = sorted((picture, hit.picture), key=lambda row: row.id)
            if engine.ranker.compare(engine.index.keypoints(first), second).transform is not None:
                expected.add((first.id, second.id))
    assert set(pairs) == expected


# ---- Visual words and the features that they were learned from ----


@pytest.fixture(scope="module")
def rootsift_words(photo_folder):
    """Words of RootSIFT: as many dimensions as HardNet, but unrelated to it."""
    return learn_codebook(photo_folder, 32, regions="whole", features="rootsift", workers=0)


def test_a_codebook_says_what_it_was_learned_from(rootsift_words, built_index):
    assert rootsift_words.origin == Origin("rootsift", "whole", 1024, 10, package_version())
    with Engine.open(built_index) as engine:
        recipe = engine.recipe
        assert recipe.features.startswith("hardnet:model=hardnet-int8,sha256=")
        expected = Origin(recipe.features, recipe.regions, 1024, 10, package_version())
        assert engine.index.codebook.origin == expected
    assert codebook_from(built_index).origin == expected


def test_a_codebook_of_other_features_is_refused_by_an_index_and_both_are_named(rootsift_words, tmp_path, collection):
    both = r"learned from rootsift, but the pictures are described by hardnet:model=hardnet-int8,sha256="
    with pytest.raises(CodebookError, match=both):
        Engine.create(tmp_path / "new.index", codebook=rootsift_words)
    assert not (tmp_path / "new.index").exists()
    with Engine.create(tmp_path / "new.index") as engine:
        with pytest.raises(CodebookError, match=both):
            engine.choose_words(rootsift_words, None, None)
        assert engine.index.codebook is None


def test_words_learned_from_other_regions_or_sizes_or_fewer_features_will_do(rootsift_words, tmp_path, caplog):
    recipe = {"regions": "rmac:levels=1", "features": "rootsift:top=50", "max_side": 200}
    with Engine.create(tmp_path / "new.index", codebook=rootsift_words, **recipe) as engine:
        assert engine.index.codebook.origin == rootsift_words.origin
    assert caplog.messages == []


def test_a_codebook_that_does_not_say_what_made_it_is_taken_and_the_log_says_so(rootsift_words, tmp_path, caplog):
    file = tmp_path / "words.npy"
    np.save(file, rootsift_words.centroids)
    with Engine.create(tmp_path / "new.index", codebook=codebook_from(file), features="rootsift") as engine:
        assert engine.index.codebook.origin is None
    told = "the codebook does not say which features made it; it is used for rootsift"
    assert caplog.messages == [told]
    assert codebook_from(tmp_path / "new.index").origin == Origin("rootsift", engine.recipe.regions, 1024, None, None)


def test_words_that_the_features_are_too_few_for_are_fewer(photo_folder, tmp_path):
    with Engine.create(tmp_path / "x.index", num_words=65536, regions="whole", features="rootsift:top=40") as engine:
        report = engine.sync(photo_folder, workers=0)
        assert report.words_learned == engine.index.codebook.num_words == 16  # of 400 features at most
        assert (
            engine.search(photo_folder / "pagoda-0.jpg", SearchOptions(top=1)).results[0].path.endswith("pagoda-0.jpg")
        )


def test_damage_that_verification_comes_upon_is_named(engine, collection):
    (file,) = engine.index.folder.glob("segments/*/point_words.npy")
    words = np.load(file)
    words[:] = words[::-1]
    np.save(file, words)
    with (
        Engine.open(engine.index.folder) as reader,
        pytest.raises(StoreError, match=r"words of keypoints must ascend.*check"),
    ):
        reader.search(collection / "pagoda-0.jpg")
