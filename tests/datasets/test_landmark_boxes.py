"""Reading and writing Google Landmark Boxes: what is read, what is refused, and where errors point."""

import csv
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from d2r.datasets.landmark_boxes import (
    FractionBox,
    LandmarkBoxes,
    LandmarkBoxesError,
    LandmarkPicture,
    from_pixels,
    picture_path,
    read_boxes,
    read_dataset,
    read_pictures,
    to_pixels,
    write_dataset,
)

TRAIN = """"id","url","landmark_id"
"97c0a12e07ae8dd5","http://example.org/a.jpg","6347"
"650c989dd3493748","None","12519"
"05e63ca9b2cde1f4","","None"
"""
BOXES = "id,box\n97c0a12e07ae8dd5,0.1608 0.25 0.95 1.0\n"


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "train.csv").write_text(TRAIN)
    (tmp_path / "boxes_split1.csv").write_text(BOXES)
    (tmp_path / "boxes_split2.csv").write_text("box,id\n0 0 1 0.5,650c989dd3493748\n")
    return tmp_path


def test_the_published_files_are_read(folder):
    dataset = read_dataset(folder)
    assert list(dataset.pictures.values()) == [
        LandmarkPicture("97c0a12e07ae8dd5", "http://example.org/a.jpg", "6347"),
        LandmarkPicture("650c989dd3493748", None, "12519"),
        LandmarkPicture("05e63ca9b2cde1f4", None, None),
    ]
    assert dataset.training == {"97c0a12e07ae8dd5": FractionBox(0.1608, 0.25, 0.95, 1.0)}
    assert dataset.validation == {"650c989dd3493748": FractionBox(0.0, 0.0, 1.0, 0.5)}
    assert dataset.box("650c989dd3493748") == FractionBox(0.0, 0.0, 1.0, 0.5)
    assert dataset.box("05e63ca9b2cde1f4") is None


def test_what_is_written_is_read_the_same_and_written_the_same(folder, tmp_path):
    dataset = read_dataset(folder)
    write_dataset(tmp_path / "new" / "copy", dataset)
    assert read_dataset(tmp_path / "new" / "copy") == dataset
    assert (tmp_path / "new" / "copy" / "train.csv").read_text() == TRAIN.replace('""', '"None"')
    assert '"97c0a12e07ae8dd5","0.1608 0.25 0.95 1.0"' in (tmp_path / "new" / "copy" / "boxes_split1.csv").read_text()


def test_any_file_name_survives_as_an_id(tmp_path):
    names = [" a b,c.jpg", 'say "hi".jpg', "line\nbreak\r.png", "été/=1+1.jpg", os.fsdecode(b"caf\xe9.jpg"), "None"]
    pictures = {name: LandmarkPicture(name, None, name) for name in names if name != "None"}
    dataset = LandmarkBoxes(pictures, {name: FractionBox(0, 0, 1, 1) for name in pictures}, {})
    write_dataset(tmp_path, dataset)
    assert read_dataset(tmp_path) == dataset


