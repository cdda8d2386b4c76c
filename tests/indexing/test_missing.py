"""Pictures whose files are gone, as on an unmounted drive: kept, not searched, and back at no cost."""

import errno
import os
import pty
import select
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from d2r.engine import Engine
from d2r.index import StoreError
from d2r.indexing.workers import LocalWorkers
from d2r.mining.groups import find_links
from d2r.mining.pairs import write_pairs
from d2r.options import SearchOptions
from old_index import as_format_5


class NobodyDescribes(LocalWorkers):
    """Fails if a picture is described, or even read."""

    def entries(self, recipe, max_pixels, staging, codebook, files):
        assert list(files) == []
        return iter(())


def names(answer):
    return {Path(result.path).name for result in answer.results}


def findable(engine):
    return {Path(row.path).name for row in engine.index.pictures() if row.findable}


def unmount(folder):
    """Leave an empty folder, like an unmounted drive; returns where its files are meanwhile."""
    away = next(one for one in folder.parents if one.name != "photos") / f"{folder.name}-away"
    folder.rename(away)
    folder.mkdir()
    return away


def mount(away, folder):
    folder.rmdir()
    away.rename(folder)


def everything(engine):
    """All searchable pictures, with the descriptors and their places."""
    return [(row, aggregated.words.tolist()) for row, aggregated in engine.index.aggregated()]


@pytest.fixture
def nas(collection):
    return collection / "deep"  # seven of the ten pictures


def test_pictures_of_a_folder_that_was_emptied_are_kept_and_nothing_finds_them(engine, collection, nas, tmp_path):
    held = list(engine.index.pictures())
    unmount(nas)
    report = engine.sync(collection, workers=0)
    assert (report.missing, report.removed, report.unchanged, report.skipped) == (7, 0, 3, [])
    assert report.vanished == {str(nas): 4, str(nas / "deeper"): 3}
    assert [row._replace(missing_since=None) for row in engine.index.pictures()] == held
    views = {f"pagoda-{number}.jpg" for number in range(3)}
    assert findable(engine) == views
    assert names(engine.search(collection / "pagoda-1.jpg", SearchOptions(top=10, verify=0))) <= views
    assert {Path(row.path).name for row, _ in engine.index.aggregated()} == views
    assert {Path(row.path).name for row in engine.index.pictures_after(0, 10)} == views
    assert {Path(hit.picture.path).name for _, hits in engine.pairs(9) for hit in hits} <= views
    links = find_links(engine, top=9, progress=lambda *told: None)
    assert {Path(row.path).name for link in links for row in (link.first, link.second)} <= views
    _, root = write_pairs(engine, tmp_path / "pairs.txt", top=9, verify=False, root=None, progress=lambda *told: None)
    assert (root, "other" in (tmp_path / "pairs.txt").read_text()) == (str(collection), False)
    size = engine.index.size()
    assert (size.pictures, size.missing, size.skipped, size.dead) == (3, 7, 0, 0)
    assert engine.check() == []


def test_a_reader_that_is_open_finds_them_no_more_and_then_again(engine, collection, nas):
    query = nas / "other-0.PNG"
    with Engine.open(engine.index.folder) as reader:
        assert "other-0.PNG" in names(reader.search(query, SearchOptions(top=10)))
        kept = shutil.copy(query, collection.parent / "query.png")
        away = unmount(nas)
        engine.sync(collection, workers=0)
        assert "other-0.PNG" not in names(reader.search(kept, SearchOptions(top=10)))
        mount(away, nas)
        engine.sync(collection, workers=0)
        assert "other-0.PNG" in names(reader.search(kept, SearchOptions(top=10)))


def test_pictures_that_are_there_again_are_found_as_before_and_none_is_read(engine, collection, nas):
    before = everything(engine)
    away = unmount(nas)
    engine.sync(collection, workers=0)
    mount(away, nas)
    report = engine.sync(collection, workers=NobodyDescribes())
    assert (report.returned, report.missing, report.added, report.changed, report.unchanged) == (7, 0, 0, 0, 3)
    assert everything(engine) == before
    assert engine.check() == []
    report = engine.sync(collection, workers=NobodyDescribes())
    assert (report.returned, report.unchanged) == (0, 10)


def test_they_come_back_after_the_index_was_compacted_meanwhile(engine, collection, nas):
    before = {row.path: words for row, words in everything(engine)}
    away = unmount(nas)
    engine.sync(collection, workers=0)
    engine.remove([collection / "pagoda-0.jpg"])  # so that there is something to compact
    (collection / "pagoda-0.jpg").unlink()
    engine.compact()
    assert engine.check() == []
    assert engine.index.size().missing == 7
    mount(away, nas)
    assert engine.sync(collection, workers=0).returned == 7
    del before[str(collection / "pagoda-0.jpg")]
    assert {row.path: words for row, words in everything(engine)} == before


