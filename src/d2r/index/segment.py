"""A segment: the descriptors of some pictures as plain ``.npy`` arrays, written once, then only memory-mapped.

A picture has a slot, 0 to S - 1. For search the aggregated descriptors are kept by visual word (postings); for
verification and display the points and the regions are kept by picture. A segment holds at most
:data:`MAX_SLOTS` pictures, so that a slot takes two bytes, and the scores of all its pictures stay in a core's cache
while the postings stream past.
"""

from __future__ import annotations

import hashlib
import mmap
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from tokenize import TokenError
from typing import Any

import numpy as np
from numpy.typing import NDArray

from d2r.asmk.codes import LocalCodes
from d2r.asmk.kernels import Aggregated, check_words
from d2r.boxes import Boxes
from d2r.index.scoring import copy_live, count_live, postings_of, sort_postings
from d2r.support.checks import check_array, check_starts
from d2r.support.files import sync
from d2r.verify.points import Points

MAX_SLOTS = 65536
"""Pictures a segment holds at most: as many as 16 bits tell apart."""

_SEARCH = ("words", "word_starts", "posting_slots", "posting_codes", "g")
_ROWS = {
    "point_starts": ("positions", "scales", "angles", "point_words", "point_codes", "local_words", "local_codes"),
    "region_starts": ("boxes", "box_scores"),
}  # of each picture a range of rows of these arrays, from its start to the next picture's
_VERIFY = (*_ROWS, *(name for names in _ROWS.values() for name in names))
_CHUNK = 4 << 20  # postings that a merge holds in memory at once
_TURN = 128.0 / np.pi  # steps of an angle on the disk in a radian: 256 in a turn


@dataclass(frozen=True)
class Entry:
    """What the index keeps of one picture.

    Attributes:
        aggregated: its R-ASMK* descriptor: packed signs.
        boxes: float32 (R, 4), its regions; row 0 is the whole picture.
        box_scores: float32 (R,).
        points: what verification matches.
        local: of the features that are the points, in their order: what of them can join a query.
    """

    aggregated: Aggregated
    boxes: Boxes
    box_scores: NDArray[np.float32]
    points: Points
    local: LocalCodes


@dataclass(frozen=True)
class Written:
    """A segment on the disk.

    Attributes:
        slots: its pictures.
        postings: their visual words together.
        search_bytes: of files that search reads.
        verify_bytes: of the others.
        digests: of each file, by the name of its array, see :func:`digest`.
    """

    slots: int
    postings: int
    search_bytes: int
    verify_bytes: int
    digests: Mapping[str, str]


