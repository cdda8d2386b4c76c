"""Rank the pictures of some segments: the part of a search that one machine does, wherever the catalogue is."""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from d2r.asmk.kernels import KERNELS, Aggregated, selectivity_by_distance
from d2r.index.scoring import keep_best, score_postings
from d2r.index.segment import Segment
from d2r.index.segment_files import MAX_SLOTS
from d2r.support.memory import usable_memory

Best: TypeAlias = NDArray[np.void]
"""The best pictures of a query: "score", float32, and "place", int64: segment number, and slot in the low 16 bits."""

_BEST = np.dtype([("score", np.float32), ("place", np.int64)])


@dataclass(frozen=True)
class Snapshot:
    """Segments of one commit, and g of each picture for each kind of features, float32 (K, S), 0 if it is hidden.

    ``cold``: the segments do not all fit in memory, so searches read from the disk.
    """

    version: int
    segments: Mapping[int, Segment]
    factors: Mapping[int, NDArray[np.float32]]
    cold: bool


NO_SNAPSHOT = Snapshot(-1, {}, {}, False)
"""The state of an index before anything was read."""


def make_snapshot(version: int, segments: Mapping[int, Segment], hidden: Mapping[int, NDArray[np.int64]]) -> Snapshot:
    """Return a snapshot of segments, ready to be searched.

    Args:
        version: of the commit.
        segments: by number.
        hidden: slots of pictures that were removed or replaced, or are missing, by segment number.
    """
    factors = {
        number: np.array(segment.g.reshape(len(segment), -1).T, order="C") for number, segment in segments.items()
    }
    for number, slots in hidden.items():
        factors[number][:, slots] = 0.0
    cold = sum(segment.search_bytes for segment in segments.values()) > usable_memory()
    if cold:
        for segment in segments.values():
            segment.stay_cold()
    return Snapshot(version, segments, factors, cold)


class SegmentRanker:
    """Threads that score segments.

    Args:
        threads: maximum per search; None is one per processor.
    """

    def __init__(self, threads: int | None = None) -> None:
        self._threads = threads or os.cpu_count() or 1
        self._pool = ThreadPoolExecutor(self._threads, thread_name_prefix="search")

    def close(self) -> None:
        """End the threads."""
        self._pool.shutdown()

    def rank(self, snapshot: Snapshot, queries: Sequence[Aggregated], top: int, kind: int = 0) -> list[Best]:
        """Return the best pictures of each query, at most ``top``, none with score 0, best first.

        The queries are scored together, segment by segment, so that each part of the index is read only once. All their
        words are of one kind of features, the ``kind``-th of the index.

        Raises:
            ValueError: a query is not packed signs with as many bits as the index, or ``top`` is below 1.
        """
        if top < 1:
            raise ValueError("top must be 1 or more")
        blocks = {segment.posting_codes.shape[1] for segment in snapshot.segments.values()}
        for query in queries:
            query.check_signs()
            if blocks - {query.vectors.shape[1]}:
                raise ValueError(f"a query has codes of {query.dim} bits, unlike the index")
        # The largest first: then the last ones are small, and no thread waits long.
        numbers = sorted(snapshot.segments, key=lambda number: -len(snapshot.segments[number].posting_slots))
        threads = min(self._threads, len(numbers))
        parts = [
            self._pool.submit(_best, snapshot, numbers[thread::threads], queries, top, kind)
            for thread in range(1, threads)
        ]
        every = [_best(snapshot, numbers[::threads], queries, top, kind)] if numbers else []
        every += [part.result() for part in parts]
        return [merge_best([part[row] for part in every], top) for row in range(len(queries))]


def merge_best(parts: Sequence[Best], top: int) -> Best:
    """Return the best of several parts of an index, best first; of equal scores the lower place comes first.

    The best ``top`` of the whole are among the best ``top`` of each part, so nothing is lost.
    """
    every = np.concatenate(parts) if parts else np.zeros(0, _BEST)
    return every[np.lexsort((every["place"], -every["score"]))][:top]


def best_of(scores: NDArray[np.float32], top: int) -> Best:
    """Return the best pictures by similarities to all pictures, float32 (N,); the place is the row."""
    order = np.argsort(-scores, kind="stable")[:top]
    best = np.zeros(len(order), _BEST)
    best["score"], best["place"] = scores[order], order
    return np.asarray(best[best["score"] != 0.0])


def place_of(segment: int, slot: int) -> int:
    """Return the place of a picture, as :data:`Best` has it."""
    return segment << 16 | slot


def segment_and_slot(place: int) -> tuple[int, int]:
    """Return what :func:`place_of` joined."""
    return place >> 16, place & 0xFFFF


def _best(snapshot: Snapshot, numbers: Sequence[int], queries: Sequence[Aggregated], top: int, kind: int) -> list[Best]:
    """Return the best pictures of some segments for each query, unordered."""
    most = min(top, sum(len(snapshot.segments[number]) for number in numbers))
    found = np.zeros((len(queries), most), np.float32), np.zeros((len(queries), most), np.int64)
    tables = [_selectivity(query.vectors.shape[1], query.dim) for query in queries]
    every = _zeros()
    if snapshot.cold:  # all at once: a disk serves many requests faster together than one after another
        words = np.unique(np.concatenate([query.words for query in queries]))
        for number in numbers:
            snapshot.segments[number].fetch(words)
    for number in numbers:
        segment = snapshot.segments[number]
        scores = every[: len(segment)]
        for query, table, best_scores, best_places in zip(queries, tables, *found, strict=True):
            if len(query):
                score_postings(query.vectors.shape[1])(
                    query.words, query.vectors, segment.words, segment.word_starts,
                    segment.posting_slots, segment.posting_codes, table, scores,
                )  # fmt: skip
                keep_best(scores, snapshot.factors[number][kind], place_of(number, 0), best_scores, best_places)
    best = np.zeros(found[0].shape, _BEST)
    own = [len(query) ** -0.5 if len(query) else 0.0 for query in queries]
    best["score"], best["place"] = found[0] * np.array(own, np.float32)[:, None], found[1]
    return [one[one["score"] > 0.0] for one in best]


@lru_cache(maxsize=16)
def _selectivity(blocks: int, dim: int) -> NDArray[np.float32]:
    return selectivity_by_distance(blocks, dim, KERNELS["r-asmk*"])


_scratch = threading.local()


def _zeros() -> NDArray[np.float32]:
    """Return this thread's zeros for the scores of a segment; users must zero them again."""
    if not hasattr(_scratch, "scores"):  # fresh memory would take a quarter of the time of a small search
        _scratch.scores = np.zeros(MAX_SLOTS, np.float32)
    return _scratch.scores  # type: ignore[no-any-return]
