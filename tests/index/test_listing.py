"""Which files are new or changed, without holding them all in memory."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from d2r.asmk.codebook import Codebook
from d2r.asmk.codes import LocalCodes
from d2r.asmk.kernels import Aggregated
from d2r.index import Entry, Index, PictureState
from d2r.sources import PictureFile
from d2r.verify.keypoints import Keypoints

NOTHING = Entry(
    Aggregated(np.zeros(0, np.int32), np.zeros((0, 2), np.uint64), 128),
    np.array([[0, 0, 9, 9]], np.float32),
    np.ones(1, np.float32),
    Keypoints.empty(128),
    LocalCodes.empty(128),
)


@pytest.fixture
def index(tmp_path: Path) -> Iterator[Index]:
    """Pictures a to e with size 1 and time 1; d was skipped."""
    with Index.create(tmp_path / "x.index", {}) as index:
        with index.writing() as writer:
            writer.set_codebook(Codebook(np.eye(128, dtype=np.float32)))
            writer.put([
                (PictureState(f"/photos/{name}.jpg", 1, 1, name.encode()), None if name == "d" else NOTHING)
                for name in "abcde"
            ])  # fmt: skip
        yield index


def test_new_changed_and_skipped_files_are_pending_in_the_order_they_were_listed(index: Index) -> None:
    listed = [("z", 1, 1), ("e", 1, 1), ("d", 1, 1), ("c", 2, 1), ("b", 1, 2), ("a", 1, 1), ("\udcff", 5, 6)]
    files = [PictureFile(f"/photos/{name}.jpg", size, time) for name, size, time in listed]
    with index.writing() as writer:
        listing = writer.listing(iter(files))
        assert (listing.files, listing.pending) == (7, 5)
        found = list(listing.pending_files())
        # Pictures with a descriptor have a digest, so that a new time alone needs no new description.
        assert [(Path(file.path).stem, file.size, file.mtime_ns, file.digest) for file in found] == [
            ("z", 1, 1, None), ("d", 1, 1, None), ("c", 2, 1, b"c"), ("b", 1, 2, b"b"), ("\udcff", 5, 6, None),
        ]  # fmt: skip
        assert listing.sample(100, seed=1) == found
        some = listing.sample(3, seed=1)
        assert some == listing.sample(3, seed=1)
        assert len(some) == 3
        assert [file for file in found if file in some] == some


def test_of_a_path_that_is_listed_twice_the_first_counts(index: Index) -> None:
    with index.writing() as writer:
        listing = writer.listing([PictureFile("/photos/a.jpg", 1, 1), PictureFile("/photos/a.jpg", 2, 2)])
        assert (listing.files, listing.pending) == (1, 0)


def test_jobs_are_those_of_the_start_even_while_pictures_are_put(index: Index) -> None:
    with index.writing() as writer:
        listing = writer.listing([PictureFile(f"/photos/new-{number:04d}.jpg", 1, 1) for number in range(1203)])
        seen = []
        for file in listing.pending_files():
            seen.append(file.path)
            if len(seen) % 400 == 0:
                writer.put([(PictureState(path, 1, 1, b""), NOTHING) for path in seen])
        assert seen == [f"/photos/new-{number:04d}.jpg" for number in range(1203)]


def test_returned_are_the_missing_pictures_that_were_listed_as_they_were(index: Index) -> None:
    with index.writing() as writer:
        writer.mark_missing([row for row in index.pictures() if row.segment is not None])
        listing = writer.listing(
            [PictureFile(f"/photos/{name}.jpg", 1, time) for name, time in (("a", 1), ("b", 2), ("d", 1), ("z", 1))]
        )
        assert [row.path for row in listing.returned(9)] == ["/photos/a.jpg"]
        assert [Path(file.path).stem for file in listing.pending_files()] == ["b", "d", "z"]
        assert writer.put_back(listing) == 1
        assert listing.returned(9) == []
        assert [Path(row.path).stem for row in index.pictures() if row.findable] == ["a"]
        writer.touch(list(listing.pending_files()))
        assert [Path(row.path).stem for row in index.pictures() if row.findable] == ["a", "b"]
    assert index.check() == []


def test_gone_are_the_pictures_of_a_folder_that_were_not_listed(index: Index) -> None:
    with index.writing() as writer:
        writer.put(
            [(PictureState(path, 1, 1, b""), NOTHING) for path in ("/photos-too/a.jpg", "/photos.jpg", "/z/a.jpg")]
        )
        listing = writer.listing([PictureFile("/photos/b.jpg", 1, 1)])
        assert [row.path for row in listing.gone("/photos")] == [f"/photos/{name}.jpg" for name in "acde"]
        assert [row.path for row in listing.gone("/z")] == ["/z/a.jpg"]
        assert len(list(listing.gone("/"))) == 7
        assert list(listing.gone("/nothing")) == []
