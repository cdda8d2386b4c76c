"""The inner loops of search, in Numba, out of the interpreter's lock."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit, types
from numba.extending import intrinsic
from numpy.typing import NDArray


@intrinsic  # type: ignore[untyped-decorator]
def _popcount(typing_context: Any, value: Any) -> Any:
    """Return the number of set bits of a uint64: one machine instruction, which Numba itself does not offer."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.ctpop(arguments[0])

    return types.uint64(types.uint64), generate


@njit(nogil=True, cache=True, boundscheck=False)  # type: ignore[untyped-decorator]
def score_postings(
    words: NDArray[np.int32],
    codes: NDArray[np.uint64],
    weights: NDArray[np.float32],
    starts: NDArray[np.int64],
    posting_slots: NDArray[np.uint32],
    posting_codes: NDArray[np.uint64],
    table: NDArray[np.float32],
    scores: NDArray[np.float32],
) -> None:
    """Add ``w_c s(1 - 2 h / D)`` of every posting of the query's words to the score of its picture.

    Args:
        words: int32 (W,), the query's words.
        codes: uint64 (W, B), the query's packed signs.
        weights: float32 (W,), the weight w_c of each of the words.
        starts: int64 (C + 1,), the postings of word c are rows ``starts[c]`` to ``starts[c + 1]``.
        posting_slots: uint32 (P,), the picture of each posting.
        posting_codes: uint64 (P, B), the packed signs of each posting.
        table: float32 (64 B + 1,), the selectivity at Hamming distance h.
        scores: float32 (S,), added to in place.
    """
    blocks = codes.shape[1]
    for row in range(len(words)):
        word = words[row]
        weight = weights[row]
        for posting in range(starts[word], starts[word + 1]):
            distance = np.uint64(0)
            for block in range(blocks):
                distance += _popcount(codes[row, block] ^ posting_codes[posting, block])
            value = table[distance]
            if value != 0.0:  # at or above half the bits, which most postings are
                scores[posting_slots[posting]] += weight * value
