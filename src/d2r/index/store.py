"""The index on disk as one object: search a consistent snapshot, and commit changes whole."""

from __future__ import annotations

import errno
import os
import re
import resource
import sqlite3
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import numpy as np
from filelock import FileLock, Timeout
from numpy.typing import NDArray

from d2r.aggregate import Aggregated, LocalCodes
from d2r.boxes import Boxes
from d2r.codebook import Codebook
from d2r.index import compaction
from d2r.index.catalogue import Catalogue, Layout, PictureRow, RemovedError, SegmentRow, StoreError
from d2r.index.listing import Job, Listing
from d2r.index.ranking import NO_SNAPSHOT, Best, Ranker, Snapshot, make_snapshot, segment_and_slot
from d2r.index.segment import (
    MAX_SLOTS,
    Entry,
    Segment,
    Written,
    check_segment,
    digest,
    discard_segment,
    merge_segments,
    part_of,
    write_segment,
)
from d2r.points import Points

_DIGEST = "codebook"  # setting: digest of the file of visual words
_SEGMENTS = "segments"
_CODEBOOK = "codebook.safetensors"
_LOCK = ".writer.lock"
_OURS = re.compile(r"\d{6,}|\.\d{6,}\.part")  # folders of segments, and of those that are being written
_RESERVE = 256 << 10  # bytes that adding pictures leaves on the disk


class BusyError(StoreError):
    """Another process is changing the index."""


class Hit(NamedTuple):
    """One picture found: its catalogue row and its similarity K(query, picture), at most 1."""

    picture: PictureRow
    score: float


@dataclass(frozen=True)
class PictureState:
    """What a writer records of a picture file: see the attributes of the same names of :class:`PictureRow`."""

    path: str
    size: int
    mtime_ns: int
    digest: bytes | None
    width: int | None = None
    height: int | None = None
    problem: str | None = None


@dataclass(frozen=True)
class IndexSize:
    """How large an index is.

    Attributes:
        pictures: that can be found.
        skipped: files that could not be used.
        missing: pictures whose files are missing: kept, and not searched.
        dead: descriptors on disk of pictures that were removed or replaced.
        segments: number of segments.
        words: of the codebook; 0 before there is one.
        postings: visual words of all pictures together, dead ones too.
        search_bytes: of descriptors, on disk.
        verify_bytes: of points and regions, on disk.
    """

    pictures: int
    skipped: int
    missing: int
    dead: int
    segments: int
    words: int
    postings: int
    search_bytes: int
    verify_bytes: int


