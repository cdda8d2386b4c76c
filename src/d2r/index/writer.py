"""The writer of an index: each change is committed completely or not at all."""

from __future__ import annotations

import errno
import os
import re
import sqlite3
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from filelock import FileLock, Timeout
from numpy.typing import NDArray

from d2r.asmk.codebook import Codebook
from d2r.index import compaction
from d2r.index.catalogue import Catalogue
from d2r.index.errors import StoreError
from d2r.index.listing import Listing
from d2r.index.rows import PictureRow, SegmentRow
from d2r.index.segment import Segment
from d2r.index.segment_files import MAX_SLOTS, Written, check_segment, digest, discard_segment, part_of
from d2r.index.segment_merging import merge_segments
from d2r.index.segment_writing import Entry, write_segment
from d2r.sources import PictureFile

if TYPE_CHECKING:
    from d2r.index.index import Index
from d2r.index.files import DIGEST, LOCK, SEGMENTS, segment_folder

_OURS = re.compile(r"\d{6,}|\.\d{6,}\.part")  # folders of segments, complete or being written


_RESERVE = 256 << 10  # bytes of disk space that adding pictures leaves free


class BusyError(StoreError):
    """Another process is changing the index."""


@dataclass(frozen=True)
class PictureState:
    """What a writer records about a picture file; see the attributes of :class:`PictureRow`."""

    path: str
    size: int
    mtime_ns: int
    digest: bytes | None
    width: int | None = None
    height: int | None = None
    problem: str | None = None


