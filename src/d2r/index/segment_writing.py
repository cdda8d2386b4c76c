"""Write the entries of pictures as a segment."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from d2r.asmk.codes import LocalCodes
from d2r.asmk.kernels import Aggregated
from d2r.boxes import Boxes
from d2r.index.scoring import sort_postings
from d2r.index.segment_files import ANGLE_STEPS, MAX_SLOTS, Written, appear, array_file, starts_of
from d2r.verify.keypoints import Keypoints


@dataclass(frozen=True)
class Entry:
    """What the index stores about one picture.

    Attributes:
        aggregated: its R-ASMK* descriptor: packed signs.
        boxes: float32 (R, 4), its regions; row 0 is the whole picture.
        box_scores: float32 (R,).
        keypoints: used by verification.
        local: local codes of the keypoints, in their order, used by query expansion.
    """

    aggregated: Aggregated
    boxes: Boxes
    box_scores: NDArray[np.float32]
    keypoints: Keypoints
    local: LocalCodes


def write_segment(folder: Path, entries: Sequence[Entry], starts: Sequence[int] = (0,)) -> Written:
    """Write entries as the segment ``folder``, which appears complete and synced, or not at all.

    Args:
        folder: must not exist; its parent must.
        entries: 1 to :data:`MAX_SLOTS`, all with codes of the same number of bits.
        starts: first word of each kind of features, see :class:`d2r.asmk.codebook.Codebook`.

    Raises:
        ValueError: an entry does not match :class:`Entry`.
    """
    _check_entries(entries)

    def write(part: Path) -> None:
        for name, array in _arrays(entries, starts).items():
            np.save(array_file(part, name), array)

    return appear(folder, write)


def _arrays(entries: Sequence[Entry], starts: Sequence[int]) -> dict[str, NDArray[np.generic]]:
    aggregated = [entry.aggregated for entry in entries]
    counts = np.array([len(one) for one in aggregated], np.int64)
    flat = np.concatenate([one.words for one in aggregated])
    codes = np.concatenate([one.vectors for one in aggregated])
    _check_ascending("words", flat, starts_of(counts), strictly=True)
    occurrences = np.bincount(flat)
    words = np.flatnonzero(occurrences)
    posting_slots, posting_codes = np.empty(len(flat), np.uint16), np.empty(codes.shape, np.uint64)
    sort_postings(flat, codes, starts_of(counts), starts_of(occurrences), posting_slots, posting_codes)
    keypoints = [entry.keypoints for entry in entries]
    point_starts = starts_of([len(one) for one in keypoints])
    point_words = np.concatenate([one.words for one in keypoints])
    _check_ascending("words of keypoints", point_words, point_starts, strictly=False)
    return {
        "words": words.astype(np.int32),
        "word_starts": starts_of(occurrences[words]),
        "posting_slots": posting_slots,
        "posting_codes": posting_codes,
        "g": _normalisations(aggregated, starts),
        "point_starts": point_starts,
        "positions": np.concatenate([one.positions for one in keypoints]),
        "scales": np.concatenate([one.scales for one in keypoints]),
        "angles": np.concatenate([(np.rint(one.angles * ANGLE_STEPS) % 256).astype(np.uint8) for one in keypoints]),
        "point_words": point_words,
        "point_codes": np.concatenate([one.codes for one in keypoints]),
        "local_words": np.concatenate([entry.local.words for entry in entries]),
        "local_codes": np.concatenate([entry.local.codes for entry in entries]),
        "region_starts": starts_of([len(entry.boxes) for entry in entries]),
        "boxes": np.concatenate([entry.boxes for entry in entries]),
        "box_scores": np.concatenate([entry.box_scores for entry in entries]),
    }


def _normalisations(aggregated: Sequence[Aggregated], starts: Sequence[int]) -> NDArray[np.float32]:
    """Return g of each picture, float32 (S,), or with several kinds of features that of each kind, float32 (S, K)."""
    words = [np.searchsorted(one.words, [*starts[1:], np.iinfo(np.int32).max]) for one in aggregated]
    counts = np.diff(np.array(words), axis=1, prepend=0)
    g = np.where(counts > 0, 1.0 / np.sqrt(np.maximum(counts, 1)), 0.0).astype(np.float32)
    return g[:, 0] if len(starts) == 1 else g


def _check_entries(entries: Sequence[Entry]) -> None:
    """Raise ``ValueError`` unless a segment can hold that many entries, and the arrays of each fit together."""
    if not 1 <= len(entries) <= MAX_SLOTS:
        raise ValueError(f"a segment holds 1 to {MAX_SLOTS:,} pictures, not {len(entries):,}")
    blocks = entries[0].aggregated.vectors.shape[1]
    for entry in entries:
        words, codes, own, local = entry.aggregated.words, entry.aggregated.vectors, entry.keypoints, entry.local
        if codes.dtype != np.uint64 or not codes.shape[1] == local.codes.shape[1] == blocks:
            raise ValueError("vectors of entries must be packed signs, uint64, all of as many bits")
        count = len(own.words)
        if not (
            len(words) == len(codes)
            and len(entry.boxes) == len(entry.box_scores) > 0
            and count == len(own.positions) == len(own.scales) == len(own.angles) == len(own.codes)
            and count == len(local.words) == len(local.codes)
        ):
            raise ValueError("an entry has a vector for each word, a score for each box, everything for each keypoint")


def _check_ascending(name: str, every: NDArray[Any], starts: NDArray[np.int64], *, strictly: bool) -> None:
    """Raise ``ValueError`` unless the numbers of each part, beginning at ``starts``, are 0 or more and ascend."""
    falls = every[1:] <= every[:-1] if strictly else every[1:] < every[:-1]
    edges = starts[(starts > 0) & (starts < len(every))]
    falls[edges - 1] = False
    if falls.any() or (len(every) and every.min() < 0):
        raise ValueError(f"{name} of an entry must ascend from 0 or more")
