"""Decisions are on disk once made, completely or not at all, and a later session continues from them."""

import os
from pathlib import Path

import pytest
from filelock import FileLock

from d2r.annotate import session as module
from d2r.annotate.session import AnnotateError, AnnotationProgress, Decision, open_session
from d2r.datasets.landmark_boxes import FractionBox, LandmarkBoxesError, LandmarkPicture, read_dataset, write_boxes
from synthetic import texture, write

BOX = FractionBox(0.25, 0.125, 0.75, 0.5)


@pytest.fixture
def photos(tmp_path):
    for name in ("loose.jpg", "petra/a.jpg", "petra/deep/b.jpg", "bay/c.PNG"):
        write(tmp_path / "photos" / name, texture(0, 40, 30))
    (tmp_path / "photos" / "petra" / "notes.txt").touch()
    return tmp_path / "photos"


def names(session):
    return [item.picture.id for item in session.items]


def test_every_picture_of_the_folder_is_shown_with_its_sub_folder_as_landmark(photos, tmp_path):
    with open_session(photos, tmp_path / "out") as session:
        assert [(item.picture.id, item.picture.landmark) for item in session.items] == [
            ("loose.jpg", None),
            ("bay/c.PNG", "bay"),
            ("petra/a.jpg", "petra"),
            ("petra/deep/b.jpg", "petra"),
        ]
        assert all(item.path.is_file() for item in session.items)
        assert session.progress() == AnnotationProgress(pictures=4, boxes=0, none=0, unreadable=0)
        assert read_dataset(tmp_path / "out").pictures == {}


def test_each_decision_is_on_the_disk_when_the_call_returns(photos, tmp_path):
    with open_session(photos, tmp_path / "out") as session:
        session.decide(2, BOX)
        on_disk = read_dataset(tmp_path / "out")
        assert on_disk.training == {"petra/a.jpg": BOX}
        assert on_disk.pictures == {"petra/a.jpg": LandmarkPicture("petra/a.jpg", None, "petra")}
        session.decide(0, None)
        on_disk = read_dataset(tmp_path / "out")
        assert set(on_disk.pictures) == {"petra/a.jpg", "loose.jpg"}
        assert on_disk.box("loose.jpg") is None
        session.decide(2, None)
        assert read_dataset(tmp_path / "out").training == {}
        session.decide(2, BOX)
        assert read_dataset(tmp_path / "out").training == {"petra/a.jpg": BOX}
        assert session.progress() == AnnotationProgress(pictures=4, boxes=1, none=1, unreadable=0)


def test_a_later_session_goes_on(photos, tmp_path):
    with open_session(photos, tmp_path / "out") as session:
        session.decide(0, BOX)
        session.decide(1, None)
    with open_session(photos, tmp_path / "out") as session:
        assert session.decision(0) == Decision(BOX)
        assert session.decision(1) == Decision(None)
        assert session.decision(2) is None
        assert session.next_open(3) == 2
        assert not session.can_undo


def test_undo_takes_back_one_decision_after_the_other(photos, tmp_path):
    with open_session(photos, tmp_path / "out") as session:
        session.decide(0, BOX)
        session.decide(1, None)
        session.decide(0, None)
        assert session.undo() == 0
        assert session.decision(0) == Decision(BOX)
        assert session.undo() == 1
        assert session.decision(1) is None
        assert read_dataset(tmp_path / "out").training == {"loose.jpg": BOX}
        assert session.undo() == 0
        assert session.undo() is None
        assert read_dataset(tmp_path / "out").pictures == {}
        assert read_dataset(tmp_path / "out").training == {}


def test_the_next_picture_is_the_next_that_waits_going_round(photos, tmp_path):
    with open_session(photos, tmp_path / "out") as session:
        assert session.next_open(3) == 0
        session.decide(1, BOX)
        assert session.next_open(0) == 2
        session.mark(2, readable=False)
        assert session.next_open(0) == 3
        assert session.progress() == AnnotationProgress(pictures=4, boxes=1, none=0, unreadable=1)
        session.decide(0, None)
        session.decide(3, None)
        assert session.next_open(0) is None
        assert session.progress().open == 0
        session.mark(2, readable=True)
        assert session.next_open(0) == 2


@pytest.mark.parametrize("failing", ["write_boxes", "write_pictures"])
def test_what_cannot_be_written_changes_nothing(photos, tmp_path, monkeypatch, failing):
    def full(*_):
        raise OSError(28, "No space left on device")

    with open_session(photos, tmp_path / "out") as session:
        session.decide(0, BOX)
        with monkeypatch.context() as broken:
            broken.setattr(module, failing, full)
            with pytest.raises(OSError, match="No space"):
                session.decide(1, BOX)
            with pytest.raises(OSError, match="No space"):
                session.undo()
        assert session.decision(1) is None
        assert session.decision(0) == Decision(BOX)
        # A box on disk without its picture must not become the box of a picture without one.
        session.decide(1, None)
        assert read_dataset(tmp_path / "out").training == {"loose.jpg": BOX}
        assert session.undo() == 1


