"""The index on disk as one object: search a consistent snapshot, and commit changes whole."""

from __future__ import annotations

import resource
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from d2r.asmk.codebook import Codebook
from d2r.asmk.codes import LocalCodes
from d2r.asmk.kernels import Aggregated, by_kind
from d2r.boxes import Boxes
from d2r.index.catalogue import Catalogue
from d2r.index.errors import RemovedError, StoreError
from d2r.index.files import CODEBOOK, DIGEST, load_segment, segment_folder
from d2r.index.fusion import depth, fuse, kind_weights
from d2r.index.ranking import NO_SNAPSHOT, Best, SegmentRanker, Snapshot, make_snapshot, segment_and_slot
from d2r.index.rows import Layout, PictureRow
from d2r.index.schema import create_catalogue, make_room
from d2r.index.segment import Segment
from d2r.index.segment_files import check_segment, digest
from d2r.index.writer import Writer, locked
from d2r.support.files import is_index
from d2r.verify.keypoints import Keypoints


class Hit(NamedTuple):
    """One picture found: its catalogue row and its similarity K(query, picture), at most 1."""

    picture: PictureRow
    score: float


@dataclass(frozen=True)
class IndexSize:
    """How large an index is.

    Attributes:
        pictures: number of searchable pictures.
        skipped: number of files that could not be used.
        missing: number of pictures whose files are missing; they are kept but not searched.
        dead: number of descriptors on disk of pictures that were removed or replaced.
        segments: number of segments.
        num_words: size of the codebook; 0 before there is one.
        postings: number of postings, including those of dead pictures.
        search_bytes: bytes of descriptors on disk.
        verify_bytes: bytes of keypoints and regions on disk.
    """

    pictures: int
    skipped: int
    missing: int
    dead: int
    segments: int
    num_words: int
    postings: int
    search_bytes: int
    verify_bytes: int


