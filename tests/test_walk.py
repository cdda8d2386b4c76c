import os
from pathlib import Path

import pytest

from d2r.walk import find_pictures, picture_job


def test_pictures_are_found_to_any_depth_whatever_the_case_of_their_ending(tmp_path):
    wanted = ["a.jpg", "b.JPEG", "deep/c.Png", "deep/er/d.webp", "e.BMP", "f.tif", "g.TIFF"]
    others = ["notes.txt", "h.gif", "jpg", "i.jpg.part", ".hidden.jpg", ".thumbnails/j.jpg", "deep/.k/l.jpg"]
    for name in wanted + others:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"12345")
    jobs = list(find_pictures(tmp_path))
    assert sorted(os.path.relpath(job.path, tmp_path) for job in jobs) == sorted(wanted)
    assert all(job.size == 5 and Path(job.path).stat().st_mtime_ns == job.mtime_ns for job in jobs)


def test_the_order_is_the_same_every_time(tmp_path):
    for name in ("b/2.jpg", "a/1.jpg", "c.jpg", "a/0.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    names = [os.path.relpath(job.path, tmp_path) for job in find_pictures(tmp_path)]
    assert names == ["c.jpg", "a/0.jpg", "a/1.jpg", "b/2.jpg"]


def test_dangling_links_are_reported_and_linked_folders_not_followed(tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "gone.jpg").symlink_to(tmp_path / "nowhere.jpg")
    (tmp_path / "photos" / "loop").symlink_to(tmp_path / "photos")
    (tmp_path / "real.jpg").touch()
    (tmp_path / "photos" / "linked.jpg").symlink_to(tmp_path / "real.jpg")
    errors = []
    jobs = list(find_pictures(tmp_path / "photos", on_error=errors.append))
    assert [Path(job.path).name for job in jobs] == ["linked.jpg"]
    assert [Path(error.filename).name for error in errors] == ["gone.jpg"]


def test_names_that_are_not_utf8_keep_their_bytes(tmp_path):
    name = os.fsencode(tmp_path) + b"/\xff\xe9.jpg"
    os.close(os.open(name, os.O_CREAT | os.O_WRONLY))
    assert [os.fsencode(job.path) for job in find_pictures(tmp_path)] == [name]


def test_a_job_of_a_file_that_is_not_there_is_an_os_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        picture_job(tmp_path / "none.jpg")
