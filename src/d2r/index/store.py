"""The index on disk as one object: search a consistent snapshot, and commit changes whole."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from filelock import FileLock, Timeout
from numpy.typing import NDArray

from d2r.aggregate import KERNELS, Aggregated, selectivity_by_distance
from d2r.boxes import Boxes
from d2r.codebook import Codebook
from d2r.features.base import Features
from d2r.index.catalogue import Catalogue, PictureRow, SegmentRow, StoreError
from d2r.index.kernels import score_postings
from d2r.index.segment import Entry, Segment, write_segment

_SEGMENTS = "segments"
_CODEBOOK = "codebook.safetensors"
_LOCK = ".writer.lock"


@dataclass(frozen=True)
class Hit:
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
        dead: descriptors on disk of pictures that were removed or replaced.
        segments: number of segments.
        words: of the codebook; 0 before there is one.
        postings: visual words of all pictures together, dead ones too.
        search_bytes: of descriptors, on disk.
        verify_bytes: of local features and regions, on disk.
    """

    pictures: int
    skipped: int
    dead: int
    segments: int
    words: int
    postings: int
    search_bytes: int
    verify_bytes: int


@dataclass(frozen=True)
class _Snapshot:
    version: int
    segments: dict[int, Segment]
    dead: dict[int, NDArray[np.int64]]