class Writer:
    """Changes an index; made by :meth:`Index.writing`. Every method commits completely or not at all."""

    def __init__(self, index: Index, catalogue: Catalogue) -> None:
        self._index = index
        self._catalogue = catalogue
        self._sweep()

    def set_codebook(self, codebook: Codebook) -> None:
        """Set the visual words of an index that has none yet."""
        if self._index.codebook is not None:
            raise StoreError(f"{self._index.folder}: its visual words are set and cannot change")
        file = self._index.codebook_file
        if file.exists():  # no commit names it: left by a process that died before its commit, or not ours
            file.rename(file.with_name(f"{file.stem}-{uuid.uuid4().hex}{file.suffix}"))
        codebook.save(file)
        with self._catalogue.transaction():
            self._catalogue.put_setting(DIGEST, digest(self._index.codebook_file))

    def listing(self, files: Iterable[PictureFile]) -> Listing:
        """Compare files with the content of the index; only one listing can be used at a time."""
        return Listing(self._catalogue, files)

    def put(self, pictures: Sequence[tuple[PictureState, Entry | None]]) -> None:
        """Add pictures, or replace those at the same path; an entry of None records a skipped file.

        Afterwards small segments are merged if there are enough of them.

        Raises:
            ValueError: an entry was not made with the index's visual words, or does not match :class:`Entry`.
        """
        for start in range(0, len(pictures), MAX_SLOTS):
            self._put(pictures[start : start + MAX_SLOTS])
        self._sweep()
        self._merge_due()

    def _put(self, pictures: Sequence[tuple[PictureState, Entry | None]]) -> None:
        entries = [entry for _, entry in pictures if entry is not None]
        number = self._free_number()
        codebook = self._index.codebook
        if codebook is None and entries:
            raise StoreError(f"{self._index.folder}: set its visual words before adding pictures")
        written = None
        if codebook is not None and entries:
            _check_fits(entries, codebook)
            written = write_segment(segment_folder(self._index.folder, number), entries, codebook.starts)
        self._leave_room()
        rows = []
        slot = 0
        for state, entry in pictures:
            place: tuple[int | None, int | None, int | None] = (None, None, None)
            if entry is not None:
                place = (len(entry.aggregated), number, slot)
                slot += 1
            rows.append(_row(state, *place))
        with self._catalogue.transaction():
            if written is not None:
                self._catalogue.put_segment(_segment_row(number, written))
            self._catalogue.put_pictures(rows)
            self._catalogue.drop_dead_segments()

    def _leave_room(self) -> None:
        """Refuse to fill the disk completely: removing pictures, which frees space, needs a little itself."""
        disk = os.statvfs(self._index.folder)
        if disk.f_bavail * disk.f_frsize < _RESERVE:
            self._sweep()
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), os.fspath(self._index.folder))

    def compact(self, progress: Callable[[int, int], None] = lambda done, total: None) -> None:
        """Merge all segments into as few as possible, and free the disk space of removed pictures.

        This needs as much free space as one full segment. Merges that are complete when it stops or fails are kept.

        Args:
            progress: called with the number of completed merges, and the total.
        """
        groups = compaction.packed(*self._live(None))
        for done, group in enumerate(groups):
            progress(done, len(groups))
            self._merge(group)
        progress(len(groups), len(groups))

    def touch(self, files: Sequence[PictureFile]) -> None:
        """Record the new size and time of files with unchanged content, and that they are not missing."""
        with self._catalogue.transaction():
            rows = [(self._catalogue.at_path(file.path), file) for file in files]
            self._catalogue.put_pictures(
                [
                    row._replace(size=file.size, mtime_ns=file.mtime_ns, missing_since=None)
                    for row, file in rows
                    if row is not None
                ]
            )

    def mark_missing(self, pictures: Sequence[PictureRow]) -> None:
        """Record that the files of pictures are missing: the pictures are kept, but no longer searched.

        Args:
            pictures: rows of this index; those that are missing already keep their date.
        """
        new = [picture for picture in pictures if picture.missing_since is None]
        with self._catalogue.transaction():
            self._catalogue.mark_missing(new, int(time.time()))

    def put_back(self, listing: Listing) -> int:
        """Mark missing pictures as present whose files are listed unchanged, and return their number."""
        back = 0
        while rows := listing.returned(1000):
            with self._catalogue.transaction():
                self._catalogue.mark_missing(rows, None)
            back += len(rows)
        return back

    def put_setting(self, key: str, value: Any) -> None:
        """Change a setting."""
        with self._catalogue.transaction():
            self._catalogue.put_setting(key, value)
        self._index.settings[key] = value

    def remove(self, pictures: Sequence[PictureRow]) -> None:
        """Remove pictures; searches that begin afterwards do not find them."""
        try:
            self._drop(pictures)
        except sqlite3.OperationalError as error:
            if not _disk_is_full(error):
                raise
            for start in range(0, len(pictures), 20):  # removing frees space, so it must need very little
                self._catalogue.shrink_log()
                self._drop(pictures[start : start + 20])
        self._sweep()
        self._merge_due()

    def _drop(self, pictures: Sequence[PictureRow]) -> None:
        with self._catalogue.transaction():
            self._catalogue.drop_pictures(pictures)
            self._catalogue.drop_dead_segments()

    def _due(self) -> list[int]:
        layout = self._catalogue.layout()
        slots = {row.id: row.slots for row in layout.segments}
        return compaction.due({id: count - len(layout.dead.get(id, _NONE)) for id, count in slots.items()}, slots)

    def _live(self, numbers: Sequence[int] | None) -> tuple[dict[int, NDArray[np.int64]], dict[int, int]]:
        """Return the live slots of segments (None: all), and their numbers of slots."""
        layout = self._catalogue.layout()
        slots = {row.id: row.slots for row in layout.segments if numbers is None or row.id in numbers}
        return {id: np.setdiff1d(np.arange(count), layout.dead.get(id, _NONE)) for id, count in slots.items()}, slots

    def _merge_due(self) -> None:
        """Merge segments until no merge is due; if the disk is too full, leave everything unchanged."""
        try:
            while numbers := self._due():
                live, _ = self._live(numbers)
                self._merge([(number, live[number]) for number in numbers])
        except (OSError, sqlite3.OperationalError) as error:
            if not _disk_is_full(error):
                raise
            self._sweep()

    def _merge(self, group: Sequence[tuple[int, NDArray[np.int64]]]) -> None:
        """Merge slots of other segments into one segment."""
        digests = {row.id: row.digests for row in self._catalogue.layout().segments}
        sources = []
        for number, slots in group:
            folder = segment_folder(self._index.folder, number)
            if problems := check_segment(folder, digests[number]):  # damaged content must not get a valid checksum
                raise StoreError(f"{problems[0]}; restore it or index again")
            sources.append((Segment.load(folder), slots))
        number = self._free_number()
        written = merge_segments(segment_folder(self._index.folder, number), sources)
        old = [(source, int(slot)) for source, slots in group for slot in slots]
        with self._catalogue.transaction():
            self._catalogue.put_segment(_segment_row(number, written))
            self._catalogue.move_pictures([(number, new, *place) for new, place in enumerate(old)])
            self._catalogue.drop_dead_segments()
        self._sweep()

    def _free_number(self) -> int:
        """Return a segment number that was never used and has no folders."""
        (self._index.folder / SEGMENTS).mkdir(exist_ok=True)
        number = self._catalogue.next_segment()
        while True:
            folder = segment_folder(self._index.folder, number)
            folders = folder, part_of(folder)
            for one in folders:
                discard_segment(one)  # left by a process that died before its commit
            if not any(map(os.path.lexists, folders)):
                return number
            number += 1  # a folder holds files that are not ours

    def _sweep(self) -> None:
        """Delete the segments that no commit names: removed ones, and those left by a process that died."""
        live = {segment_folder(self._index.folder, row.id).name for row in self._catalogue.layout().segments}
        for folder in (self._index.folder / SEGMENTS).glob("*"):
            if folder.name not in live and _OURS.fullmatch(folder.name):
                discard_segment(folder)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the lock for changing the index in a folder during a block."""
    lock = FileLock(folder / LOCK)
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise BusyError(f"{folder}: another process is changing it; try again when that has ended") from error
    except OSError as error:
        raise StoreError(f"{folder}: it cannot be written ({error.strerror or error})") from error
    try:
        yield
    finally:
        lock.release()


def _disk_is_full(error: OSError | sqlite3.OperationalError) -> bool:
    if isinstance(error, OSError):
        return error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    return error.sqlite_errorcode == sqlite3.SQLITE_FULL


def _check_fits(entries: Sequence[Entry], codebook: Codebook) -> None:
    """Raise ``ValueError`` unless entries were made with these visual words: others would spoil every search."""
    for entry in entries:
        aggregated, local = entry.aggregated, entry.local
        blocks = entry.keypoints.codes.shape[1]
        if not aggregated.dim == local.bits == codebook.bits or blocks != -(-codebook.dim // 64):
            raise ValueError(f"an entry has codes of {aggregated.dim} bits, but the index has codes of {codebook.bits}")
        if any(len(words) and words.max() >= codebook.num_words for words in (aggregated.words, local.words)):
            raise ValueError(f"an entry has words that the index, with {codebook.num_words:,} words, does not have")


def _segment_row(number: int, written: Written) -> SegmentRow:
    return SegmentRow(
        number, written.slots, written.postings, written.search_bytes, written.verify_bytes, written.digests
    )


def _row(state: PictureState, words: int | None, segment: int | None, slot: int | None) -> PictureRow:
    return PictureRow(
        0, state.path, state.size, state.mtime_ns, state.digest, state.width, state.height,
        words, segment, slot, state.problem,
    )  # fmt: skip


_NONE = np.zeros(0, np.int64)
