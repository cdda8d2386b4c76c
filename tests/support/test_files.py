"""Atomic writing of files, and printable paths."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from d2r.support.files import OutputError, display_path, move_new, own_folder, remove_own_folder, replacing, sync


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_what_was_written_takes_the_place_of_the_old_file(tmp_path: Path) -> None:
    target = tmp_path / "file"
    target.write_text("old")
    with replacing(target) as part:
        part.write_text("new")
        assert target.read_text() == "old"
        assert part.parent == tmp_path  # the same disk, so that the rename is atomic
    assert target.read_text() == "new"
    assert names(tmp_path) == ["file"]


def test_a_new_file_appears_only_when_the_block_has_ended(tmp_path: Path) -> None:
    with replacing(tmp_path / "file") as part:
        part.write_text("new")
        assert not (tmp_path / "file").exists()
    assert names(tmp_path) == ["file"]


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt(), ValueError()])
def test_after_an_error_the_old_content_is_kept_and_nothing_is_left(tmp_path: Path, error: BaseException) -> None:
    target = tmp_path / "file"
    target.write_text("old")
    with pytest.raises(type(error)), replacing(target) as part:  # noqa: PT012 - the error must come after a write
        part.write_text("half of the n")
        raise error
    assert target.read_text() == "old"
    assert names(tmp_path) == ["file"]


def test_an_error_before_anything_is_written_keeps_the_old_content(tmp_path: Path) -> None:
    target = tmp_path / "file"
    target.write_text("old")
    with pytest.raises(FileNotFoundError), replacing(target):
        pass
    assert target.read_text() == "old"
    assert names(tmp_path) == ["file"]


def test_nothing_is_replaced_when_the_data_does_not_reach_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(handle: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    target = tmp_path / "file"
    target.write_text("old")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="Input/output error"), replacing(target) as part:
        part.write_text("new")
    assert target.read_text() == "old"
    assert names(tmp_path) == ["file"]


def test_a_folder_in_the_way_is_an_error_and_stays(tmp_path: Path) -> None:
    (tmp_path / "file").mkdir()
    with pytest.raises(OSError), replacing(tmp_path / "file") as part:  # noqa: PT011 - its type differs by system
        part.write_text("new")
    assert (tmp_path / "file").is_dir()
    assert names(tmp_path) == ["file"]


def test_data_and_folder_are_synced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced = []
    fsync = os.fsync

    def note(handle: int) -> None:
        synced.append(os.path.realpath(f"/proc/self/fd/{handle}"))
        fsync(handle)

    monkeypatch.setattr(os, "fsync", note)
    with replacing(tmp_path / "file") as part:
        part.write_text("new")
    assert synced == [os.path.realpath(part), os.path.realpath(tmp_path)]


def test_sync_of_a_missing_file_is_an_error_and_leaks_no_handle(tmp_path: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - a count of names
    for _ in range(5):
        sync(tmp_path)
        with pytest.raises(FileNotFoundError):
            sync(tmp_path / "none")
    assert len(os.listdir("/proc/self/fd")) == before  # noqa: PTH208


@pytest.mark.parametrize(
    ("path", "shown"),
    [
        ("photos/a.jpg", "photos/a.jpg"),
        (Path("photos") / "é ö 日本.jpg", "photos/é ö 日本.jpg"),
        (b"photos/caf\xe9.jpg", r"photos/caf\xe9.jpg"),
        (os.fsdecode(b"photos/\xff\xfe.jpg"), r"photos/\xff\xfe.jpg"),
        (Path(os.fsdecode(b"\x80")), r"\x80"),
    ],
)
def test_a_path_is_shown_as_printable_text(path: str | bytes | Path, shown: str) -> None:
    assert display_path(path) == shown
    display_path(path).encode("utf-8")  # can be printed and stored


def test_a_link_is_neither_followed_nor_replaced(tmp_path: Path) -> None:
    (tmp_path / "target").write_text("old")
    (tmp_path / "link").symlink_to("target")
    with pytest.raises(OutputError, match="link: it is a link to target"), replacing(tmp_path / "link") as part:
        part.write_text("new")
    assert ((tmp_path / "link").readlink(), (tmp_path / "target").read_text()) == (Path("target"), "old")
    assert names(tmp_path) == ["link", "target"]


def test_a_folder_is_removed_only_where_it_was_made_as_ones_own(tmp_path: Path) -> None:
    own, other = tmp_path / "own", tmp_path / "other"
    own_folder(own)
    own_folder(own)
    (own / "deep").mkdir()
    (own / "deep" / "file").touch()
    remove_own_folder(own, filled=False)
    assert (own / "deep" / "file").exists()
    other.mkdir()
    (other / "mine").write_text("mine")
    with pytest.raises(OutputError, match="other: it holds files that d2r did not put there"):
        own_folder(other)
    (tmp_path / "link").symlink_to(own)
    with pytest.raises(OutputError, match="link: a folder for work in progress is needed here"):
        own_folder(tmp_path / "link")
    for folder in (own, other, tmp_path / "link", tmp_path / "none"):
        remove_own_folder(folder)
    assert names(tmp_path) == ["link", "other"]
    assert (other / "mine").read_text() == "mine"


def test_nothing_is_moved_to_a_name_that_is_taken(tmp_path: Path) -> None:
    (tmp_path / "new").write_text("new")
    (tmp_path / "link").symlink_to("nowhere")
    for name in ("link", "new"):
        with pytest.raises(OutputError, match=f"{name}: it exists"):
            move_new(tmp_path / "new", tmp_path / name)
    move_new(tmp_path / "new", tmp_path / "moved")
    assert names(tmp_path) == ["link", "moved"]