class Index:
    """The index in a folder, opened for reading; :meth:`writing` gives the one writer.

    Safe to use from several threads. A search sees one consistent state, that of the last commit when it began.

    Args:
        folder: made by :meth:`create`.
        threads: that one search uses at most; None is one a processor.

    Raises:
        StoreError: there is no index, it is of another format, or it is damaged.
    """

    def __init__(self, folder: Path | str, *, threads: int | None = None) -> None:
        _allow_files()
        self.folder = folder = Path(folder)
        self._ranker = Ranker(threads)
        self._catalogue = Catalogue(folder)
        self._lock = threading.Lock()
        self._snapshot = NO_SNAPSHOT
        self._codebook: Codebook | None = None
        self.settings: dict[str, Any] = self._catalogue.settings()

    @staticmethod
    def create(folder: Path, settings: dict[str, Any]) -> Index:
        """Make an empty index in a new or empty folder and open it; :class:`StoreError` when that cannot be."""
        Catalogue.make_room(folder)  # before a lock is left there
        with _locked(folder):  # two that make one at once must not both: the later would have the place of the first
            Catalogue.create(folder, settings)
        return Index(folder)

    @staticmethod
    def exists(folder: Path) -> bool:
        """Say whether there is an index in a folder."""
        return Catalogue.exists(folder)

    def close(self) -> None:
        """Release the catalogue and the mapped files."""
        self._ranker.close()
        self._catalogue.close()
        self._snapshot = NO_SNAPSHOT

    def __enter__(self) -> Index:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def codebook(self) -> Codebook | None:
        """The visual words; None until a writer has set them."""
        if self._codebook is None and _DIGEST in self._catalogue.settings():
            if not self.codebook_file.is_file():
                raise StoreError(f"{self.codebook_file}: missing; restore it, or index the photos again elsewhere")
            self._codebook = Codebook.load(self.codebook_file)
        return self._codebook

    @property
    def codebook_file(self) -> Path:
        """Where the visual words are kept."""
        return self.folder / _CODEBOOK

    def pictures(self, under: str | None = None) -> Iterator[PictureRow]:
        """Yield pictures by path, skipped ones too: all, or those at the absolute path ``under`` or in that folder."""
        return self._catalogue.pictures(under)

    def picture(self, path: str) -> PictureRow | None:
        """Return the picture at an absolute path."""
        return self._catalogue.at_path(path)

    def picture_at(self, number: int) -> PictureRow | None:
        """Return the picture of a number (:attr:`PictureRow.id`)."""
        return self._catalogue.at_id(number)

    def pictures_after(self, number: int, most: int) -> list[PictureRow]:
        """Return the first pictures that can be found and have a higher number, at most ``most``, by number."""
        return self._catalogue.after(number, most)

    def size(self) -> IndexSize:
        """Return counts and bytes."""
        layout = self._catalogue.layout()
        pictures, skipped, missing = self._catalogue.counts()
        return IndexSize(
            pictures=pictures,
            skipped=skipped,
            missing=missing,
            dead=sum(len(slots) for slots in layout.dead.values()),
            segments=len(layout.segments),
            words=self.codebook.words if self.codebook else 0,
            postings=sum(segment.postings for segment in layout.segments),
            search_bytes=sum(segment.search_bytes for segment in layout.segments),
            verify_bytes=sum(segment.verify_bytes for segment in layout.segments),
        )

    def search(self, query: Aggregated, top: int) -> list[Hit]:
        """Return the pictures most similar to a query by R-ASMK*, best first, at most ``top``, none with score 0.

        Args:
            query: packed signs of the codebook's dimension.
            top: at least 1.
        """
        return self.search_all([query], top)[0]

    def search_all(self, queries: Sequence[Aggregated], top: int) -> list[list[Hit]]:
        """Return :meth:`search` of several queries, of one state of the index.

        They are scored together, segment by segment, so that each part of the index is read once for all of them.

        Raises:
            ValueError: a query is not packed signs of as many bits as the codebook's, or its words do not ascend.
        """
        if top < 1:
            raise ValueError("top must be 1 or more")
        codebook = self.codebook
        for query in queries:
            if codebook is not None and query.dim != codebook.bits:
                raise ValueError(
                    f"a query's codes of {query.dim} bits are not like those of the index, of {codebook.bits}"
                )
        while True:
            snapshot = self._fresh()
            hits = self.hits(self._ranker.rank(snapshot, queries, top))
            if hits is not None:
                return hits
            self.check_changed(snapshot.version)
            # A commit moved or removed one of them meanwhile: look again.

    def hits(self, found: Sequence[Best]) -> list[list[Hit]] | None:
        """Return the pictures that a ranking found, best first; None when a commit has moved or removed one of them.

        Of equal scores the picture that was in the index first comes first. Which of several at the end of the list
        are in it at all depends on where their descriptors are.
        """
        scored = [
            list(zip(one["score"].tolist(), map(segment_and_slot, one["place"].tolist()), strict=True)) for one in found
        ]
        places = sorted({place for one in scored for _, place in one})
        pictures = self._catalogue.at_places(places)
        if len(pictures) < len(places):
            return None
        keyed = [[(-score, pictures[place].id, place) for score, place in one] for one in scored]
        return [[Hit(pictures[place], -score) for score, _, place in sorted(one)] for one in keyed]

    def version(self) -> int:
        """Return a number that changes with every commit."""
        return self._catalogue.version()

    def check_changed(self, version: int) -> None:
        """Raise :class:`StoreError` unless there was a commit since a version, which explains what is missing."""
        if self._catalogue.version() == version:
            raise StoreError(f"{self.folder}: its catalogue has lost pictures; `d2r check` says more")

    def layout(self) -> Layout:
        """Return the live segments and their dead slots, of one moment."""
        return self._catalogue.layout()

    def points(self, picture: PictureRow) -> Points:
        """Return what the index keeps of a picture for verification."""
        segment, slot = self._placed(picture)
        return segment.points(slot)

    def local(self, picture: PictureRow) -> LocalCodes:
        """Return the binarised residuals of the features that are a picture's points, in their order."""
        codebook = self.codebook
        assert codebook is not None  # no picture comes before the words
        segment, slot = self._placed(picture)
        return segment.local(slot, codebook.bits)

    def regions(self, picture: PictureRow) -> tuple[Boxes, NDArray[np.float32]]:
        """Return the boxes (R, 4) that were described, the whole picture first, and their scores (R,)."""
        segment, slot = self._placed(picture)
        return segment.regions(slot)

    def aggregated_of(self, pictures: Sequence[PictureRow]) -> list[Aggregated]:
        """Return the aggregated descriptors of different pictures, in order; of one that was removed, no words."""
        codebook = self.codebook
        bits = codebook.bits if codebook is not None else 1
        nothing = Aggregated(np.zeros(0, np.int32), np.zeros((0, -(-bits // 64)), np.uint64), bits)
        found = [nothing] * len(pictures)
        wanted: dict[int, tuple[Segment, list[tuple[int, int]]]] = {}
        for row, picture in enumerate(pictures):
            with suppress(RemovedError):
                segment, slot = self._placed(picture)
                wanted.setdefault(id(segment), (segment, []))[1].append((row, slot))
        for segment, places in wanted.values():
            own = segment.aggregated_of([slot for _, slot in places], bits)
            for (row, _), aggregated in zip(places, own, strict=True):
                found[row] = aggregated
        return found

    def aggregated(self) -> Iterator[tuple[PictureRow, Aggregated]]:
        """Yield every picture that can be found with its aggregated descriptor, each once even when segments merge."""
        finished: set[int] = set()
        yielded: set[int] = set()
        while left := [(number, one) for number, one in self._fresh().segments.items() if number not in finished]:
            number, segment = left[0]
            pictures = self._catalogue.in_segment(number)
            codebook = self.codebook
            if codebook is not None and pictures:
                for slot, aggregated in enumerate(segment.aggregated(codebook.bits)):
                    if slot in pictures and pictures[slot].id not in yielded:
                        yielded.add(pictures[slot].id)
                        yield pictures[slot], aggregated
            finished.add(number)

    def _placed(self, picture: PictureRow) -> tuple[Segment, int]:
        """Return where a picture's descriptor is by now."""
        for _ in range(100):
            if picture.segment is None or picture.slot is None:
                raise StoreError(f"{picture.path}: the index holds no descriptor of it ({picture.problem})")
            segment = self._fresh().segments.get(picture.segment)
            if segment is not None:
                return segment, picture.slot
            now = self._catalogue.at_path(picture.path)  # a merge moved it
            if now is None:
                break
            picture = now
        raise RemovedError(f"{picture.path}: it was removed from the index meanwhile")

    def _fresh(self) -> Snapshot:
        """Return the state of the last commit, mapping what is new."""
        with self._lock:
            version = self._catalogue.version()
            if version == self._snapshot.version:
                return self._snapshot
            old = self._snapshot.segments
            for _ in range(100):
                layout = self._catalogue.layout()
                try:
                    segments = {row.id: old.get(row.id) or self._load(row.id) for row in layout.segments}
                except FileNotFoundError as error:
                    missing = error
                    if self._catalogue.layout().segments == layout.segments:
                        break  # not removed by a commit since: it is really gone
                    continue
                self._snapshot = make_snapshot(version, segments, layout.hidden)
                return self._snapshot
            raise StoreError(f"{self.folder}: a file is missing ({missing.filename}); restore it or index again")

    def _load(self, number: int) -> Segment:
        return load_segment(self.folder, number)

    def check(self, progress: Callable[[int, int], None] = lambda done, total: None) -> list[str]:
        """Read everything and return what is damaged, one line each that names the file; empty when all is well.

        Args:
            progress: told how many segments were read, of how many.
        """
        problems = self._catalogue.check()
        if problems:
            return problems  # what it says of the other files is not to be trusted
        expected = self._catalogue.settings().get(_DIGEST)
        if expected is not None:
            try:
                if digest(self.codebook_file) != expected:
                    problems.append(f"{self.codebook_file}: its content is not what was written")
            except OSError as error:
                problems.append(f"{self.codebook_file}: cannot be read ({error.strerror or error})")
        checked: set[int] = set()
        while left := [row for row in self._catalogue.layout().segments if row.id not in checked]:
            progress(len(checked), len(checked) + len(left))
            row = left[0]
            found = check_segment(_segment_folder(self.folder, row.id), row.digests)
            if found and any(one.id == row.id for one in self._catalogue.layout().segments):
                problems += found  # else it was merged meanwhile
            checked.add(row.id)
        progress(len(checked), len(checked))
        if checked and expected is None:
            problems.append(f"{self.codebook_file}: the catalogue has no checksum of it")
        return problems

    @contextmanager
    def writing(self) -> Iterator[Writer]:
        """Hold the index for writing; readers go on undisturbed.

        Raises:
            BusyError: another process or thread is writing.
            StoreError: the folder cannot be written.
        """
        with _locked(self.folder):
            catalogue = Catalogue(self.folder, write=True)
            try:
                yield Writer(self, catalogue)
            finally:
                catalogue.shrink_log()  # while there is room: on a full disk it could not be any more
                catalogue.close()


class Writer:
    """Changes to an index; made by :meth:`Index.writing`. Every method commits, whole or not at all."""

    def __init__(self, index: Index, catalogue: Catalogue) -> None:
        self._index = index
        self._catalogue = catalogue
        self._sweep()

    def set_codebook(self, codebook: Codebook) -> None:
        """Set the visual words of an index that has none yet."""
        if self._index.codebook is not None:
            raise StoreError(f"{self._index.folder}: its visual words are set and cannot change")
        file = self._index.codebook_file
        if file.exists():  # left by a process that died before its commit, or somebody's own: no commit names it
            file.rename(file.with_name(f"{file.stem}-{uuid.uuid4().hex}{file.suffix}"))
        codebook.save(file)
        with self._catalogue.transaction():
            self._catalogue.put_setting(_DIGEST, digest(self._index.codebook_file))

    def listing(self, files: Iterable[Job]) -> Listing:
        """Compare files with what the index holds; one listing at a time."""
        return Listing(self._catalogue, files)

    def put(self, pictures: Sequence[tuple[PictureState, Entry | None]]) -> None:
        """Add pictures, or replace those of the same path; an entry of None records a file that was skipped.

        Small segments are merged afterwards when enough have gathered.

        Raises:
            ValueError: an entry is not of the index's visual words, or not as :class:`Entry` says.
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
        if codebook is not None:
            _check_fits(entries, codebook)
        written = write_segment(_segment_folder(self._index.folder, number), entries) if entries else None
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
        """Refuse what would fill the disk to the last: to remove pictures, which makes room, takes a little itself."""
        disk = os.statvfs(self._index.folder)
        if disk.f_bavail * disk.f_frsize < _RESERVE:
            self._sweep()
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), os.fspath(self._index.folder))

    def compact(self, progress: Callable[[int, int], None] = lambda done, total: None) -> None:
        """Merge all segments into as few as can be, and give back the disk space of removed pictures.

        Needs as much free space as a full segment takes. What is done when it stops or fails stays done.

        Args:
            progress: told how many merges are done, of how many.
        """
        groups = compaction.packed(*self._live(None))
        for done, group in enumerate(groups):
            progress(done, len(groups))
            self._merge(group)
        progress(len(groups), len(groups))

    def touch(self, files: Sequence[Job]) -> None:
        """Record new size and time of files whose content is what it was; none of them is missing any more."""
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
        """Record that the files of pictures are missing: they are kept, and not searched from then on.

        Args:
            pictures: as this writer's index has them; those that were missing before stay so since then.
        """
        new = [picture for picture in pictures if picture.missing_since is None]
        with self._catalogue.transaction():
            self._catalogue.mark_missing(new, int(time.time()))

    def put_back(self, listing: Listing) -> int:
        """Search missing pictures again whose files are listed as they were, and return how many these are."""
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
        """Remove pictures; a search that begins after this does not find them."""
        try:
            self._drop(pictures)
        except sqlite3.OperationalError as error:
            if not _disk_is_full(error):
                raise
            for start in range(0, len(pictures), 20):  # to remove is what makes room, so it must do with very little
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
        """Return the live slots of segments (None: of all), and how many slots they have."""
        layout = self._catalogue.layout()
        slots = {row.id: row.slots for row in layout.segments if numbers is None or row.id in numbers}
        return {id: np.setdiff1d(np.arange(count), layout.dead.get(id, _NONE)) for id, count in slots.items()}, slots

    def _merge_due(self) -> None:
        """Merge what the policy says, as often as it says so; a disk too full for that leaves all as it is."""
        try:
            while numbers := self._due():
                live, _ = self._live(numbers)
                self._merge([(number, live[number]) for number in numbers])
        except (OSError, sqlite3.OperationalError) as error:
            if not _disk_is_full(error):
                raise
            self._sweep()

    def _merge(self, group: Sequence[tuple[int, NDArray[np.int64]]]) -> None:
        """Make one segment of slots of others."""
        digests = {row.id: row.digests for row in self._catalogue.layout().segments}
        sources = []
        for number, slots in group:
            folder = _segment_folder(self._index.folder, number)
            if problems := check_segment(folder, digests[number]):  # else damage would get a checksum of its own
                raise StoreError(f"{problems[0]}; restore it or index again")
            sources.append((Segment.load(folder), slots))
        number = self._free_number()
        written = merge_segments(_segment_folder(self._index.folder, number), sources)
        old = [(source, int(slot)) for source, slots in group for slot in slots]
        with self._catalogue.transaction():
            self._catalogue.put_segment(_segment_row(number, written))
            self._catalogue.move_pictures([(number, new, *place) for new, place in enumerate(old)])
            self._catalogue.drop_dead_segments()
        self._sweep()

    def _free_number(self) -> int:
        """Return a segment number that was never used, and whose folders are not there."""
        (self._index.folder / _SEGMENTS).mkdir(exist_ok=True)
        number = self._catalogue.next_segment()
        while True:
            folder = _segment_folder(self._index.folder, number)
            folders = folder, part_of(folder)
            for one in folders:
                discard_segment(one)  # written by a process that died before its commit
            if not any(map(os.path.lexists, folders)):
                return number
            number += 1  # somebody keeps something of their own in one

    def _sweep(self) -> None:
        """Delete the segments that no commit names: removed, or left by a process that died; nothing else."""
        live = {_segment_folder(self._index.folder, row.id).name for row in self._catalogue.layout().segments}
        for folder in (self._index.folder / _SEGMENTS).glob("*"):
            if folder.name not in live and _OURS.fullmatch(folder.name):
                discard_segment(folder)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Be the only one to change the index in a folder, in a block."""
    lock = FileLock(folder / _LOCK)
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


def _allow_files() -> None:
    """Let this process open as many files as the system allows it: a segment needs fourteen."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = 10_240 if hard == resource.RLIM_INFINITY else min(hard, 65_536)
    if soft != resource.RLIM_INFINITY and soft < most:
        with suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


def load_segment(index: Path, number: int) -> Segment:
    """Map the arrays of a segment of the index in a folder.

    Raises:
        FileNotFoundError: it is gone, because its pictures were removed or moved to another segment.
        StoreError: a file is damaged.
    """
    folder = _segment_folder(index, number)
    try:
        return Segment.load(folder)
    except ValueError as error:
        raise StoreError(f"{folder}: a file is damaged ({error}); restore it or index again") from error


def _segment_folder(index: Path, number: int) -> Path:
    return index / _SEGMENTS / f"{number:06d}"


def _disk_is_full(error: OSError | sqlite3.OperationalError) -> bool:
    if isinstance(error, OSError):
        return error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    return error.sqlite_errorcode == sqlite3.SQLITE_FULL


def _check_fits(entries: Sequence[Entry], codebook: Codebook) -> None:
    """Raise ``ValueError`` unless entries are of these visual words: one that is not would spoil every search."""
    for entry in entries:
        aggregated, local = entry.aggregated, entry.local
        if not aggregated.dim == local.bits == codebook.bits or entry.points.codes.shape[1] != -(-codebook.dim // 64):
            raise ValueError(f"an entry has codes of {aggregated.dim} bits, and the index of {codebook.bits}")
        if any(len(words) and words.max() >= codebook.words for words in (aggregated.words, local.words)):
            raise ValueError(f"an entry has words that are not of the index, which has {codebook.words:,}")


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
