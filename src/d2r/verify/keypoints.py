"""Keypoints for verification: local features as coarse words and binary codes, a fifth of the size of descriptors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from d2r.asmk.codebook import Codebook
from d2r.asmk.codes import pack_signs
from d2r.features.base import Features
from d2r.support.checks import check_array, check_numbers

_FEATURE_LIMIT = 1 << 20  # features per picture; bounds the arrays that are indexed by feature


@dataclass(frozen=True)
class Keypoints:
    """N local features of one picture, each with a coarse word (:attr:`Codebook.coarse`) and a code, in order of word.

    Attributes:
        positions: float32 (N, 2), x and y in pixels of the picture.
        scales: float32 (N,), see :class:`d2r.features.Features`.
        angles: float32 (N,), in radians; 0 where patches are described upright.
        words: uint8 (N,), ascending.
        codes: uint64 (N, B), the packed signs of the residual to the word, one bit per dimension of the descriptor.
        rows: int32 (N,), the row of its feature in the picture; a feature that was assigned to several words has
            several keypoints.
        starts: first coarse word of each kind of features; only used for queries.
    """

    positions: NDArray[np.float32]
    scales: NDArray[np.float32]
    angles: NDArray[np.float32]
    words: NDArray[np.uint8]
    codes: NDArray[np.uint64]
    rows: NDArray[np.int32]
    starts: tuple[int, ...] = (0,)

    def __len__(self) -> int:
        return len(self.words)

    def by_kind(self, starts: Sequence[int]) -> list[Keypoints]:
        """Return the keypoints of each kind of features, by the first coarse word of each."""
        if len(starts) == 1:
            return [self]
        edges = np.searchsorted(self.words, starts[1:]).tolist()
        return [self._range(first, last) for first, last in pairwise([0, *edges, len(self)])]

    def _range(self, first: int, last: int) -> Keypoints:
        rows = slice(first, last)
        return Keypoints(
            self.positions[rows],
            self.scales[rows],
            self.angles[rows],
            self.words[rows],
            self.codes[rows],
            self.rows[rows],
        )

    @staticmethod
    def empty(dim: int) -> Keypoints:
        """Return an empty set of keypoints of descriptors with ``dim`` dimensions."""
        zeros, places = np.zeros(0, np.float32), np.zeros((0, 2), np.float32)
        codes = np.zeros((0, -(-dim // 64)), np.uint64)
        return Keypoints(places, zeros, zeros, np.zeros(0, np.uint8), codes, np.zeros(0, np.int32))


def check_keypoints(keypoints: Keypoints, bits: int) -> None:
    """Raise ``ValueError`` unless keypoints match :class:`Keypoints`, with codes of ``bits`` bits."""
    count = len(keypoints.words)
    check_array("positions of keypoints", keypoints.positions, np.float32, (count, 2))
    check_array("scales of keypoints", keypoints.scales, np.float32, (count,))
    check_array("angles of keypoints", keypoints.angles, np.float32, (count,))
    check_array("words of keypoints", keypoints.words, np.uint8, (count,))
    check_array("codes of keypoints", keypoints.codes, np.uint64, (count, -(-bits // 64)))
    check_numbers("rows of keypoints", keypoints.rows, count, _FEATURE_LIMIT)
    if (keypoints.words[1:] < keypoints.words[:-1]).any():
        raise ValueError("words of keypoints must ascend")


def make_keypoints(features: Features, codebook: Codebook, *, nearest: int = 1) -> Keypoints:
    """Return features as keypoints.

    Args:
        features: features whose descriptors have the codebook's dimension.
        codebook: the visual words; its coarse words are used.
        nearest: number of words that each feature is assigned to: one in the index; several for a query, so that more
            of its features find their matches.

    Raises:
        d2r.asmk.codebook.CodebookError: the descriptors have another dimension than the codebook.
    """
    coarse = codebook.coarse
    fewest = min(np.diff([*coarse.starts, coarse.num_words]))
    assigned = coarse.assign(features.descriptors, min(nearest, int(fewest)), features.kinds)
    rows = np.repeat(np.arange(len(features), dtype=np.int32), assigned.shape[1])
    words = assigned.reshape(-1)
    order = np.argsort(words, kind="stable")
    rows, words = rows[order], words[order]
    codes = pack_signs(coarse.residuals(features.descriptors[rows], words))
    angles = np.zeros(len(features), np.float32) if features.angles is None else features.angles
    return Keypoints(
        features.positions[rows],
        features.scales[rows],
        angles[rows],
        words.astype(np.uint8),
        codes,
        rows,
        coarse.starts,
    )
