"""An error about a wrong source of pictures says what the source seems to be."""

import os
import shutil
import sqlite3
import tarfile
import zipfile
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from d2r.sources import SourceError, kind_of, listed_paths

MODELS = Path(__file__).parents[1] / "src" / "d2r" / "models"


def make(name):
    """Write a file of a kind in the working folder; only the first bytes if no library here writes that kind."""
    path = Path(name)
    if name == "archive.zip":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("a.txt", "a")
    elif name.startswith("archive.tar"):
        with tarfile.open(path, "w:gz" if name.endswith("gz") else "w") as archive:
            archive.add(__file__, "a.py")
    elif name == "sqlite":
        with sqlite3.connect(path) as connection:
            connection.execute("CREATE TABLE a (b)")
    elif name == "array.npy":
        np.save(path, np.zeros(9))
    elif name == "film.avi":
        film = cv2.VideoWriter(name, cv2.VideoWriter_fourcc(*"MJPG"), 5, (64, 64))
        film.write(np.zeros((64, 64, 3), np.uint8))
        film.release()
    elif name == "network.onnx":
        shutil.copy(MODELS / "hardnet.onnx", path)
    else:
        path.write_bytes(BEGINNINGS[name])
    return name


BEGINNINGS = {
    "feats.h5": b"\x89HDF\r\n\x1a\n" + bytes(100),
    "renamed.txt": b"\x89HDF\r\n\x1a\n" + bytes(100),
    "paper.pdf": b"%PDF-1.7\n%\xb5\xb5\n",
    "one.delf": b"\n\x14\r\x01\x02\x03?\x15abc",
    "one.boxes": b"\n\x14\r\x01\x02\x03?\x15abc",
    "film.mp4": b"\0\0\0\x20ftypisom" + bytes(20),
    "phone": b"\0\0\0\x20ftypheic" + bytes(20),
    "page.txt": b"<!DOCTYPE html><html>",
    "labels.json": b'{"a": 1}',
    "noise": b"a few words\0\1\2\3",
}


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("feats.h5", "an HDF5 file"),
        ("renamed.txt", "an HDF5 file"),
        ("archive.zip", "a zip archive"),
        ("archive.tar", "an archive"),
        ("archive.tar.gz", "an archive"),
        ("sqlite", "an SQLite database"),
        ("array.npy", "a NumPy array"),
        ("paper.pdf", "a PDF document"),
        ("film.avi", "a video"),
        ("film.mp4", "a video"),
        ("phone", "a HEIC or AVIF picture"),
        ("one.delf", "a file of DELF features"),
        ("one.boxes", "a file of boxes"),
        ("network.onnx", "a network"),
        ("page.txt", "a web page"),
        ("labels.json", "a JSON file"),
        ("noise", "a binary file"),
    ],
)
def test_what_is_no_source_is_refused_with_what_it_seems_to_be(d2r, tmp_path, monkeypatch, name, kind):
    monkeypatch.chdir(tmp_path)
    status, out, err = d2r("index", make(name), "--out", "new.index")
    assert (status, out) == (2, "")
    assert err.startswith(f"error: {name}: it seems to be ")
    assert kind in err
    assert not Path("new.index").exists()


def test_an_index_and_a_codebook_are_said_to_be_what_they_are(d2r, built_index, tmp_path):
    for source, said in (
        (built_index, "it is an index; give the folder of its pictures"),
        (built_index / "codebook.safetensors", "it seems to be a codebook, which `--codebook` takes"),
        (built_index / "catalogue.sqlite", "an SQLite database"),
        (tmp_path / "nowhere", "there is no such folder or file"),
        ("/dev/null", "neither a folder nor a file"),
    ):
        status, _, err = d2r("index", source, "--out", tmp_path / "new.index")
        assert status == 2
        assert said in err
    assert not (tmp_path / "new.index").exists()


def test_pictures_are_known_by_content_or_name_and_lists_are_what_else_is_text(tmp_path, photo_folder):
    for number, suffix in enumerate((".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tiff", ".gif")):
        file = tmp_path / f"{number}{suffix}"
        Image.open(photo_folder / "pagoda-0.jpg").save(file)
        assert kind_of(str(file.rename(tmp_path / f"without-ending-{number}"))) == "picture"
    (tmp_path / "broken.JPG").write_bytes(b"\0 no picture")
    assert kind_of(str(tmp_path / "broken.JPG")) == "picture"
    assert kind_of(str(photo_folder)) == "folder"
    assert kind_of("s3://photos/2024") == "url"
    for line in (b"BMW/1.jpg", b"II/1.jpg", b"PK/1.jpg", b"BZh/1.jpg", b"{a}/1.jpg", b"\xff\xe9.jpg", b"", b"# none"):
        (tmp_path / "list").write_bytes(line + b"\n")
        assert kind_of(str(tmp_path / "list")) == "list"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"a.jpg\nb.jpg\nc\0d.jpg\n", "line 3: it has a zero byte"),
        ("a.jpg\nb.jpg\n".encode("utf-16"), "line 1: it has a zero byte; save it as UTF-8"),
        (b"x.jpg\n" * 20_000 + b"\0\n", "line 20001: it has a zero byte"),
    ],
)
def test_a_line_that_can_be_no_path_is_named_before_anything_is_made(d2r, tmp_path, content, said):
    (tmp_path / "list.txt").write_bytes(content)
    status, out, err = d2r("index", tmp_path / "list.txt", "--out", tmp_path / "new.index")
    assert (status, out) == (2, "")
    assert "list.txt" in err
    assert said in err or "it seems to be a binary file" in err
    assert not (tmp_path / "new.index").exists()
    with pytest.raises(SourceError, match=said.partition(":")[0]):
        list(listed_paths(tmp_path / "list.txt"))


def test_a_list_may_begin_with_the_mark_of_utf_8_and_have_names_that_are_not(tmp_path):
    (tmp_path / "list.txt").write_bytes(b"\xef\xbb\xbfa.jpg\r\n# b.jpg\n\n \xff\xe9.jpg\n")
    assert [os.fsencode(path) for path in listed_paths(tmp_path / "list.txt")] == [b"a.jpg", b"\xff\xe9.jpg"]


def test_a_single_picture_is_added(d2r, engine, collection, tmp_path):
    picture = Path(shutil.copy(collection / "pagoda-0.jpg", tmp_path / "one more"))
    status, out, err = d2r("index", picture, "--out", engine.index.folder, "--workers", "0")
    assert status == 0, err
    assert "11  (1 added)" in out
    assert engine.index.picture(str(picture)).findable