@dataclass(frozen=True)
class Segment:
    """The arrays of one segment, memory-mapped; S pictures, U words that occur, P postings, F points, R regions.

    Attributes:
        words: int32 (U,), ascending.
        word_starts: int64 (U + 1,), the postings of ``words[u]`` are rows ``word_starts[u]`` to ``word_starts[u + 1]``.
        posting_slots: uint16 (P,), ascending within a word.
        posting_codes: uint64 (P, B).
        g: float32 (S,), 1 / sqrt(number of words), 0 for a picture without any.
        point_starts: int64 (S + 1,).
        positions: float32 (F, 2).
        scales: float32 (F,).
        angles: uint8 (F,), 256 steps in a turn.
        point_words: uint8 (F,), ascending within a picture.
        point_codes: uint64 (F, B).
        local_words: int32 (F,), the visual words of the points' features, and not the coarse ones.
        local_codes: uint64 (F, B).
        region_starts: int64 (S + 1,).
        boxes: float32 (R, 4).
        box_scores: float32 (R,).
    """

    words: NDArray[np.int32]
    word_starts: NDArray[np.int64]
    posting_slots: NDArray[np.uint16]
    posting_codes: NDArray[np.uint64]
    g: NDArray[np.float32]
    point_starts: NDArray[np.int64]
    positions: NDArray[np.float32]
    scales: NDArray[np.float32]
    angles: NDArray[np.uint8]
    point_words: NDArray[np.uint8]
    point_codes: NDArray[np.uint64]
    local_words: NDArray[np.int32]
    local_codes: NDArray[np.uint64]
    region_starts: NDArray[np.int64]
    boxes: NDArray[np.float32]
    box_scores: NDArray[np.float32]

    @staticmethod
    def load(folder: Path) -> Segment:
        """Map the arrays of a segment.

        Raises:
            FileNotFoundError: it is gone, because its pictures were removed or moved to another segment.
            ValueError: a file is damaged.
        """
        segment = Segment(**{name: _map(_file(folder, name)) for name in (*_SEARCH, *_VERIFY)})
        segment._check()
        return segment

    def _check(self) -> None:
        """Raise ``ValueError`` unless the arrays fit together: no loop then reads or writes beside them.

        Slots are not looked at, which would read all postings: what is indexed by them has :data:`MAX_SLOTS` places.
        """
        if len(self) > MAX_SLOTS:
            raise ValueError(f"it has {len(self):,} pictures")
        postings, words = len(self.posting_slots), len(self.words)
        check_words(self.words)
        check_starts("word_starts", self.word_starts, words, postings)
        blocks = [array.shape[1] if array.ndim == 2 else 0 for array in (self.posting_codes, self.point_codes)]
        shapes: dict[str, tuple[type[np.generic], tuple[int, ...]]] = {
            "g": (np.float32, (len(self),)),
            "posting_slots": (np.uint16, (postings,)),
            "posting_codes": (np.uint64, (postings, blocks[0])),
        }
        points, regions = len(self.point_words), len(self.box_scores)
        check_starts("point_starts", self.point_starts, len(self), points)
        check_starts("region_starts", self.region_starts, len(self), regions)
        shapes |= {
            "positions": (np.float32, (points, 2)),
            "scales": (np.float32, (points,)),
            "angles": (np.uint8, (points,)),
            "point_words": (np.uint8, (points,)),
            "point_codes": (np.uint64, (points, blocks[1])),
            "local_words": (np.int32, (points,)),
            "local_codes": (np.uint64, (points, blocks[0])),
            "boxes": (np.float32, (regions, 4)),
            "box_scores": (np.float32, (regions,)),
        }
        for name, (dtype, shape) in shapes.items():
            check_array(name, getattr(self, name), dtype, shape)

    def __len__(self) -> int:
        return len(self.g)

    @property
    def search_bytes(self) -> int:
        """Bytes of the arrays that search reads."""
        return sum(getattr(self, name).nbytes for name in _SEARCH)

    def stay_cold(self) -> None:
        """Have the system read no more of the postings from the disk than is asked for.

        By default it reads on from wherever a page is missing, a hundred kilobytes where a list of postings has twenty.
        """
        for array in (self.posting_slots, self.posting_codes):
            if len(array):
                _mapping(array).madvise(mmap.MADV_RANDOM)

    def fetch(self, words: NDArray[np.int32]) -> None:
        """Have the system read the postings of some words, int32 (W,), ahead of their use; does not wait."""
        rows = np.flatnonzero(np.isin(self.words, words, assume_unique=True))
        for array in (self.posting_slots, self.posting_codes):
            if not len(array):
                continue
            mapping, width = _mapping(array), array.strides[0]
            header = len(mapping) - array.nbytes
            firsts = (header + self.word_starts[rows] * width) // mmap.PAGESIZE * mmap.PAGESIZE
            lengths = header + self.word_starts[rows + 1] * width - firsts
            for first, length in zip(firsts.tolist(), lengths.tolist(), strict=True):
                mapping.madvise(mmap.MADV_WILLNEED, first, length)

    def points(self, slot: int) -> Points:
        """Return the points of a picture; its arrays are views of the files where they can be."""
        start, stop = self.point_starts[slot], self.point_starts[slot + 1]
        rows = slice(start, stop)
        return Points(
            self.positions[rows],
            self.scales[rows],
            self.angles[rows] * np.float32(1.0 / _TURN),
            self.point_words[rows],
            self.point_codes[rows],
            np.arange(stop - start, dtype=np.int32),
        )

    def local(self, slot: int, bits: int) -> LocalCodes:
        """Return the binarised residuals of a picture's points, views of the files; ``bits`` is of a code."""
        rows = slice(self.point_starts[slot], self.point_starts[slot + 1])
        return LocalCodes(self.local_words[rows], self.local_codes[rows], bits)

    def regions(self, slot: int) -> tuple[Boxes, NDArray[np.float32]]:
        """Return the boxes (R, 4) of a picture, the whole of it first, and their scores (R,)."""
        rows = slice(self.region_starts[slot], self.region_starts[slot + 1])
        return np.array(self.boxes[rows]), np.array(self.box_scores[rows])

    def aggregated(self, dim: int) -> Iterator[Aggregated]:
        """Yield the aggregated descriptor of every slot, in order; one pass over the postings sorts them back."""
        words = np.repeat(self.words, np.diff(self.word_starts))
        order = np.argsort(self.posting_slots, kind="stable")
        starts = np.searchsorted(self.posting_slots[order], np.arange(len(self) + 1))
        for slot in range(len(self)):
            rows = order[starts[slot] : starts[slot + 1]]
            yield Aggregated(words[rows], self.posting_codes[rows], dim)

    def aggregated_of(self, slots: Sequence[int], dim: int) -> list[Aggregated]:
        """Return the aggregated descriptors of different slots, by one pass over the postings' slots."""
        wanted = np.zeros(MAX_SLOTS, np.bool_)
        wanted[np.asarray(slots, np.int64)] = True
        rows = postings_of(wanted, self.posting_slots)
        owners = self.posting_slots[rows]
        words = self.words[np.searchsorted(self.word_starts, rows, side="right") - 1]
        codes = self.posting_codes[rows]
        return [Aggregated(words[owners == slot], codes[owners == slot], dim) for slot in slots]


