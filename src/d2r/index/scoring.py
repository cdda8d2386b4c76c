"""The inner loops of the index, in Numba without the interpreter's lock: scoring, the best k, and merging postings.

Scoring streams the codes of the query's words from memory, which bounds its speed. Codes are processed in blocks of
:data:`_BLOCK`: first the Hamming distances of a block, which the compiler vectorises, then the updates of the scores.
No branch skips postings without effect: they are about half of all, so it would be mispredicted every other time, which
costs more than the update. Between the updates, memory that is needed soon is prefetched, also from the next word's
postings, where the hardware's own prefetching starts anew.

The loops do not check their arguments. A segment is checked when it is written and when it is loaded, a query before it
is searched.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from d2r.support.compiling import Compiled, compiled, inner, read, write
from d2r.support.intrinsics import popcount, prefetch

_BLOCK = 64  # postings whose distances are computed at once
_AHEAD = 192  # postings from scoring to prefetching; anything from 128 to 384 is about as fast
_STEP = 16  # postings scored from one prefetch to the next
_LINE = 64  # bytes of a cache line


@inner()
def _shared(words: NDArray[np.int32], segment_words: NDArray[np.int32], starts: NDArray[np.int64]) -> Any:
    """Return the rows of ``words`` that a segment has, and where their postings start and end."""
    rows = np.empty(len(words), np.int64)
    firsts, ends = np.empty(len(words), np.int64), np.empty(len(words), np.int64)
    every = len(segment_words) > 0 and segment_words[-1] == len(segment_words) - 1  # all words up to the last occur
    found = 0
    place = 0
    for row in range(len(words)):
        word = words[row]
        if every:
            place = word
        else:
            end = len(segment_words)
            while place < end:
                middle = (place + end) >> 1
                if segment_words[middle] < word:
                    place = middle + 1
                else:
                    end = middle
        if place >= len(segment_words):
            break
        if segment_words[place] == word:
            rows[found], firsts[found], ends[found] = row, starts[place], starts[place + 1]
            found += 1
    return rows[:found], firsts[:found], ends[:found]


@inner(inline="always")
def _fetch(
    shared: int,
    posting: int,
    count: int,
    firsts: NDArray[np.int64],
    ends: NDArray[np.int64],
    posting_slots: NDArray[np.uint16],
    flat: NDArray[np.uint64],
    blocks: int,
) -> Any:
    """Prefetch about ``count`` postings from one in list ``shared`` on, and return the next position."""
    while count > 0 and shared < len(firsts):
        stop = min(posting + count, ends[shared])
        count -= stop - posting
        for part in range(posting * blocks, stop * blocks, _LINE // 8):
            prefetch(flat, part)
        prefetch(posting_slots, posting)
        prefetch(posting_slots, stop)
        posting = stop
        if posting == ends[shared]:
            shared += 1
            posting = firsts[shared] if shared < len(firsts) else posting
    return shared, posting


@lru_cache(maxsize=8)
def score_postings(blocks: int) -> Compiled:
    """Return the scoring loop for codes of ``blocks`` uint64 each.

    It adds ``s(1 - 2 h / D)`` of every posting of the query's words to the score of its picture, and takes

    - words: int32 (W,), the words of the query, ascending;
    - codes: uint64 (W, B), their packed signs;
    - segment_words: int32 (U,), the words that the segment has, ascending;
    - starts: int64 (U + 1,), the postings of ``segment_words[u]`` are rows ``starts[u]`` to ``starts[u + 1]``;
    - posting_slots: uint16 or uint32 (P,), the picture of each posting; no picture twice for one word;
    - posting_codes: uint64 (P, B), the packed signs of each posting;
    - table: float32 (64 B + 1,), the selectivity s at Hamming distance h;
    - scores: float32 (S,), added to in place.
    """

    @compiled(
        read(np.int32, 1), read(np.uint64, 2), read(np.int32, 1), read(np.int64, 1),
        read(np.uint16, 1), read(np.uint64, 2), read(np.float32, 1), write(np.float32, 1),
    )  # fmt: skip
    def score(
        words: NDArray[np.int32],
        codes: NDArray[np.uint64],
        segment_words: NDArray[np.int32],
        starts: NDArray[np.int64],
        posting_slots: NDArray[np.uint16],
        posting_codes: NDArray[np.uint64],
        table: NDArray[np.float32],
        scores: NDArray[np.float32],
    ) -> None:
        rows, firsts, ends = _shared(words, segment_words, starts)
        flat = posting_codes.reshape(-1)
        distances = np.empty(_BLOCK, np.uint16)
        # Prefetching runs ahead across the ends of lists; otherwise short lists would never be prefetched.
        fetched, fetch = 0, firsts[0] if len(rows) else 0
        for _ in range(_AHEAD // _BLOCK):
            fetched, fetch = _fetch(fetched, fetch, _BLOCK, firsts, ends, posting_slots, flat, blocks)
        for shared in range(len(rows)):
            code = codes[rows[shared]]
            for posting in range(firsts[shared], ends[shared], _BLOCK):
                count = min(_BLOCK, ends[shared] - posting)
                block = flat[posting * blocks : (posting + count) * blocks]
                slots = posting_slots[posting : posting + count]
                if count == _BLOCK:  # a constant, so that both loops are unrolled
                    for one in range(_BLOCK):
                        bits = np.uint64(0)
                        for part in range(blocks):
                            bits += popcount(block[one * blocks + part] ^ code[part])
                        distances[one] = bits
                    for start in range(0, _BLOCK, _STEP):
                        fetched, fetch = _fetch(fetched, fetch, _STEP, firsts, ends, posting_slots, flat, blocks)
                        for one in range(start, start + _STEP):
                            scores[slots[one]] += table[distances[one]]
                else:
                    fetched, fetch = _fetch(fetched, fetch, count, firsts, ends, posting_slots, flat, blocks)
                    for one in range(count):
                        bits = np.uint64(0)
                        for part in range(blocks):
                            bits += popcount(block[one * blocks + part] ^ code[part])
                        scores[slots[one]] += table[bits]

    return score


@compiled(write(np.float32, 1), read(np.float32, 1), int, write(np.float32, 1), write(np.int64, 1))
def keep_best(
    scores: NDArray[np.float32],
    factors: NDArray[np.float32],
    first: int,
    best_scores: NDArray[np.float32],
    best_places: NDArray[np.int64],
) -> None:
    """Merge the best of ``scores * factors`` into a heap of the k best so far, and set the scores to 0.

    Args:
        scores: float32 (S,), set to 0.
        factors: float32 (S,), at least 0.
        first: the place of score 0; score i has place ``first + i``.
        best_scores: float32 (k,), a heap with the lowest at its root; 0 for empty places.
        best_places: int64 (k,). Of equal scores the lower places are kept.
    """
    for start in range(0, len(scores), _BLOCK):
        block, own = scores[start : start + _BLOCK], factors[start : start + _BLOCK]
        lowest = best_scores[0]
        below = np.nextafter(lowest, np.float32(0.0))
        better = 0
        for row in range(len(block)):  # vectorised, unlike a maximum; few blocks pass
            better += block[row] * own[row] > below
        if better:
            for row in range(len(block)):
                value, place = block[row] * own[row], first + start + row
                if value > best_scores[0] or (value == best_scores[0] and value > 0.0 and place < best_places[0]):
                    _replace_lowest(best_scores, best_places, value, place)
        block[:] = 0.0


@inner()
def _replace_lowest(scores: NDArray[np.float32], places: NDArray[np.int64], score: np.float32, place: np.int64) -> None:
    """Replace the root of the heap by a score and let it sink; of equal scores the later place counts as lower."""
    node = 0
    while True:
        child = 2 * node + 1
        if child >= len(scores):
            break
        other = child + 1
        if other < len(scores) and _less(scores, places, other, child):
            child = other
        if scores[child] > score or (scores[child] == score and places[child] < place):
            break
        scores[node], places[node] = scores[child], places[child]
        node = child
    scores[node], places[node] = score, place


@inner()
def _less(scores: NDArray[np.float32], places: NDArray[np.int64], a: int, b: int) -> Any:
    return scores[a] < scores[b] or (scores[a] == scores[b] and places[a] > places[b])


@compiled(
    read(np.int32, 1), read(np.uint64, 2), read(np.int64, 1), write(np.int64, 1),
    write(np.uint16, 1), write(np.uint64, 2),
)  # fmt: skip
def sort_postings(
    words: NDArray[np.int32],
    codes: NDArray[np.uint64],
    picture_starts: NDArray[np.int64],
    ends: NDArray[np.int64],
    out_slots: NDArray[np.uint16],
    out_codes: NDArray[np.uint64],
) -> None:
    """Sort the words and codes of pictures by word, and by picture within a word.

    Args:
        words: int32 (P,), the words of the first picture, then of the next.
        codes: uint64 (P, B).
        picture_starts: int64 (S + 1,), where the words of each picture start.
        ends: int64 (C + 1,), where the postings of each word start; changed to where they end.
        out_slots: uint16 (P,), written.
        out_codes: uint64 (P, B), written.
    """
    for slot in range(len(picture_starts) - 1):
        for row in range(picture_starts[slot], picture_starts[slot + 1]):
            place = ends[words[row]]
            out_slots[place] = slot
            for block in range(codes.shape[1]):
                out_codes[place, block] = codes[row, block]
            ends[words[row]] = place + 1


@compiled(read(np.bool_, 1), read(np.uint16, 1))
def postings_of(chosen: NDArray[np.bool_], posting_slots: NDArray[np.uint16]) -> Any:
    """Return the rows of the postings of the chosen slots, int64, ascending.

    Args:
        chosen: bool (S,).
        posting_slots: uint16 (P,).
    """
    count = 0
    for posting in range(len(posting_slots)):
        count += chosen[posting_slots[posting]]
    found = np.empty(count, np.int64)
    count = 0
    for posting in range(len(posting_slots)):
        if chosen[posting_slots[posting]]:
            found[count] = posting
            count += 1
    return found


@compiled(read(np.int64, 1), read(np.int64, 1), read(np.uint16, 1), read(np.int32, 1), write(np.int64, 1))
def count_live(
    rows: NDArray[np.int64],
    starts: NDArray[np.int64],
    posting_slots: NDArray[np.uint16],
    new_slots: NDArray[np.int32],
    counts: NDArray[np.int64],
) -> None:
    """Add to ``counts[rows[u]]`` the postings of the segment's word u whose picture has a new slot (not -1)."""
    for word in range(len(rows)):
        for posting in range(starts[word], starts[word + 1]):
            counts[rows[word]] += new_slots[posting_slots[posting]] >= 0


@compiled(
    read(np.int64, 1), read(np.int64, 1), read(np.uint16, 1), read(np.uint64, 2), read(np.int32, 1),
    write(np.int64, 1), write(np.uint16, 1), write(np.uint64, 2),
)  # fmt: skip
def copy_live(
    rows: NDArray[np.int64],
    starts: NDArray[np.int64],
    posting_slots: NDArray[np.uint16],
    posting_codes: NDArray[np.uint64],
    new_slots: NDArray[np.int32],
    ends: NDArray[np.int64],
    out_slots: NDArray[np.uint16],
    out_codes: NDArray[np.uint64],
) -> None:
    """Append the live postings of each word u of a segment at ``ends[rows[u]]``, which is advanced."""
    for word in range(len(rows)):
        end = ends[rows[word]]
        for posting in range(starts[word], starts[word + 1]):
            slot = new_slots[posting_slots[posting]]
            if slot >= 0:
                out_slots[end] = slot
                for block in range(out_codes.shape[1]):
                    out_codes[end, block] = posting_codes[posting, block]
                end += 1
        ends[rows[word]] = end
