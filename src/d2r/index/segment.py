"""A segment: the descriptors of some pictures as plain ``.npy`` arrays, written once, then only memory-mapped.

Each picture has a slot, 0 to S - 1. For search, aggregated descriptors are stored by visual word, as postings; for
verification and display, keypoints and regions are stored by picture. A segment holds at most :data:`MAX_SLOTS`
pictures, so that a slot takes two bytes, and the scores of all pictures stay in a core's cache while the postings
stream past.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from d2r.asmk.codes import LocalCodes
from d2r.asmk.kernels import Aggregated, check_words
from d2r.boxes import Boxes
from d2r.index.scoring import postings_of
from d2r.index.segment_files import ANGLE_STEPS, MAX_SLOTS, SEARCH_ARRAYS, VERIFY_ARRAYS, array_file, map_array
from d2r.support.checks import check_array, check_starts
from d2r.verify.keypoints import Keypoints


@dataclass(frozen=True)
class Segment:
    """The arrays of one segment, memory-mapped; S pictures, U words that occur, P postings, F keypoints, R regions.

    Attributes:
        words: int32 (U,), ascending.
        word_starts: int64 (U + 1,), the postings of ``words[u]`` are rows ``word_starts[u]`` to ``word_starts[u + 1]``.
        posting_slots: uint16 (P,), ascending within a word.
        posting_codes: uint64 (P, B).
        g: float32 (S,), 1 / sqrt(number of words), 0 for a picture without words; float32 (S, K) with K kinds of
            features, from the words of each kind.
        point_starts: int64 (S + 1,).
        positions: float32 (F, 2).
        scales: float32 (F,).
        angles: uint8 (F,), 256 steps in a turn.
        point_words: uint8 (F,), ascending within a picture.
        point_codes: uint64 (F, B).
        local_words: int32 (F,), the visual words of the keypoints, not the coarse words.
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
            FileNotFoundError: the segment is gone: its pictures were removed, or moved to another segment.
            ValueError: a file is damaged.
        """
        segment = Segment(**{name: map_array(array_file(folder, name)) for name in (*SEARCH_ARRAYS, *VERIFY_ARRAYS)})
        segment._check()
        return segment

    def _check(self) -> None:
        """Raise ``ValueError`` unless the arrays fit together, so that no loop reads or writes out of bounds.

        Slots of postings are not checked, because that would read all postings: arrays indexed by them have
        :data:`MAX_SLOTS` places.
        """
        if len(self) > MAX_SLOTS:
            raise ValueError(f"it has {len(self):,} pictures")
        postings, words = len(self.posting_slots), len(self.words)
        check_words(self.words)
        check_starts("word_starts", self.word_starts, words, postings)
        blocks = [array.shape[1] if array.ndim == 2 else 0 for array in (self.posting_codes, self.point_codes)]
        shapes: dict[str, tuple[type[np.generic], tuple[int, ...]]] = {
            "g": (np.float32, (len(self), *(kinds for kinds in self.g.shape[1:2] if kinds > 1))),
            "posting_slots": (np.uint16, (postings,)),
            "posting_codes": (np.uint64, (postings, blocks[0])),
        }
        keypoints, regions = len(self.point_words), len(self.box_scores)
        check_starts("point_starts", self.point_starts, len(self), keypoints)
        check_starts("region_starts", self.region_starts, len(self), regions)
        shapes |= {
            "positions": (np.float32, (keypoints, 2)),
            "scales": (np.float32, (keypoints,)),
            "angles": (np.uint8, (keypoints,)),
            "point_words": (np.uint8, (keypoints,)),
            "point_codes": (np.uint64, (keypoints, blocks[1])),
            "local_words": (np.int32, (keypoints,)),
            "local_codes": (np.uint64, (keypoints, blocks[0])),
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
        return sum(getattr(self, name).nbytes for name in SEARCH_ARRAYS)

    def stay_cold(self) -> None:
        """Tell the system not to read ahead in the postings.

        By default it reads a hundred kilobytes for a missing page, where a list of postings has twenty.
        """
        for array in (self.posting_slots, self.posting_codes):
            if len(array):
                _mapping(array).madvise(mmap.MADV_RANDOM)

    def fetch(self, words: NDArray[np.int32]) -> None:
        """Tell the system to read the postings of some words, int32 (W,), ahead of their use, without waiting."""
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

    def keypoints(self, slot: int) -> Keypoints:
        """Return the keypoints of a picture; where possible the arrays are views of the files."""
        start, stop = self.point_starts[slot], self.point_starts[slot + 1]
        rows = slice(start, stop)
        return Keypoints(
            self.positions[rows],
            self.scales[rows],
            self.angles[rows] * np.float32(1.0 / ANGLE_STEPS),
            self.point_words[rows],
            self.point_codes[rows],
            np.arange(stop - start, dtype=np.int32),
        )

    def local(self, slot: int, bits: int) -> LocalCodes:
        """Return the binarised residuals of a picture's keypoints, views of the files; codes have ``bits`` bits."""
        rows = slice(self.point_starts[slot], self.point_starts[slot + 1])
        return LocalCodes(self.local_words[rows], self.local_codes[rows], bits)

    def regions(self, slot: int) -> tuple[Boxes, NDArray[np.float32]]:
        """Return the boxes (R, 4) of a picture, the whole picture first, and their scores (R,)."""
        rows = slice(self.region_starts[slot], self.region_starts[slot + 1])
        return np.array(self.boxes[rows]), np.array(self.box_scores[rows])

    def aggregated(self, dim: int) -> Iterator[Aggregated]:
        """Yield the aggregated descriptor of every slot, in order, by one pass over the postings."""
        words = np.repeat(self.words, np.diff(self.word_starts))
        order = np.argsort(self.posting_slots, kind="stable")
        starts = np.searchsorted(self.posting_slots[order], np.arange(len(self) + 1))
        for slot in range(len(self)):
            rows = order[starts[slot] : starts[slot + 1]]
            yield Aggregated(words[rows], self.posting_codes[rows], dim)

    def aggregated_of(self, slots: Sequence[int], dim: int) -> list[Aggregated]:
        """Return the aggregated descriptors of different slots, by one pass over ``posting_slots``."""
        wanted = np.zeros(MAX_SLOTS, np.bool_)
        wanted[np.asarray(slots, np.int64)] = True
        rows = postings_of(wanted, self.posting_slots)
        owners = self.posting_slots[rows]
        words = self.words[np.searchsorted(self.word_starts, rows, side="right") - 1]
        codes = self.posting_codes[rows]
        return [Aggregated(words[owners == slot], codes[owners == slot], dim) for slot in slots]


def _mapping(array: NDArray[Any]) -> mmap.mmap:
    """Return the mapping of the whole file behind an array of :func:`map_array`."""
    return array._mmap  # type: ignore[attr-defined,no-any-return]