class Index:
    """The index in a folder, opened for reading; :meth:`writing` gives the one writer.

    Safe to use from several threads. A search sees one consistent state, that of the last commit when it began.

    Args:
        folder: made by :meth:`create`.

    Raises:
        StoreError: there is no index, it is of another format, or it is damaged.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._catalogue = Catalogue(folder)
        self._lock = threading.Lock()
        self._snapshot = _Snapshot(-1, {}, {})
        self._codebook: Codebook | None = None
        self.settings: dict[str, Any] = self._catalogue.settings()

    @staticmethod
    def create(folder: Path, settings: dict[str, Any]) -> Index:
        """Make an empty index in a new or empty folder and open it; :class:`StoreError` when that cannot be."""
        Catalogue.create(folder, settings)
        return Index(folder)

    @staticmethod
    def exists(folder: Path) -> bool:
        """Say whether there is an index in a folder."""
        return Catalogue.exists(folder)

    def close(self) -> None:
        """Release the catalogue and the mapped files."""
        self._catalogue.close()
        self._snapshot = _Snapshot(-1, {}, {})

    def __enter__(self) -> Index:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def codebook(self) -> Codebook | None:
        """The visual words; None until a writer has set them."""
        if self._codebook is None and (self.folder / _CODEBOOK).is_file():
            self._codebook = Codebook.load(self.folder / _CODEBOOK)
        return self._codebook

    @property
    def codebook_file(self) -> Path:
        """Where the visual words are kept."""
        return self.folder / _CODEBOOK

    def pictures(self) -> list[PictureRow]:
        """Return every picture of the catalogue, by path; skipped ones too."""
        return self._catalogue.pictures()

    def picture(self, path: str) -> PictureRow | None:
        """Return the picture at an absolute path."""
        return self._catalogue.at_path(path)

    def size(self) -> IndexSize:
        """Return counts and bytes."""
        layout = self._catalogue.layout()
        rows = self._catalogue.pictures()
        found = sum(row.segment is not None for row in rows)
        return IndexSize(
            pictures=found,
            skipped=len(rows) - found,
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
        while True:
            found = self._rank(query, top)
            pictures = [self._catalogue.at_place(segment, slot) for _, segment, slot in found]
            hits = [Hit(row, score) for row, (score, _, _) in zip(pictures, found, strict=True) if row is not None]
            if len(hits) == len(found):
                return hits  # else a commit moved or removed one of them meanwhile: look again

    def _rank(self, query: Aggregated, top: int) -> list[tuple[float, int, int]]:
        """Return score, segment and slot of the best pictures."""
        if len(query) == 0:
            return []
        snapshot = self._fresh()
        table = selectivity_by_distance(query.vectors.shape[1], query.dim, KERNELS["r-asmk*"])
        weights = np.ones(len(query), np.float32)
        own = np.float32(1.0 / np.sqrt(len(query)))
        found: list[tuple[float, int, int]] = []
        for number, segment in snapshot.segments.items():
            scores = np.zeros(len(segment), np.float32)
            score_postings(
                query.words, query.vectors, weights,
                segment.word_starts, segment.posting_slots, segment.posting_codes, table, scores,
            )  # fmt: skip
            scores *= segment.g * own
            if number in snapshot.dead:
                scores[snapshot.dead[number]] = 0.0
            found += [(float(scores[slot]), number, int(slot)) for slot in _best(scores, top)]
        return sorted(found, key=lambda hit: (-hit[0], hit[1], hit[2]))[:top]

    def features(self, picture: PictureRow) -> Features:
        """Return the local features that the index keeps of a picture."""
        segment, slot = self._place(picture)
        return segment.features(slot)

    def regions(self, picture: PictureRow) -> tuple[Boxes, NDArray[np.float32]]:
        """Return the boxes (R, 4) that were described, the whole picture first, and their scores (R,)."""
        segment, slot = self._place(picture)
        return segment.regions(slot)

    def aggregated(self) -> Iterator[tuple[PictureRow, Aggregated]]:
        """Yield every picture that can be found with its aggregated descriptor."""
        snapshot = self._fresh()
        assert self.codebook is not None or not snapshot.segments
        for number, segment in snapshot.segments.items():
            assert self.codebook is not None
            for slot, aggregated in enumerate(segment.aggregated(self.codebook.dim)):
                picture = self._catalogue.at_place(number, slot)
                if picture is not None:
                    yield picture, aggregated

    def _place(self, picture: PictureRow) -> tuple[Segment, int]:
        if picture.segment is None or picture.slot is None:
            raise StoreError(f"{picture.path}: the index holds no descriptor of it ({picture.problem})")
        segment = self._fresh().segments.get(picture.segment)
        if segment is None:
            raise StoreError(f"{picture.path}: it was removed from the index meanwhile")
        return segment, picture.slot

    def _fresh(self) -> _Snapshot:
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
                self._snapshot = _Snapshot(version, segments, dict(layout.dead))
                return self._snapshot
            raise StoreError(f"{self.folder}: a file is missing ({missing.filename}); restore it or index again")

    def _load(self, number: int) -> Segment:
        folder = _segment_folder(self.folder, number)
        try:
            return Segment.load(folder)
        except ValueError as error:
            raise StoreError(f"{folder}: a file is damaged ({error}); restore it or index again") from error

    @contextmanager
    def writing(self) -> Iterator[Writer]:
        """Hold the index for writing; readers go on undisturbed.

        Raises:
            StoreError: another process or thread is writing, or the folder cannot be written.
        """
        lock = FileLock(self.folder / _LOCK)
        try:
            lock.acquire(timeout=0)
        except Timeout as error:
            raise StoreError(f"{self.folder}: another process is changing it; try again when that has ended") from error
        except OSError as error:
            raise StoreError(f"{self.folder}: it cannot be written ({error.strerror or error})") from error
        try:
            catalogue = Catalogue(self.folder, write=True)
            try:
                yield Writer(self, catalogue)
            finally:
                catalogue.close()
        finally:
            lock.release()


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
        codebook.save(self._index.codebook_file)

    def put(self, pictures: Sequence[tuple[PictureState, Entry | None]]) -> None:
        """Add pictures, or replace those of the same path; an entry of None records a file that was skipped."""
        entries = [entry for _, entry in pictures if entry is not None]
        number = self._catalogue.next_segment()
        segment = self._write(number, entries) if entries else None
        slot = 0
        with self._catalogue.transaction():
            if segment is not None:
                self._catalogue.put_segment(segment)
            for state, entry in pictures:
                place: tuple[int | None, int | None, int | None] = (None, None, None)
                if entry is not None:
                    place = (number, slot, len(entry.aggregated))
                    slot += 1
                self._catalogue.put_picture(_row(state, *place))
            self._catalogue.drop_dead_segments()
        self._sweep()

    def touch(self, pictures: Sequence[PictureRow]) -> None:
        """Record new size and time of files whose content is what it was."""
        with self._catalogue.transaction():
            for picture in pictures:
                self._catalogue.put_picture(picture)

    def remove(self, pictures: Sequence[PictureRow]) -> None:
        """Remove pictures; a search that begins after this does not find them."""
        with self._catalogue.transaction():
            self._catalogue.drop_pictures(pictures)
            self._catalogue.drop_dead_segments()
        self._sweep()

    def _write(self, number: int, entries: Sequence[Entry]) -> SegmentRow:
        codebook = self._index.codebook
        if codebook is None:
            raise StoreError(f"{self._index.folder}: set its visual words before adding pictures")
        folder = _segment_folder(self._index.folder, number)
        folder.parent.mkdir(exist_ok=True)
        shutil.rmtree(folder, ignore_errors=True)  # written by a process that died before its commit
        search_bytes, verify_bytes = write_segment(folder, entries, codebook.words)
        postings = sum(len(entry.aggregated) for entry in entries)
        return SegmentRow(number, len(entries), postings, search_bytes, verify_bytes)

    def _sweep(self) -> None:
        """Delete the folders of segments that no commit names: removed, or left by a process that died."""
        live = {_segment_folder(self._index.folder, row.id).name for row in self._catalogue.layout().segments}
        for folder in (self._index.folder / _SEGMENTS).glob("*"):
            if folder.name not in live:
                shutil.rmtree(folder, ignore_errors=True)


def _segment_folder(index: Path, number: int) -> Path:
    return index / _SEGMENTS / f"{number:06d}"


def _row(state: PictureState, segment: int | None, slot: int | None, words: int | None) -> PictureRow:
    return PictureRow(
        0, state.path, state.size, state.mtime_ns, state.digest, state.width, state.height,
        segment, slot, words, state.problem,
    )  # fmt: skip


def _best(scores: NDArray[np.float32], top: int) -> NDArray[np.int64]:
    """Return the slots of the ``top`` highest positive scores; of a tie at the end all, so that no order is lost."""
    least = np.partition(scores, -top)[-top] if top < len(scores) else np.float32(0.0)
    return np.flatnonzero((scores >= least) & (scores > 0.0))