class Index:
    """The index in a folder, opened for reading; :meth:`writing` gives the one writer.

    Safe to use from several threads. A search sees one consistent state: the last commit when it began.

    Args:
        folder: made by :meth:`create`.
        threads: maximum per search; None is one per processor.

    Raises:
        StoreError: there is no index, it has another format, or it is damaged.
    """

    def __init__(self, folder: Path | str, *, threads: int | None = None) -> None:
        _allow_files()
        self.folder = folder = Path(folder)
        self._ranker = SegmentRanker(threads)
        self._catalogue = Catalogue(folder)
        self._lock = threading.Lock()
        self._snapshot = NO_SNAPSHOT
        self._codebook: Codebook | None = None
        self.settings: dict[str, Any] = self._catalogue.settings()

    @staticmethod
    def create(folder: Path, settings: dict[str, Any]) -> Index:
        """Make an empty index in a new or empty folder and open it; raises :class:`StoreError` if that fails."""
        make_room(folder)  # before the lock file is in it
        with locked(folder):  # of two processes that make one at once, only the first may
            create_catalogue(folder, settings)
        return Index(folder)

    @staticmethod
    def exists(folder: Path) -> bool:
        """Say whether there is an index in a folder."""
        return is_index(folder)

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
        if self._codebook is None and DIGEST in self._catalogue.settings():
            if not self.codebook_file.is_file():
                raise StoreError(f"{self.codebook_file}: missing; restore it, or index the photos again elsewhere")
            self._codebook = Codebook.load(self.codebook_file)
        return self._codebook

    @property
    def codebook_file(self) -> Path:
        """Where the visual words are kept."""
        return self.folder / CODEBOOK

    def pictures(self, under: str | None = None) -> Iterator[PictureRow]:
        """Yield pictures by path, including skipped ones: all, or those at or under the absolute path ``under``."""
        return self._catalogue.pictures(under)

    def picture(self, path: str) -> PictureRow | None:
        """Return the picture at an absolute path."""
        return self._catalogue.at_path(path)

    def picture_at(self, number: int) -> PictureRow | None:
        """Return the picture with a number (:attr:`PictureRow.id`)."""
        return self._catalogue.at_id(number)

    def pictures_after(self, number: int, limit: int) -> list[PictureRow]:
        """Return the first ``limit`` searchable pictures with a higher number, in order of number."""
        return self._catalogue.after(number, limit)

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
            num_words=self.codebook.num_words if self.codebook else 0,
            postings=sum(segment.postings for segment in layout.segments),
            search_bytes=sum(segment.search_bytes for segment in layout.segments),
            verify_bytes=sum(segment.verify_bytes for segment in layout.segments),
        )

    def search(self, query: Aggregated, top: int) -> list[Hit]:
        """Return the pictures most similar to a query by R-ASMK*, best first, at most ``top``, none with score 0.

        Args:
            query: packed signs, with as many bits as the codebook's codes.
            top: at least 1.
        """
        return self.search_all([query], top)[0]

    def search_all(self, queries: Sequence[Aggregated], top: int) -> list[list[Hit]]:
        """Return the results of :meth:`search` for several queries, all from one state of the index.

        They are scored together, segment by segment, so that each part of the index is read only once.

        Raises:
            ValueError: a query is not packed signs with as many bits as the codebook's codes, or its words do not
                ascend.
        """
        if top < 1:
            raise ValueError("top must be 1 or more")
        codebook = self.codebook
        for query in queries:
            query.check_signs()
            if codebook is not None and query.dim != codebook.bits:
                raise ValueError(f"a query has codes of {query.dim} bits, but the index has codes of {codebook.bits}")
        while True:
            snapshot = self._fresh()
            hits = self.hits(self._rank(snapshot, queries, top))
            if hits is not None:
                return hits
            self.check_changed(snapshot.version)
            # A commit moved or removed one of them meanwhile: search again.

    def kind_weights(self, query: Aggregated) -> NDArray[np.float64]:
        """Return the weight of each kind of features in the score of a query, float64 (K,); see :func:`fuse`."""
        if self.codebook is None or self.codebook.kinds == 1:
            return np.ones(1)
        return kind_weights(self._rank_kinds(self._fresh(), [query], 1)[0])

    def _rank(self, snapshot: Snapshot, queries: Sequence[Aggregated], top: int) -> list[Best]:
        return [fuse(of_query, top) for of_query in self._rank_kinds(snapshot, queries, top)]

    def _rank_kinds(self, snapshot: Snapshot, queries: Sequence[Aggregated], top: int) -> list[tuple[Best, ...]]:
        """Return for each query the ranking of each kind of features."""
        starts = self.codebook.starts if self.codebook is not None else (0,)
        split = [by_kind(query, starts) for query in queries]
        deep = depth(top, len(starts))
        found = [self._ranker.rank(snapshot, [of[kind] for of in split], deep, kind) for kind in range(len(starts))]
        return list(zip(*found, strict=True))

    def hits(self, found: Sequence[Best]) -> list[list[Hit]] | None:
        """Return the pictures of rankings, best first; None if a commit has moved or removed one of them.

        Of equal scores the picture that was indexed first comes first. Which of several equal scores make the end of
        the list depends on where their descriptors are stored.
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
        """Raise :class:`StoreError` unless a commit since a version explains the missing pictures."""
        if self._catalogue.version() == version:
            raise StoreError(f"{self.folder}: its catalogue has lost pictures; `d2r check` says more")

    def layout(self) -> Layout:
        """Return the live segments and their dead slots, at one moment."""
        return self._catalogue.layout()

    def keypoints(self, picture: PictureRow) -> Keypoints:
        """Return the keypoints of a picture, for verification."""
        segment, slot = self._placed(picture)
        codebook = self.codebook
        assert codebook is not None  # every picture comes after the words
        return replace(segment.keypoints(slot), starts=codebook.coarse.starts)

    def local(self, picture: PictureRow) -> LocalCodes:
        """Return the binarised residuals of a picture's keypoints, in their order."""
        codebook = self.codebook
        assert codebook is not None  # there are no pictures before there are words
        segment, slot = self._placed(picture)
        return segment.local(slot, codebook.bits)

    def regions(self, picture: PictureRow) -> tuple[Boxes, NDArray[np.float32]]:
        """Return the boxes (R, 4) that were described, the whole picture first, and their scores (R,)."""
        segment, slot = self._placed(picture)
        return segment.regions(slot)

    def aggregated_of(self, pictures: Sequence[PictureRow]) -> list[Aggregated]:
        """Return the aggregated descriptors of different pictures, in order; empty for one that was removed."""
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
        """Yield every searchable picture with its aggregated descriptor, once each even if segments merge meanwhile."""
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
        """Return the current place of a picture's descriptor."""
        for _ in range(100):
            if picture.segment is None or picture.slot is None:
                raise StoreError(f"{picture.path}: the index holds no descriptor of it ({picture.problem})")
            segment = self._fresh().segments.get(picture.segment)
            if segment is not None:
                return segment, picture.slot
            now = self._catalogue.at_path(picture.path)  # a merge may have moved it
            if now is None:
                break
            picture = now
        raise RemovedError(f"{picture.path}: it was removed from the index meanwhile")

    def _fresh(self) -> Snapshot:
        """Return the state of the last commit, after mapping new segments."""
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
                        break  # no commit since removed it: it is really gone
                    continue
                self._snapshot = make_snapshot(version, segments, layout.hidden)
                return self._snapshot
            raise StoreError(f"{self.folder}: a file is missing ({missing.filename}); restore it or index again")

    def _load(self, number: int) -> Segment:
        return load_segment(self.folder, number)

    def check(self, progress: Callable[[int, int], None] = lambda done, total: None) -> list[str]:
        """Read everything and return what is damaged, one line per file, which names it; empty if nothing is.

        Args:
            progress: called with the number of segments that were read, and the total.
        """
        problems = self._catalogue.check()
        if problems:
            return problems  # what it says about the other files cannot be trusted
        expected = self._catalogue.settings().get(DIGEST)
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
            found = check_segment(segment_folder(self.folder, row.id), row.digests)
            if found and any(one.id == row.id for one in self._catalogue.layout().segments):
                problems += found  # otherwise it was merged meanwhile
            checked.add(row.id)
        progress(len(checked), len(checked))
        if checked and expected is None:
            problems.append(f"{self.codebook_file}: the catalogue has no checksum of it")
        return problems

    @contextmanager
    def writing(self) -> Iterator[Writer]:
        """Hold the index for writing; readers are not disturbed.

        Raises:
            BusyError: another process or thread is writing.
            StoreError: the folder cannot be written.
        """
        with locked(self.folder):
            catalogue = Catalogue(self.folder, write=True)
            try:
                yield Writer(self, catalogue)
            finally:
                catalogue.shrink_log()  # while there is room: it would fail on a full disk
                catalogue.close()


def _allow_files() -> None:
    """Let this process open as many files as the system allows: a segment has fourteen."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = 10_240 if hard == resource.RLIM_INFINITY else min(hard, 65_536)
    if soft != resource.RLIM_INFINITY and soft < most:
        with suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
