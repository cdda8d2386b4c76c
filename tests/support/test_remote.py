import os
import shutil
from pathlib import Path

import pytest

from d2r.engine import Engine
from d2r.images import ImageError, read_image
from d2r.index import StoreError
from d2r.options import SearchOptions
from d2r.sources import find_objects, listed_paths, picture_file_at

pytest.importorskip("pyarrow")
fsspec = pytest.importorskip("fsspec")


@pytest.fixture
def bucket(photo_folder):
    """The photographs in a storage that only fsspec knows, with names that need encoding in a URL."""
    memory = fsspec.filesystem("memory")
    memory.store.clear()
    for number, path in enumerate(sorted(photo_folder.rglob("*.*"))):
        memory.pipe(f"/photos/{'a b' if number % 2 else 'c#d'}/{number}%?{path.suffix}", path.read_bytes())
    memory.pipe("/photos/.hidden/x.jpg", b"")
    memory.pipe("/photos/.x.jpg", b"")
    memory.pipe("/photos/notes.txt", b"")
    yield memory
    memory.store.clear()


@pytest.mark.usefixtures("bucket")
def test_every_picture_of_a_storage_is_found_and_read():
    files = list(find_objects("memory://photos"))
    assert len(files) == 10
    assert [file.path for file in files] == [file.path for file in find_objects("memory://photos/")]
    assert files[0].path.startswith("memory://photos/a%20b/")
    for file in files:
        assert picture_file_at(file.path) == file
        assert file.mtime_ns > 0
        assert read_image(file.path).size
        assert file.size == len(fsspec.filesystem("memory").cat_file(fsspec_path(file.path)))


def fsspec_path(url):
    from urllib.parse import unquote

    return unquote(url.removeprefix("memory:/"))


def test_an_index_follows_a_storage(bucket, tmp_path):
    with Engine.create(tmp_path / "x.index", num_words=64, regions="whole", features="rootsift") as engine:
        assert engine.sync("memory://photos", workers=0).added == 10
        assert engine.sync("memory://photos/", workers=0).unchanged == 10
        best = engine.search("memory://photos/c%23d/8%25%3F.jpg", SearchOptions(top=1)).results[0]
        assert best.path == "memory://photos/c%23d/8%25%3F.jpg"
        bucket.rm("/photos/c#d/8%?.jpg")
        report = engine.sync("memory://photos", workers=0)
        assert (report.missing, report.unchanged) == (1, 9)
        assert "memory://photos/c%23d/8%25%3F.jpg" not in {row.path for row in engine.index.pictures() if row.findable}
        assert engine.sync("memory://photos", prune=True, workers=0).removed == 1
        bucket.rm("/photos", recursive=True)
        with pytest.raises(StoreError, match="no pictures there"):
            engine.sync("memory://photos", workers=0)
        assert engine.index.size().pictures == 9


def test_a_storage_gives_the_index_that_a_folder_gives(photo_folder, tmp_path):
    with Engine.create(tmp_path / "url.index", num_words=64, regions="whole", features="rootsift") as engine:
        engine.sync(photo_folder.as_uri(), workers=0)
        urls = [(row.path, row.digest, row.words, row.slot) for row in engine.index.pictures()]
    with Engine.create(tmp_path / "folder.index", num_words=64, regions="whole", features="rootsift") as engine:
        engine.sync(photo_folder, workers=0)
        files = [(Path(row.path).as_uri(), row.digest, row.words, row.slot) for row in engine.index.pictures()]
    assert urls == files


@pytest.mark.parametrize("url", ["memory://photos/none.jpg", "file:///none.jpg", "nowhere://photos/a.jpg"])
def test_what_is_not_there_is_named(url):
    with pytest.raises(ImageError) as error:
        read_image(url)
    assert error.value.name == url
    with pytest.raises(OSError, match=r".") as missing:
        picture_file_at(url)
    assert missing.value.filename == url
    told = []
    assert list(find_objects(url, on_error=told.append)) == []
    assert [error.filename for error in told] == [url]


def test_a_list_of_paths_and_urls_is_added(d2r, photo_folder, tmp_path, monkeypatch):
    monkeypatch.chdir(photo_folder)
    listed = tmp_path / "list.txt"
    odd = os.fsdecode(b"odd-\xff.jpg")
    shutil.copy(photo_folder / "pagoda-2.jpg", tmp_path / odd)
    listed.write_bytes(
        b"# what was asked for\n\npagoda-0.jpg\n"
        + (photo_folder / "pagoda-1.jpg").as_uri().encode()
        + b"\n"
        + os.fsencode(tmp_path / odd)
        + b"\nnone.jpg\n"
    )
    assert len(list(listed_paths(listed))) == 4
    status, output, error = d2r("index", listed, "--out", tmp_path / "x.index", "--words", "32", "--workers", "0")
    assert status == 0, error
    assert "3 added, 1 skipped" in output
    with Engine.open(tmp_path / "x.index") as engine:
        assert {row.path for row in engine.index.pictures()} == {
            str(photo_folder / "pagoda-0.jpg"),
            (photo_folder / "pagoda-1.jpg").as_uri(),
            str(tmp_path / odd),
        }
