"""What verification compares: local features as visual words and binary codes, about a quarter of their descriptors."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from d2r.aggregate import pack_signs
from d2r.codebook import Codebook
from d2r.features.base import Features


@dataclass(frozen=True)
class Points:
    """N local features of one picture, each with a visual word and a code, in order of word.

    Attributes:
        positions: float32 (N, 2), x and y in pixels of the picture.
        scales: float32 (N,), see :class:`d2r.features.Features`.
        angles: float32 (N,), in radians; 0 where patches are described upright.
        words: int32 (N,), ascending.
        codes: uint64 (N, B), the packed signs of the residual to the word.
        rows: int32 (N,), which of the picture's features each is: one that was assigned to several words is several
            points.
    """

    positions: NDArray[np.float32]
    scales: NDArray[np.float32]
    angles: NDArray[np.float32]
    words: NDArray[np.int32]
    codes: NDArray[np.uint64]
    rows: NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.words)

    @staticmethod
    def empty(bits: int) -> Points:
        """Return no points, with codes of so many bits."""
        zeros, none = np.zeros(0, np.float32), np.zeros(0, np.int32)
        return Points(np.zeros((0, 2), np.float32), zeros, zeros, none, np.zeros((0, -(-bits // 64)), np.uint64), none)


def make_points(features: Features, codebook: Codebook, *, nearest: int = 1) -> Points:
    """Return features as points.

    Args:
        features: with descriptors of the codebook's dimension.
        codebook: the visual words.
        nearest: words that each feature is assigned to: one in the index; several for a query, of which then more
            features find what they match.

    Raises:
        d2r.codebook.CodebookError: the descriptors are of another dimension than the codebook.
    """
    assigned = codebook.assign(features.descriptors, min(nearest, codebook.words))
    rows = np.repeat(np.arange(len(features), dtype=np.int32), assigned.shape[1])
    words = assigned.reshape(-1)
    order = np.argsort(words, kind="stable")
    rows, words = rows[order], words[order]
    codes = pack_signs(codebook.residuals(features.descriptors[rows], words))
    angles = np.zeros(len(features), np.float32) if features.angles is None else features.angles
    return Points(features.positions[rows], features.scales[rows], angles[rows], words, codes, rows)
