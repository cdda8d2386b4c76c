"""A segment: the descriptors of some pictures as plain ``.npy`` arrays, written once, then only memory-mapped.

A picture has a slot, 0 to S - 1. For search the aggregated descriptors are kept by visual word (postings); for
verification and display the local features and the regions are kept by picture.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from tokenize import TokenError
from typing import Any

import numpy as np
from numpy.typing import NDArray

from d2r.aggregate import Aggregated
from d2r.boxes import Boxes
from d2r.features.base import Features
from d2r.files import sync

_SEARCH = ("word_starts", "posting_slots", "posting_codes", "g")
_VERIFY = (
    "feature_starts", "positions", "scales", "descriptors", "descriptor_units", "region_starts", "boxes", "box_scores",
)  # fmt: skip


@dataclass(frozen=True)
class Entry:
    """What the index keeps of one picture.

    Attributes:
        aggregated: its R-ASMK* descriptor: packed signs.
        boxes: float32 (R, 4), its regions; row 0 is the whole picture.
        box_scores: float32 (R,).
        features: the local features that verification matches.
    """

    aggregated: Aggregated
    boxes: Boxes
    box_scores: NDArray[np.float32]
    features: Features


@dataclass(frozen=True)
class Segment:
    """The arrays of one segment, memory-mapped; shapes for S pictures, C words, P postings, F features, R regions.

    Attributes:
        word_starts: int64 (C + 1,), the postings of word c are rows ``word_starts[c]`` to ``word_starts[c + 1]``.
        posting_slots: uint32 (P,), ascending within a word.
        posting_codes: uint64 (P, B).
        g: float32 (S,), 1 / sqrt(number of words), 0 for a picture without any.
        feature_starts: int64 (S + 1,).
        positions: float32 (F, 2).
        scales: float32 (F,).
        descriptors: int8 (F, D), in units of ``descriptor_units``.
        descriptor_units: float32 (S,).
        region_starts: int64 (S + 1,).
        boxes: float32 (R, 4).
        box_scores: float32 (R,).
    """

    word_starts: NDArray[np.int64]
    posting_slots: NDArray[np.uint32]
    posting_codes: NDArray[np.uint64]
    g: NDArray[np.float32]
    feature_starts: NDArray[np.int64]
    positions: NDArray[np.float32]
    scales: NDArray[np.float32]
    descriptors: NDArray[np.int8]
    descriptor_units: NDArray[np.float32]
    region_starts: NDArray[np.int64]
    boxes: NDArray[np.float32]
    box_scores: NDArray[np.float32]

    @staticmethod
    def load(folder: Path) -> Segment:
        """Map the arrays of a segment.

        Raises:
            FileNotFoundError: it is gone, because its pictures were removed.
            ValueError: a file is damaged.
        """
        return Segment(**{name: _map(folder / f"{name}.npy") for name in (*_SEARCH, *_VERIFY)})

    def __len__(self) -> int:
        return len(self.g)

    def features(self, slot: int) -> Features:
        """Return the stored features of a picture, descriptors as float32 of unit length."""
        rows = slice(self.feature_starts[slot], self.feature_starts[slot + 1])
        descriptors = self.descriptors[rows].astype(np.float32) * self.descriptor_units[slot]
        descriptors /= np.maximum(np.linalg.norm(descriptors, axis=1, keepdims=True), 1e-12)
        scales = np.array(self.scales[rows])
        return Features(np.array(self.positions[rows]), scales, descriptors, np.ones(len(scales), np.float32))

    def regions(self, slot: int) -> tuple[Boxes, NDArray[np.float32]]:
        """Return the boxes (R, 4) of a picture, the whole of it first, and their scores (R,)."""
        rows = slice(self.region_starts[slot], self.region_starts[slot + 1])
        return np.array(self.boxes[rows]), np.array(self.box_scores[rows])

    def aggregated(self, dim: int) -> Iterator[Aggregated]:
        """Yield the aggregated descriptor of every slot, in order; one pass over the postings sorts them back."""
        words = np.repeat(np.arange(len(self.word_starts) - 1, dtype=np.int32), np.diff(self.word_starts))
        order = np.argsort(self.posting_slots, kind="stable")
        starts = np.searchsorted(self.posting_slots[order], np.arange(len(self) + 1))
        for slot in range(len(self)):
            rows = order[starts[slot] : starts[slot + 1]]
            yield Aggregated(words[rows], self.posting_codes[rows], dim)


def write_segment(folder: Path, entries: Sequence[Entry], words: int) -> tuple[int, int]:
    """Write entries as the segment ``folder``, which appears whole and synced or not at all.

    Args:
        folder: must not exist; its parent must.
        entries: at least one.
        words: size C of the codebook.

    Returns:
        bytes for search and bytes for verification.
    """
    part = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir()
    try:
        for name, array in _arrays(entries, words).items():
            np.save(part / f"{name}.npy", array)
            sync(part / f"{name}.npy")
        sizes = [sum((part / f"{name}.npy").stat().st_size for name in names) for names in (_SEARCH, _VERIFY)]
        sync(part)
        part.rename(folder)
        sync(folder.parent)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise
    return sizes[0], sizes[1]


def _map(path: Path) -> NDArray[Any]:
    try:
        return np.lib.format.open_memmap(path, mode="r")
    except (SyntaxError, TokenError) as error:  # what the parser of the header lets through
        raise ValueError(f"{path.name}: its header cannot be read") from error


def _arrays(entries: Sequence[Entry], words: int) -> dict[str, NDArray[np.generic]]:
    aggregated = [entry.aggregated for entry in entries]
    counts = np.array([len(one) for one in aggregated], np.int64)
    flat = np.concatenate([one.words for one in aggregated])
    slots = np.repeat(np.arange(len(entries), dtype=np.uint32), counts)
    order = np.argsort(flat, kind="stable")
    codes = np.concatenate([one.vectors for one in aggregated])
    features = [entry.features for entry in entries]
    units = [np.abs(one.descriptors).max(initial=1e-6) / 127.0 for one in features]
    quantised = [np.rint(one.descriptors / unit).astype(np.int8) for one, unit in zip(features, units, strict=True)]
    return {
        "word_starts": np.searchsorted(flat[order], np.arange(words + 1)).astype(np.int64),
        "posting_slots": slots[order],
        "posting_codes": codes[order],
        "g": np.where(counts > 0, 1.0 / np.sqrt(np.maximum(counts, 1)), 0.0).astype(np.float32),
        "feature_starts": _starts([len(one) for one in features]),
        "positions": np.concatenate([one.positions for one in features]),
        "scales": np.concatenate([one.scales for one in features]),
        "descriptors": np.concatenate(quantised),
        "descriptor_units": np.array(units, np.float32),
        "region_starts": _starts([len(entry.boxes) for entry in entries]),
        "boxes": np.concatenate([entry.boxes for entry in entries]),
        "box_scores": np.concatenate([entry.box_scores for entry in entries]),
    }


def _starts(counts: Sequence[int]) -> NDArray[np.int64]:
    return np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
