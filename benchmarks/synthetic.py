"""Synthetic descriptors of pictures, with the statistics of a real index."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numba import njit
from numpy.typing import NDArray

from d2r.asmk.codes import LocalCodes
from d2r.asmk.kernels import Aggregated
from d2r.boxes import as_boxes
from d2r.index import Entry, Index, PictureState
from d2r.verify.keypoints import Keypoints

BOX, SCORE = as_boxes([0, 0, 640, 480]), np.ones(1, np.float32)
NO_KEYPOINTS = Keypoints.empty(128)
NO_CODES = LocalCodes.empty(128)


@dataclass(frozen=True)
class Statistics:
    """Statistics of real pictures.

    Attributes:
        popularity: float64 (C,), the probability of each word, most popular first.
        words: int64 (N,), number of visual words of each real picture.
        agreement: the mean share of equal bits in two pictures' codes of one word.
    """

    popularity: NDArray[np.float64]
    words: NDArray[np.int64]
    agreement: float


def measure(index: Index) -> Statistics:
    """Measure an index of real pictures."""
    assert index.codebook is not None
    counts = np.zeros(index.codebook.num_words)
    lengths, codes = [], {}
    agreements = []
    for _, one in index.aggregated():
        counts[one.words] += 1
        lengths.append(len(one))
        for word, code in zip(one.words.tolist(), one.vectors, strict=True):
            if word in codes and len(agreements) < 1_000_000:
                agreements.append(1.0 - np.bitwise_count(codes[word] ^ code).sum() / one.dim)
            codes[word] = code
    # A word that no picture of a few hundred has can occur among a million.
    popularity = np.sort(counts + 0.5)[::-1]
    return Statistics(popularity / popularity.sum(), np.array(lengths), float(np.mean(agreements)))


def uniform(num_words: int, each: int) -> Statistics:
    """Return statistics with equally popular words, the same number per picture, and codes of independent bits."""
    return Statistics(np.full(num_words, 1.0 / num_words), np.array([each]), 0.5)


def pictures(real: Statistics, count: int, seed: int) -> Iterator[Aggregated]:
    """Yield aggregated descriptors of 128 bits; the same for the same seed.

    A word's codes are its own random pattern with independent flips, so that two agree as often as real ones do.
    """
    rng = np.random.default_rng(seed)
    size = len(real.popularity)
    # The number of a word must not depend on its popularity.
    order = np.random.default_rng(0).permutation(size)
    popularity = np.empty(size)
    popularity[order] = real.popularity
    ends = np.cumsum(popularity)
    patterns = np.random.default_rng(1).integers(0, 2**64 - 1, (size, 2), dtype=np.uint64, endpoint=True)
    # Two bits that each differ from the pattern with probability p agree with probability 1 - 2 p (1 - p).
    flips = (1.0 - np.sqrt(max(0.0, 2.0 * real.agreement - 1.0))) / 2.0
    seen = np.full(size, -1, np.int64)
    for number in range(count):
        length = min(int(rng.choice(real.words)), size)
        words = _draw(ends, length, rng.random(4 * length + 64), seen, number)
        words.sort()
        yield Aggregated(words, patterns[words] ^ _flips(rng, len(words), flips), 128)


@njit(cache=True)  # type: ignore[untyped-decorator]
def _draw(ends, length, uniforms, seen, number):  # type: ignore[no-untyped-def]
    words = np.empty(length, np.int32)
    found = 0
    for value in uniforms:
        if found == length:
            break
        word = np.searchsorted(ends, value * ends[-1], side="right")
        if seen[word] != number:
            seen[word] = number
            words[found] = word
            found += 1
    return words[:found]


def _flips(rng: np.random.Generator, count: int, probability: float) -> NDArray[np.uint64]:
    """Return packed bits that are each set with a probability, rounded to 1/32: uint64 (count, 2)."""
    threshold = round(probability * 32)
    result = np.zeros((count, 2), np.uint64)
    lowest = (threshold & -threshold).bit_length() - 1
    for bit in range(lowest, 5):  # binary digits of the threshold, least significant first: OR for 1, AND for 0
        random = rng.integers(0, 2**64 - 1, (count, 2), dtype=np.uint64, endpoint=True)
        result = result | random if threshold >> bit & 1 else result & random
    return result


def put(writer, start: int, descriptors: list[Aggregated]) -> None:  # type: ignore[no-untyped-def]
    """Add descriptors to an index as pictures with consecutive names."""
    writer.put(
        [
            (
                PictureState(f"/synthetic/{start + number:09d}.jpg", 1, 1, b"\0" * 16, 640, 480),
                Entry(one, BOX, SCORE, NO_KEYPOINTS, NO_CODES),
            )
            for number, one in enumerate(descriptors)
        ]
    )


def folder_bytes(folder: Path) -> int:
    """Return the size of all files under a folder."""
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