def test_a_box_whose_picture_was_never_written_is_not_taken_for_a_decision(photos, tmp_path):
    with open_session(photos, tmp_path / "out") as session:
        session.decide(0, BOX)
    write_boxes(tmp_path / "out" / "boxes_split1.csv", {"loose.jpg": BOX, "bay/c.PNG": BOX})  # as after a crash
    with open_session(photos, tmp_path / "out") as session:
        assert session.decision(1) is None
        session.decide(1, None)
    assert read_dataset(tmp_path / "out").training == {"loose.jpg": BOX}


def test_pictures_of_other_folders_stay_in_the_files(photos, tmp_path):
    with open_session(photos / "petra", tmp_path / "out") as session:
        session.decide(0, BOX)
    with open_session(photos / "bay", tmp_path / "out") as session:
        session.decide(0, None)
        assert session.progress().pictures == 1
    assert read_dataset(tmp_path / "out").training == {"a.jpg": BOX}
    assert set(read_dataset(tmp_path / "out").pictures) == {"a.jpg", "c.PNG"}


def test_hostile_names_are_kept_as_they_are(tmp_path):
    strange = ['"><script>alert(1)</script>.jpg', "a,b\nc\r.jpg", os.fsdecode(b"caf\xe9.jpg"), "=1+1.jpg", " .jpg"]
    for name in strange:
        write(tmp_path / "photos" / name, texture(0, 40, 30))
    with open_session(tmp_path / "photos", tmp_path / "out") as session:
        for number in range(len(strange)):
            session.decide(number, BOX)
    assert set(read_dataset(tmp_path / "out").training) == set(strange)
    with open_session(tmp_path / "photos", tmp_path / "out") as session:
        assert session.next_open(0) is None


def test_of_a_sample_four_and_four_are_shown_and_their_boxes_kept_apart(tmp_path):
    for landmark, count in (("petra", 12), ("bay", 5), ("rare", 2)):
        for k in range(count):
            write(tmp_path / "photos" / landmark / f"{k}.jpg", texture(0, 40, 30))
    with (
        pytest.raises(LandmarkBoxesError, match=r"photos: landmark 'rare' has 2 pictures"),
        open_session(tmp_path / "photos", tmp_path / "out", sample_seed=1),
    ):
        pass
    with open_session(tmp_path / "photos", tmp_path / "out", sample_seed=1, leave_out_rare=True) as session:
        assert len(session.items) == 8 + 5
        for number in range(len(session.items)):
            session.decide(number, BOX)
        session.decide(0, None)
        session.undo()
        assert set(read_dataset(tmp_path / "out").training) == set(session.sample.training)
        assert set(read_dataset(tmp_path / "out").validation) == set(session.sample.validation)
    with open_session(tmp_path / "photos", tmp_path / "out", sample_seed=1, leave_out_rare=True) as session:
        assert session.next_open(0) is None


def test_a_folder_without_pictures_is_refused(tmp_path, photos):
    (tmp_path / "empty").mkdir()
    with pytest.raises(AnnotateError, match=r"empty: no pictures$"), open_session(tmp_path / "empty", tmp_path / "out"):
        pass
    only_loose = photos / "petra" / "deep"
    with (
        pytest.raises(AnnotateError, match=r"deep: no pictures in sub-folders"),
        open_session(only_loose, tmp_path / "out", sample_seed=0),
    ):
        pass


def test_two_programs_do_not_write_the_same_files(photos, tmp_path):
    (tmp_path / "out").mkdir()
    with (
        FileLock(tmp_path / "out" / ".annotate.lock"),
        pytest.raises(AnnotateError, match=r"out: another `d2r dataset annotate` is writing there"),
        open_session(photos, tmp_path / "out"),
    ):
        pass


def test_damaged_files_are_refused_not_overwritten(photos, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "train.csv").write_text("id,url\na,b\n")
    with (
        pytest.raises(LandmarkBoxesError, match=r"train.csv: row 1: the columns must be"),
        open_session(photos, tmp_path / "out"),
    ):
        pass
    assert (tmp_path / "out" / "train.csv").read_text() == "id,url\na,b\n"


def test_what_cannot_be_looked_at_is_told(photos, tmp_path):
    (photos / "gone.jpg").symlink_to(tmp_path / "nowhere.jpg")
    with open_session(photos, tmp_path / "out") as session:
        assert "gone.jpg" not in names(session)
        assert [Path(error.filename).name for error in session.skipped] == ["gone.jpg"]