def test_a_file_from_a_spreadsheet_is_read(tmp_path):
    (tmp_path / "train.csv").write_bytes(b"\xef\xbb\xbfid,url,landmark_id\r\na,None,1\r\n\r\nb,None,2\r\n")
    pictures = read_pictures(tmp_path / "train.csv")
    assert [(picture.id, picture.row) for picture in pictures.values()] == [("a", 2), ("b", 4)]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("id,url\na,b\n", r"row 1: the columns must be id,url,landmark_id; missing 'landmark_id'$"),
        ("id,url,landmark_id,box\n", r"row 1: .*; unknown or repeated 'box'$"),
        ("id,url,id\n", r"row 1: .*; missing 'landmark_id'; unknown or repeated 'id'$"),
        ("", r"row 1: .*; missing 'id', 'url', 'landmark_id'$"),
        ("id,url,landmark_id\na,b,1\na2,b\n", r"row 3: 2 fields, where the header has 3$"),
        ("id,url,landmark_id\na,b,1,2\n", r"row 2: 4 fields, where the header has 3$"),
        ("id,url,landmark_id\na,b,1\nb,b,1\na,b,2\n", r"row 4: picture 'a' is named twice, first in row 2$"),
        ("id,url,landmark_id\n,b,1\n", r"row 2: id '' cannot be the name of a picture$"),
        ("id,url,landmark_id\n../a,b,1\n", r"row 2: id '../a' cannot be the name of a picture$"),
        ("id,url,landmark_id\n/etc/a,b,1\n", r"row 2: id '/etc/a' cannot be the name of a picture$"),
        ("id,url,landmark_id\na\0,b,1\n", r"row [12]: "),
        ("id,url,landmark_id\n" + "a" * 200_000 + ",b,1\n", r"row 1: damaged CSV after it \(field larger"),
    ],
)
def test_an_unusable_list_of_pictures_is_refused_with_file_and_row(tmp_path, text, problem):
    (tmp_path / "train.csv").write_text(text)
    with pytest.raises(LandmarkBoxesError, match=rf"/train\.csv: {problem}"):
        read_pictures(tmp_path / "train.csv")


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ("a,0 0 1.2 1", "box 0 0 1.2 1: top, left, bottom and right must be in [0, 1]"),
        ("a,-0.1 0 1 1", "box -0.1 0 1 1: top, left, bottom and right must be in [0, 1]"),
        ("a,nan 0 1 1", "box nan 0 1 1: top, left, bottom and right must be in [0, 1]"),
        ("a,0.5 0 0.5 1", "box 0.5 0 0.5 1: it has no area"),
        ("a,0 0.7 1 0.2", "box 0 0.7 1 0.2: it has no area"),
        ("a,0 0 1", "box '0 0 1': expected four numbers, top left bottom right"),
        ("a,0 0 1 1 1", "box '0 0 1 1 1': expected four numbers"),
        ("a,0 0 1 one", "box '0 0 1 one': expected four numbers"),
        ("a,", "box '': expected four numbers"),
        ("a,0 0 1 1\na,0 0 1 0.5", "picture 'a' has a second box"),
        ("c,0 0 1 1", "box of 'c', which is not in train.csv"),
        ("b,0 0 1 1", "picture 'b' has a box in the other file too"),
    ],
)
def test_an_unusable_box_is_refused_with_file_and_row(tmp_path, row, problem):
    (tmp_path / "boxes_split2.csv").write_text(f"id,box\n{row}\n")
    pictures = {name: LandmarkPicture(name, None, None) for name in "ab"}
    with pytest.raises(LandmarkBoxesError) as failure:
        read_boxes(tmp_path / "boxes_split2.csv", pictures, {"b": FractionBox(0, 0, 1, 1)})
    line = 1 + len(row.split("\n"))
    assert str(failure.value).startswith(f"{tmp_path}/boxes_split2.csv: row {line}: {problem}")


def test_a_missing_file_is_named(folder):
    (folder / "boxes_split2.csv").unlink()
    with pytest.raises(LandmarkBoxesError, match=r"boxes_split2.csv: cannot be read: No such file"):
        read_dataset(folder)


def test_a_file_is_replaced_whole_or_kept(folder, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(csv, "writer", full)
    with pytest.raises(OSError, match="No space"):
        write_dataset(folder, LandmarkBoxes({}, {}, {}), force=True)
    assert (folder / "train.csv").read_text() == TRAIN
    assert sorted(path.name for path in folder.iterdir()) == ["boxes_split1.csv", "boxes_split2.csv", "train.csv"]


def test_shares_become_pixels_in_the_order_of_this_library():
    assert to_pixels(FractionBox(top=0.25, left=0.5, bottom=0.75, right=1.0), 400, 200) == (200, 50, 400, 150)
    assert from_pixels((200, 50, 400, 150), 400, 200) == FractionBox(0.25, 0.5, 0.75, 1.0)


@given(st.data(), st.integers(1, 20_000), st.integers(1, 20_000))
def test_pixels_survive_the_way_to_shares_and_back(data, width, height):
    x1, y1 = data.draw(st.integers(0, width - 1)), data.draw(st.integers(0, height - 1))
    x2, y2 = data.draw(st.integers(x1 + 1, width)), data.draw(st.integers(y1 + 1, height))
    box = from_pixels((x1, y1, x2, y2), width, height)
    assert to_pixels(box, width, height) == pytest.approx((x1, y1, x2, y2), abs=1e-6)


def test_a_box_outside_the_picture_is_no_share_of_it():
    with pytest.raises(ValueError, match="must be in"):
        from_pixels((0, 0, 401, 100), 400, 200)


def test_a_picture_lies_under_its_id(tmp_path):
    assert picture_path(tmp_path, "97c0a12e07ae8dd5") == tmp_path / "97c0a12e07ae8dd5.jpg"
    assert picture_path(tmp_path, "petra/1.PNG") == tmp_path / "petra" / "1.PNG"
