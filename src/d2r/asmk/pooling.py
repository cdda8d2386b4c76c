"""Sums of residuals per visual word and region, as one compiled pass."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from d2r.support.compiling import compiled, inner, read, write
from d2r.support.intrinsics import prefetch

# Below this length a sum of residuals is rounding error of a sum that is zero: descriptors have length 1 and
# float32 rounding is 6e-8, but sums are taken in float64 of float32 residuals, which cancel exactly.
_ZERO = 1e-12


_AHEAD = 8  # rows from summing to prefetching


_LINE = 16  # float32 numbers in a cache line


@compiled(
    read(np.int64, 1), read(np.int32, 1), read(np.int32, 1), int, read(np.float32, 2), read(np.float32, 2), bool, bool,
    write(np.int32, 1), write(np.uint64, 2), write(np.float32, 2), fastmath={"reassoc"},
)  # fmt: skip
def pool_residuals(
    order: NDArray[np.int64],
    words: NDArray[np.int32],
    regions: NDArray[np.int32],
    region_count: int,
    projected: NDArray[np.float32],
    origins: NDArray[np.float32] | None,
    unit_sums: bool,
    unit: bool,
    out_words: NDArray[np.int32],
    codes: NDArray[np.uint64],
    vectors: NDArray[np.float32],
) -> Any:
    """Pool residuals over regions, word by word, in the memory of two vectors; return the number of words.

    Args:
        order: int64 (N,), the rows sorted by word, and by region within a word.
        words: int32 (N,).
        regions: int32 (N,).
        region_count: R.
        projected: float32 (N, D).
        origins: float32 (C, D) or None, see :class:`Assigned`.
        unit_sums: normalise the sum of a word's residuals in each region before pooling.
        unit: normalise the result.
        out_words: int32 (N,), written: the different words, ascending.
        codes: uint64 (N, ceil(D / 64)), written: the packed signs; not written if it has no rows.
        vectors: float32 (N, D), written; not written if it has no rows.
    """
    count, dim = projected.shape
    total, pooled = np.empty(dim), np.empty(dim)
    shares = np.ones(region_count)  # g of each region / R; not needed for one region
    if region_count > 1:
        squares = np.zeros(region_count)
        first = np.int64(0)  # with a literal 0, _sum_residuals would be compiled twice
        while first < count:
            region = regions[order[first]]
            first, square = _sum_residuals(first, order, words, regions, projected, origins, unit_sums, total)
            squares[region] += square
        for region in range(region_count):
            shares[region] = 1.0 / (np.sqrt(max(squares[region], _ZERO * _ZERO)) * region_count)
    masks = np.empty(64, np.uint64)
    for bit in range(64):  # as in numpy.packbits, the first of eight is the highest bit of a byte
        masks[bit] = np.uint64(1) << np.uint64(bit // 8 * 8 + 7 - bit % 8)
    found = 0
    first = np.int64(0)
    while first < count:
        word = words[order[first]]
        pooled[:] = 0.0
        while first < count and words[order[first]] == word:
            share = shares[regions[order[first]]]
            first, _ = _sum_residuals(first, order, words, regions, projected, origins, unit_sums, total)
            for column in range(dim):
                pooled[column] += total[column] * share
        square = 0.0
        for column in range(dim):
            square += pooled[column] * pooled[column]
        if square <= _ZERO * _ZERO:
            continue
        out_words[found] = word
        if len(codes):
            for block in range(codes.shape[1]):
                bits = np.uint64(0)
                for bit in range(min(64, dim - block * 64)):
                    bits |= masks[bit] if pooled[block * 64 + bit] > 0.0 else np.uint64(0)
                codes[found, block] = bits
        else:
            length = np.sqrt(square) if unit else 1.0
            for column in range(dim):  # with whole rows, Numba would also compile the message of a shape error
                vectors[found, column] = pooled[column] / length
        found += 1
    return found


@inner(fastmath={"reassoc"})
def _sum_residuals(
    first: int,
    order: NDArray[np.int64],
    words: NDArray[np.int32],
    regions: NDArray[np.int32],
    projected: NDArray[np.float32],
    origins: NDArray[np.float32] | None,
    unit: bool,
    total: NDArray[np.float64],
) -> Any:
    """Sum the residuals of one word in one region, the rows from ``order[first]`` on.

    With ``unit`` the sum is normalised, unless it is zero. Returns where the next word or region starts, and the
    squared length of ``total``.
    """
    count, dim = projected.shape
    word, region = words[order[first]], regions[order[first]]
    total[:] = 0.0
    while first < count and words[order[first]] == word and regions[order[first]] == region:
        row = projected[order[first]]
        if first + _AHEAD < count:
            ahead = order[first + _AHEAD]
            for column in range(0, dim, _LINE):
                prefetch(projected, ahead * dim + column)
                if origins is not None:
                    prefetch(origins, np.int64(words[ahead]) * dim + column)
        if origins is None:
            for column in range(dim):
                total[column] += row[column]
        else:
            origin = origins[word]
            for column in range(dim):
                total[column] += row[column] - origin[column]
        first += 1
    square = 0.0
    for column in range(dim):
        square += total[column] * total[column]
    if square <= _ZERO * _ZERO:
        total[:] = 0.0
        return first, 0.0
    if unit:
        total /= np.sqrt(square)
        square = 1.0
    return first, square
