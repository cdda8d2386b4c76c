import os
import socket
from pathlib import Path

import pytest

from d2r.sources import find_pictures, picture_file


def test_pictures_are_found_to_any_depth_whatever_the_case_of_their_ending(tmp_path):
    wanted = ["a.jpg", "b.JPEG", "deep/c.Png", "deep/er/d.webp", "e.BMP", "f.tif", "g.TIFF"]
    others = ["notes.txt", "h.gif", "jpg", "i.jpg.part", ".hidden.jpg", ".thumbnails/j.jpg", "deep/.k/l.jpg"]
    for name in wanted + others:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"12345")
    files = list(find_pictures(tmp_path))
    assert sorted(os.path.relpath(file.path, tmp_path) for file in files) == sorted(wanted)
    assert all(file.size == 5 and Path(file.path).stat().st_mtime_ns == file.mtime_ns for file in files)


def test_the_order_is_the_same_every_time(tmp_path):
    for name in ("b/2.jpg", "a/1.jpg", "c.jpg", "a/0.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    names = [os.path.relpath(file.path, tmp_path) for file in find_pictures(tmp_path)]
    assert names == ["c.jpg", "a/0.jpg", "a/1.jpg", "b/2.jpg"]


def test_dangling_links_are_reported_and_linked_folders_not_followed(tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "gone.jpg").symlink_to(tmp_path / "nowhere.jpg")
    (tmp_path / "photos" / "loop").symlink_to(tmp_path / "photos")
    (tmp_path / "real.jpg").touch()
    (tmp_path / "photos" / "linked.jpg").symlink_to(tmp_path / "real.jpg")
    errors = []
    files = list(find_pictures(tmp_path / "photos", on_error=errors.append))
    assert [Path(file.path).name for file in files] == ["linked.jpg"]
    assert [Path(error.filename).name for error in errors] == ["gone.jpg"]


@pytest.mark.timeout(20)
def test_pipes_and_sockets_are_reported_and_never_waited_for(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # the path of a socket must be short
    os.mkfifo("pipe.jpg")
    (tmp_path / "photo.jpg").write_bytes(b"123")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("socket.png")
        errors = []
        files = list(find_pictures(tmp_path, on_error=errors.append))
    assert [Path(file.path).name for file in files] == ["photo.jpg"]
    assert [Path(error.filename).name for error in errors] == ["pipe.jpg", "socket.png"]
    assert {error.strerror for error in errors} == {"it is not a file"}
    with pytest.raises(OSError, match="not a file"):
        picture_file(tmp_path)


def test_a_folder_that_is_named_like_a_picture_is_walked(tmp_path):
    (tmp_path / "album.jpg").mkdir()
    (tmp_path / "album.jpg" / "a.png").touch()
    assert [os.path.relpath(file.path, tmp_path) for file in find_pictures(tmp_path)] == ["album.jpg/a.png"]


def test_a_folder_that_is_not_there_or_empty_gives_no_pictures(tmp_path):
    errors = []
    assert list(find_pictures(tmp_path / "none", on_error=errors.append)) == []
    assert [error.filename for error in errors] == [str(tmp_path / "none")]
    assert list(find_pictures(tmp_path, on_error=pytest.fail)) == []


def test_paths_are_absolute_and_problems_may_be_ignored(tmp_path, monkeypatch):
    (tmp_path / "a.jpg").touch()
    (tmp_path / "gone.jpg").symlink_to("nowhere.jpg")
    monkeypatch.chdir(tmp_path)
    assert [file.path for file in find_pictures(Path())] == [str(tmp_path / "a.jpg")]


def test_a_name_as_long_as_the_file_system_allows_and_with_odd_characters_is_found(tmp_path):
    names = ["x" * 251 + ".jpg", "a b\n\tc.jpg", "päge 'quoted'.JPG", "two.dots.png"]
    for name in names:
        (tmp_path / name).touch()
    assert sorted(Path(file.path).name for file in find_pictures(tmp_path)) == sorted(names)


def test_names_that_are_not_utf8_keep_their_bytes(tmp_path):
    name = os.fsencode(tmp_path) + b"/\xff\xe9.jpg"
    os.close(os.open(name, os.O_CREAT | os.O_WRONLY))
    assert [os.fsencode(file.path) for file in find_pictures(tmp_path)] == [name]


def test_folders_whose_names_are_not_utf8_are_walked(tmp_path):
    folder = os.fsencode(tmp_path) + b"/\xff\xfe"
    os.mkdir(folder)  # noqa: PTH102
    os.close(os.open(folder + b"/a.jpg", os.O_CREAT | os.O_WRONLY))
    assert [os.fsencode(file.path) for file in find_pictures(tmp_path)] == [folder + b"/a.jpg"]


def test_a_job_of_a_file_that_is_not_there_is_an_os_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        picture_file(tmp_path / "none.jpg")