def write_segment(folder: Path, entries: Sequence[Entry]) -> Written:
    """Write entries as the segment ``folder``, which appears whole and synced or not at all.

    Args:
        folder: must not exist; its parent must.
        entries: at least one, and at most :data:`MAX_SLOTS`, all with codes of as many bits.

    Raises:
        ValueError: an entry is not as :class:`Entry` says.
    """
    _check_entries(entries)

    def write(part: Path) -> None:
        for name, array in _arrays(entries).items():
            np.save(_file(part, name), array)

    return _appear(folder, write)


def merge_segments(folder: Path, sources: Sequence[tuple[Segment, NDArray[np.int64]]]) -> Written:
    """Write some slots of segments as the segment ``folder``, in their order; nothing large is held in memory.

    Args:
        folder: must not exist; its parent must.
        sources: segments, each with the slots to take, int64 ascending; at most :data:`MAX_SLOTS` in all.
    """

    def write(part: Path) -> None:
        _merge_postings(part, sources)
        _merge_pictures(part, sources)

    return _appear(folder, write)


def check_segment(folder: Path, digests: Mapping[str, str]) -> list[str]:
    """Return what is wrong with the files of a segment, one line each that names the file."""
    problems = []
    for name, expected in digests.items():
        file = _file(folder, name)
        try:
            found = digest(file)
        except OSError as error:
            problems.append(f"{file}: cannot be read ({error.strerror or error})")
            continue
        if found != expected:
            problems.append(f"{file}: its content is not what was written")
    return problems


def discard_segment(folder: Path) -> None:
    """Delete the files of a segment, whole or half written, and the folder when nothing else is in it.

    A file that no segment has is not ours and stays.
    """
    if folder.is_symlink():
        return
    for name in (*_SEARCH, *_VERIFY):
        with suppress(OSError):
            _file(folder, name).unlink()
    with suppress(OSError):
        folder.rmdir()


def part_of(folder: Path) -> Path:
    """Return the folder where a segment is written before it is whole; what a killed writer left there is deleted."""
    return folder.with_name(f".{folder.name}.part")


def digest(file: Path) -> str:
    """Return the SHA-256 of a file's content, 64 hexadecimal digits; processors have instructions for it."""
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def _appear(folder: Path, write: Callable[[Path], None]) -> Written:
    """Have a segment written beside its place; move it there when every file is on the disk."""
    part = part_of(folder)
    discard_segment(part)
    part.mkdir()
    try:
        write(part)
        files = {name: _file(part, name) for name in (*_SEARCH, *_VERIFY)}
        for file in files.values():
            sync(file)
        sizes = {name: file.stat().st_size for name, file in files.items()}
        digests = {name: digest(file) for name, file in files.items()}
        slots, postings = len(_map(files["g"])), len(_map(files["posting_slots"]))
        sync(part)
        part.rename(folder)
        sync(folder.parent)
    except BaseException:
        discard_segment(part)
        raise
    search, verify = (sum(sizes[name] for name in names) for names in (_SEARCH, _VERIFY))
    return Written(slots, postings, search, verify, digests)


def _file(folder: Path, name: str) -> Path:
    return folder / f"{name}.npy"


def _mapping(array: NDArray[Any]) -> mmap.mmap:
    """Return the mapping of a whole file that an array of :func:`_map` is the end of."""
    return array._mmap  # type: ignore[attr-defined,no-any-return]