def test_a_picture_that_is_there_again_with_another_time_is_compared_and_not_described(engine, collection):
    picture = collection / "pagoda-0.jpg"
    content = picture.read_bytes()
    before = engine.index.picture(str(picture))
    picture.unlink()
    assert engine.sync(collection, workers=0).missing == 1
    picture.write_bytes(content)
    os.utime(picture, (5, 5))
    report = engine.sync(collection, workers=0)
    assert (report.returned, report.changed, report.unchanged) == (1, 0, 9)
    after = engine.index.picture(str(picture))
    assert after == before._replace(mtime_ns=5_000_000_000)
    assert engine.check() == []


def test_another_picture_in_the_place_of_a_missing_one_is_described(engine, collection):
    picture = collection / "pagoda-0.jpg"
    picture.unlink()
    engine.sync(collection, workers=0)
    Image.open(collection / "pagoda-1.jpg").rotate(180).save(picture)
    report = engine.sync(collection, workers=0)
    assert (report.changed, report.returned) == (1, 0)
    assert engine.index.picture(str(picture)).findable
    assert engine.index.size().missing == 0


def test_they_stay_missing_since_the_first_time_and_are_told_of_every_time(engine, collection, nas):
    unmount(nas)
    engine.sync(collection, workers=0)
    with engine.index.writing() as writer:
        rows = [row._replace(missing_since=1234) for row in engine.index.pictures(str(nas))]
        writer._catalogue.put_pictures(rows)
    report = engine.sync(collection, workers=0)
    assert report.missing == 7
    assert {row.missing_since for row in engine.index.pictures(str(nas))} == {1234}


def test_pruning_drops_what_is_gone_now_and_what_was_missing_before(engine, collection, nas):
    unmount(nas)
    engine.sync(collection, workers=0)
    (collection / "pagoda-0.jpg").unlink()
    report = engine.sync(collection, prune=True, workers=0)
    assert (report.removed, report.missing) == (8, 0)
    assert report.vanished == {str(nas): 4, str(nas / "deeper"): 3, str(collection): 1}
    assert {Path(row.path).name for row in engine.index.pictures()} == {"pagoda-1.jpg", "pagoda-2.jpg"}
    assert engine.check() == []


def test_what_is_there_again_is_not_pruned_nor_is_what_lies_elsewhere(engine, collection, nas):
    away = unmount(nas)
    (collection / "pagoda-0.jpg").unlink()
    engine.sync(collection, workers=0)
    assert engine.prune([nas / "deeper"]) == 3
    mount(away, nas)  # before the next sync
    assert engine.prune([collection]) == 1
    assert engine.sync(collection, workers=0).returned == 4
    assert engine.index.size().missing == 0


def test_missing_pictures_can_be_removed(engine, collection, nas):
    unmount(nas)
    engine.sync(collection, workers=0)
    assert engine.remove([nas]) == 7
    assert engine.index.size().missing == 0


