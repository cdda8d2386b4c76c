"""Binary codes: packed signs, and their inner products."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class LocalCodes:
    """The binarised residuals of N local features of a picture, from which they can be aggregated again.

    Attributes:
        words: int32 (N,), the visual word of each.
        codes: uint64 (N, B), the packed signs of its residual ``P x - o(c)``.
        bits: number of bits per code.
    """

    words: NDArray[np.int32]
    codes: NDArray[np.uint64]
    bits: int

    def __len__(self) -> int:
        return len(self.words)

    @staticmethod
    def empty(bits: int) -> LocalCodes:
        """Return the codes of no features."""
        return LocalCodes(np.zeros(0, np.int32), np.zeros((0, -(-bits // 64)), np.uint64), bits)

    def take(self, rows: NDArray[Any]) -> LocalCodes:
        """Return some of the codes, by rows or a mask, bool (N,)."""
        return LocalCodes(self.words[rows], self.codes[rows], self.bits)


def pack_signs(vectors: NDArray[np.floating]) -> NDArray[np.uint64]:
    """Return the bits ``v > 0`` of each row, packed: (W, D) -> uint64 (W, ceil(D / 64)), padded with zero bits."""
    bits = np.packbits(vectors > 0, axis=1)
    padding = -bits.shape[1] % 8
    if padding:
        bits = np.pad(bits, ((0, 0), (0, padding)))
    return np.ascontiguousarray(bits).view(np.uint64)


def unpack_signs(codes: NDArray[np.uint64], dim: int) -> NDArray[np.float32]:
    """Return packed codes as vectors of +1 and -1: uint64 (W, B) -> float32 (W, dim)."""
    bits = np.unpackbits(np.ascontiguousarray(codes).view(np.uint8), axis=1, count=dim)
    return bits.astype(np.float32) * 2.0 - 1.0


def inner_products(
    a: NDArray[np.float32] | NDArray[np.uint64], b: NDArray[np.float32] | NDArray[np.uint64], dim: int
) -> NDArray[np.float32]:
    """Return the inner product of each pair of rows; for packed signs ``1 - 2 h / D``, h the Hamming distance."""
    if a.dtype == np.uint64:
        hamming = np.bitwise_count(np.bitwise_xor(a, b)).sum(axis=1, dtype=np.int64)
        return np.asarray(1.0 - 2.0 * hamming / dim, np.float32)
    return np.asarray(np.einsum("we,we->w", a, b), np.float32)