def _map(path: Path) -> NDArray[Any]:
    try:
        return np.lib.format.open_memmap(path, mode="r")
    except (SyntaxError, TokenError) as error:  # what the parser of the header lets through
        raise ValueError(f"{path.name}: its header cannot be read") from error


def _arrays(entries: Sequence[Entry]) -> dict[str, NDArray[np.generic]]:
    aggregated = [entry.aggregated for entry in entries]
    counts = np.array([len(one) for one in aggregated], np.int64)
    flat = np.concatenate([one.words for one in aggregated])
    codes = np.concatenate([one.vectors for one in aggregated])
    _check_ascending("words", flat, _starts(counts), strictly=True)
    occurrences = np.bincount(flat)
    words = np.flatnonzero(occurrences)
    posting_slots, posting_codes = np.empty(len(flat), np.uint16), np.empty(codes.shape, np.uint64)
    sort_postings(flat, codes, _starts(counts), _starts(occurrences), posting_slots, posting_codes)
    points = [entry.points for entry in entries]
    point_starts, point_words = _starts([len(one) for one in points]), np.concatenate([one.words for one in points])
    _check_ascending("words of points", point_words, point_starts, strictly=False)
    return {
        "words": words.astype(np.int32),
        "word_starts": _starts(occurrences[words]),
        "posting_slots": posting_slots,
        "posting_codes": posting_codes,
        "g": np.where(counts > 0, 1.0 / np.sqrt(np.maximum(counts, 1)), 0.0).astype(np.float32),
        "point_starts": point_starts,
        "positions": np.concatenate([one.positions for one in points]),
        "scales": np.concatenate([one.scales for one in points]),
        "angles": np.concatenate([(np.rint(one.angles * _TURN) % 256).astype(np.uint8) for one in points]),
        "point_words": point_words,
        "point_codes": np.concatenate([one.codes for one in points]),
        "local_words": np.concatenate([entry.local.words for entry in entries]),
        "local_codes": np.concatenate([entry.local.codes for entry in entries]),
        "region_starts": _starts([len(entry.boxes) for entry in entries]),
        "boxes": np.concatenate([entry.boxes for entry in entries]),
        "box_scores": np.concatenate([entry.box_scores for entry in entries]),
    }


def _check_entries(entries: Sequence[Entry]) -> None:
    """Raise ``ValueError`` unless there are as many as a segment holds, and the arrays of each fit together."""
    if not 1 <= len(entries) <= MAX_SLOTS:
        raise ValueError(f"a segment holds 1 to {MAX_SLOTS:,} pictures, not {len(entries):,}")
    blocks = entries[0].aggregated.vectors.shape[1]
    for entry in entries:
        words, codes, points, local = entry.aggregated.words, entry.aggregated.vectors, entry.points, entry.local
        if codes.dtype != np.uint64 or not codes.shape[1] == local.codes.shape[1] == blocks:
            raise ValueError("vectors of entries must be packed signs, uint64, all of as many bits")
        count = len(points.words)
        if not (
            len(words) == len(codes)
            and len(entry.boxes) == len(entry.box_scores) > 0
            and count == len(points.positions) == len(points.scales) == len(points.angles) == len(points.codes)
            and count == len(local.words) == len(local.codes)
        ):
            raise ValueError("an entry has a vector for each word, a score for each box, and everything for each point")


def _check_ascending(name: str, every: NDArray[Any], starts: NDArray[np.int64], *, strictly: bool) -> None:
    """Raise ``ValueError`` unless numbers ascend from 0 or more in each of the parts that begin at ``starts``."""
    falls = every[1:] <= every[:-1] if strictly else every[1:] < every[:-1]
    edges = starts[(starts > 0) & (starts < len(every))]
    falls[edges - 1] = False
    if falls.any() or (len(every) and every.min() < 0):
        raise ValueError(f"{name} of an entry must ascend from 0 or more")


def _starts(counts: Sequence[int] | NDArray[np.int64]) -> NDArray[np.int64]:
    starts = np.zeros(len(counts) + 1, np.int64)
    np.cumsum(counts, out=starts[1:])
    return starts


_Sources = Sequence[tuple[Segment, NDArray[np.int64]]]


