from __future__ import annotations

from pathlib import Path

import pytest

from d2r.datasets.labelled import LabelledDataError, read_labelled


def touch(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")


def found(source: object) -> list[tuple[str, str | None]]:
    return [
        (picture.path.name, picture.landmark and picture.landmark.rpartition("/")[2].rpartition(":")[2])
        for picture in read_labelled(str(source))
    ]


def test_each_sub_folder_is_a_landmark(tmp_path) -> None:
    touch(tmp_path / "petra/2.JPG", tmp_path / "petra/deep/1.png", tmp_path / "giza/3.jpg", tmp_path / "loose.jpg")
    touch(tmp_path / "notes.txt", tmp_path / ".hidden/4.jpg")
    assert found(tmp_path) == [("loose.jpg", None), ("3.jpg", "giza"), ("2.JPG", "petra"), ("1.png", "petra")]


def test_a_folder_of_train_and_test_gives_what_is_to_train_on(tmp_path) -> None:
    touch(tmp_path / "train/petra/1.jpg", tmp_path / "train/giza/2.jpg", tmp_path / "test/petra/3.jpg")
    assert found(tmp_path) == [("2.jpg", "giza"), ("1.jpg", "petra")]
    touch(tmp_path / "other/4.jpg")
    assert found(tmp_path) == [("4.jpg", "other"), ("3.jpg", "test"), ("2.jpg", "train"), ("1.jpg", "train")]


def test_landmarks_of_two_sources_are_never_the_same(tmp_path) -> None:
    touch(tmp_path / "a/petra/1.jpg", tmp_path / "b/petra/1.jpg")
    (first,), (second,) = (read_labelled(str(tmp_path / name)) for name in "ab")
    assert first.landmark != second.landmark


def test_google_landmarks_are_read_in_both_of_their_layouts(tmp_path) -> None:
    labels, pictures = tmp_path / "labels", tmp_path / "pictures"
    labels.mkdir()
    (labels / "train.csv").write_text(
        "id,url,landmark_id\n0a1bcd,http://x/1,7\nffee00,http://x/2,7\nabcdef,http://x/3,None\ngone00,http://x/4,8\n"
    )
    touch(pictures / "train/0/a/1/0a1bcd.jpg", pictures / "ffee00.jpg", pictures / "jpg/abcdef.jpg")
    assert found(f"{labels}={pictures}") == [("0a1bcd.jpg", "7"), ("ffee00.jpg", "7"), ("abcdef.jpg", None)]
    with pytest.raises(LabelledDataError, match=r"train\.csv: none of its 4 pictures is in .*LABELS=PICTURES"):
        read_labelled(str(labels))


def test_a_source_that_cannot_be_read_is_named(tmp_path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(LabelledDataError, match="empty: no pictures in it or below it"):
        read_labelled(str(tmp_path / "empty"))
    with pytest.raises(LabelledDataError, match="missing': there is no such folder"):
        read_labelled(str(tmp_path / "missing"))
    with pytest.raises(LabelledDataError, match="missing': there is no such folder"):
        read_labelled(f"{tmp_path}={tmp_path / 'missing'}")
    with pytest.raises(LabelledDataError, match=r"it has no train\.csv"):
        read_labelled(f"{tmp_path}={tmp_path / 'empty'}")
    (tmp_path / "train.csv").write_text("id,landmark\n")
    with pytest.raises(LabelledDataError, match=r"train\.csv: row 1: the columns must be id,url,landmark_id"):
        read_labelled(str(tmp_path))