def test_a_listed_path_without_a_file_is_reported_and_its_picture_missing_until_it_is_listed_again(engine, collection):
    picture, unknown = collection / "pagoda-0.jpg", collection / "never.jpg"
    content, status = picture.read_bytes(), picture.stat()
    picture.unlink()
    report = engine.add([picture, unknown, collection / "pagoda-1.jpg"], workers=0)
    assert (report.missing, report.unchanged) == (1, 1)
    assert [Path(path).name for path, _ in report.skipped] == ["pagoda-0.jpg", "never.jpg"]
    assert "pagoda-0.jpg" not in findable(engine)
    picture.write_bytes(content)
    os.utime(picture, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert engine.add([picture], workers=NobodyDescribes()).returned == 1
    picture.unlink()
    assert engine.add([picture], prune=True, workers=0).removed == 1
    assert engine.index.picture(str(picture)) is None


def test_of_a_file_that_was_skipped_nothing_is_kept_when_it_is_gone(engine, collection):
    (collection / "empty.jpg").touch()
    engine.sync(collection, workers=0)
    (collection / "empty.jpg").unlink()
    report = engine.sync(collection, workers=0)
    assert (report.missing, report.removed, report.vanished) == (0, 0, {})
    assert engine.index.picture(str(collection / "empty.jpg")) is None


def test_a_picture_that_is_there_but_not_listed_is_not_missing(engine, collection):
    odd = Path(shutil.copy(collection / "pagoda-0.jpg", collection / "pagoda.gif"))  # ignored when folders are walked
    engine.add([odd], workers=0)
    report = engine.sync(collection, workers=0)
    assert report.missing == 0
    assert engine.index.picture(str(odd)).findable


def test_a_picture_that_cannot_be_read_any_more_keeps_its_descriptor(engine, collection, monkeypatch):
    """A drive that goes away after its folders were listed: no content was seen, so none has changed."""
    picture = collection / "pagoda-0.jpg"
    os.utime(picture, (5, 5))  # so that it must be read
    before = engine.index.picture(str(picture))

    def unreadable(path):
        raise OSError(errno.EIO, "Input/output error", os.fspath(path))

    monkeypatch.setattr("d2r.indexing.entry.read_bytes", unreadable)
    report = engine.sync(collection, workers=0)
    assert report.skipped == [(str(picture), "cannot be read: Input/output error")]
    assert engine.index.picture(str(picture)) == before
    monkeypatch.undo()
    assert engine.sync(collection, workers=0).unchanged == 10


def test_a_whole_folder_that_vanished_is_an_error_that_says_how_to_drop_it(engine, collection):
    away = unmount(collection)
    command = f"d2r remove {engine.index.folder} {collection}"
    with pytest.raises(StoreError, match="no pictures there") as empty:
        engine.sync(collection, prune=True, workers=0)
    collection.rmdir()
    with pytest.raises(NotADirectoryError, match="not a folder") as gone:
        engine.sync(collection, prune=True, workers=0)
    assert all("the index is as it was" in str(error.value) and command in str(error.value) for error in (empty, gone))
    assert engine.index.size().pictures == 10
    away.rename(collection)
    assert engine.remove([collection]) == 10


def version_of(index):
    with sqlite3.connect(index / "catalogue.sqlite") as connection:
        return connection.execute("PRAGMA user_version").fetchone()[0]


def test_an_index_of_the_format_before_is_read_as_it_is(engine, collection):
    before, folder = everything(engine), engine.index.folder
    found = names(engine.search(collection / "pagoda-1.jpg", SearchOptions(top=10)))
    as_format_5(folder)
    content = (folder / "catalogue.sqlite").read_bytes()
    with Engine.open(folder) as reader:
        assert everything(reader) == before
        assert names(reader.search(collection / "pagoda-1.jpg", SearchOptions(top=10))) == found
        assert reader.check() == []
        assert (reader.index.size().pictures, reader.index.size().missing) == (10, 0)
        assert len(reader.index.pictures_after(0, 100)) == 10
    assert (folder / "catalogue.sqlite").read_bytes() == content


def test_an_index_of_the_format_before_is_brought_up_to_date_when_it_is_written(engine, collection, nas):
    before, folder = everything(engine), engine.index.folder
    as_format_5(folder)
    with Engine.open(folder) as reader, Engine.open(folder) as writer:
        assert len(findable(reader)) == 10
        away = unmount(nas)
        assert writer.sync(collection, workers=0).missing == 7
        assert version_of(folder) == 6
        assert len(findable(reader)) == 3  # it was opened before
        assert reader.check() == []
        mount(away, nas)
        assert writer.sync(collection, workers=NobodyDescribes()).returned == 7
        assert everything(reader) == before


def test_the_command_line_says_what_is_missing_and_how_to_drop_it(d2r, engine, collection, nas):
    index = engine.index.folder
    away = unmount(nas)
    status, out, _ = d2r("index", collection, "--out", index, "--workers", "0")
    assert status == 0
    assert "3  (7 missing, 3 unchanged)" in out
    assert "7 missing: kept but not searched; `--prune` removes them" in out
    assert f"  4 from {nas}\n  3 from {nas / 'deeper'}\n" in out
    _, out, _ = d2r("info", index)
    assert "missing            7, kept but not searched" in out
    assert f"  4 from {nas}\n" in out
    mount(away, nas)
    _, out, _ = d2r("index", collection, "--out", index, "--workers", "0")
    assert "10  (7 back, 3 unchanged)" in out
    unmount(nas)
    _, out, _ = d2r("index", collection, "--out", index, "--workers", "0", "--prune")
    assert "3  (7 removed, 3 unchanged)" in out
    assert f"7 removed because their files are gone\n  4 from {nas}\n" in out
    assert engine.index.size().missing == 0


@pytest.mark.parametrize(("answer", "left"), [("\n", 7), ("n\n", 7), ("\x04", 7), ("y\n", 0)])
def test_on_a_terminal_it_is_asked_whether_to_drop_them_and_only_yes_does(engine, collection, nas, answer, left):
    unmount(nas)
    terminal, end = pty.openpty()
    arguments = ["index", collection, "--out", engine.index.folder, "--workers", "0"]
    command = [sys.executable, "-c", "from d2r.cli.app import main; main()", *map(os.fspath, arguments)]
    process = subprocess.Popen(command, stdin=end, stdout=end, stderr=subprocess.DEVNULL)
    os.close(end)
    try:
        said = told_until(terminal, "Remove them from the index? [y/N]")
        assert "7 missing" in said
        os.write(terminal, answer.encode())
        assert process.wait(timeout=100) == 0
    finally:
        process.kill()
        process.wait()
        os.close(terminal)
    assert engine.index.size().missing == left


def told_until(terminal, question):
    """Read what a process writes to its terminal until it asks."""
    said = ""
    while question not in said:
        assert select.select([terminal], [], [], 100)[0], said
        said += os.read(terminal, 4096).decode()
    return said