@contextmanager
def _writing(folder: Path, name: str, shape: tuple[int, ...], dtype: Any) -> Iterator[Callable[[NDArray[Any]], None]]:
    """Yield what appends rows to an array of a known shape; not a mapping, which a full disk would make crash."""
    with _file(folder, name).open("wb") as file:
        header = {"descr": np.lib.format.dtype_to_descr(np.dtype(dtype)), "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(file, header)

        def append(rows: NDArray[Any]) -> None:
            file.write(np.ascontiguousarray(rows, dtype).data)

        yield append


def _write(folder: Path, name: str, shape: tuple[int, ...], dtype: Any, parts: Iterable[NDArray[Any]]) -> None:
    with _writing(folder, name, shape, dtype) as append:
        for part in parts:
            append(part)


def _merge_postings(folder: Path, sources: _Sources) -> None:
    words = np.unique(np.concatenate([segment.words for segment, _ in sources]))
    counts = np.zeros(len(words), np.int64)
    inputs = []
    first = 0
    for segment, slots in sources:
        new_slots = np.full(MAX_SLOTS, -1, np.int32)
        new_slots[slots] = np.arange(first, first + len(slots))
        first += len(slots)
        rows = np.searchsorted(words, segment.words)
        count_live(rows, segment.word_starts, segment.posting_slots, new_slots, counts)
        inputs.append((segment, rows, new_slots))
    total, alive = int(counts.sum()), counts > 0
    _write(folder, "words", (int(alive.sum()),), np.int32, [words[alive]])
    _write(folder, "word_starts", (int(alive.sum()) + 1,), np.int64, [_starts(counts[alive])])
    blocks = sources[0][0].posting_codes.shape[1]
    with (
        _writing(folder, "posting_slots", (total,), np.uint16) as append_slots,
        _writing(folder, "posting_codes", (total, blocks), np.uint64) as append_codes,
    ):
        for chunk in _chunks(counts):
            out_slots, out_codes = _merged(inputs, counts, chunk)
            append_slots(out_slots)
            append_codes(out_codes)


def _chunks(counts: NDArray[np.int64]) -> list[tuple[int, int]]:
    """Cut the words into ranges of about :data:`_CHUNK` postings; a word is never cut."""
    ends = np.cumsum(counts)
    edges = np.unique(np.searchsorted(ends, np.arange(_CHUNK, ends[-1] if len(ends) else 0, _CHUNK)) + 1)
    bounds = [0, *(int(edge) for edge in edges if edge < len(counts)), len(counts)]
    return [(start, stop) for start, stop in pairwise(bounds) if stop > start]


def _merged(
    inputs: Sequence[tuple[Segment, NDArray[np.int64], NDArray[np.int32]]],
    counts: NDArray[np.int64],
    chunk: tuple[int, int],
) -> tuple[NDArray[np.uint16], NDArray[np.uint64]]:
    """Return the live postings of a range of words: slots and codes."""
    starts = _starts(counts[chunk[0] : chunk[1]])
    slots = np.empty(starts[-1], np.uint16)
    codes = np.empty((int(starts[-1]), inputs[0][0].posting_codes.shape[1]), np.uint64)
    ends = starts[:-1].copy()
    for segment, rows, new_slots in inputs:
        start, stop = np.searchsorted(rows, chunk)
        copy_live(
            rows[start:stop] - chunk[0], segment.word_starts[start : stop + 1],
            segment.posting_slots, segment.posting_codes, new_slots, ends, slots, codes,
        )  # fmt: skip
    return slots, codes


def _merge_pictures(folder: Path, sources: _Sources) -> None:
    total = sum(len(slots) for _, slots in sources)
    _write(folder, "g", (total,), np.float32, (segment.g[slots] for segment, slots in sources))
    for starts_name, names in _ROWS.items():
        counts = [np.diff(getattr(segment, starts_name))[slots] for segment, slots in sources]
        starts = _starts(np.concatenate(counts))
        _write(folder, starts_name, (total + 1,), np.int64, [starts])
        for name in names:
            array = getattr(sources[0][0], name)
            shape = (int(starts[-1]), *array.shape[1:])
            _write(folder, name, shape, array.dtype, _live_rows(sources, starts_name, name))


def _live_rows(sources: _Sources, starts_name: str, name: str) -> Iterator[NDArray[Any]]:
    for segment, slots in sources:
        starts, rows = getattr(segment, starts_name), getattr(segment, name)
        for run in np.split(slots, np.flatnonzero(np.diff(slots) != 1) + 1):  # of consecutive slots
            if len(run):
                yield rows[starts[run[0]] : starts[run[-1] + 1]]
