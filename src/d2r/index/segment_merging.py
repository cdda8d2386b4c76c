"""Merge segments into one without the dead slots: the postings word by word, other arrays picture by picture."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from d2r.index.scoring import copy_live, count_live
from d2r.index.segment import Segment
from d2r.index.segment_files import MAX_SLOTS, ROWS_BY_STARTS, Written, appear, array_file, starts_of

_CHUNK = 4 << 20  # postings in memory at once during a merge

_Sources: TypeAlias = Sequence[tuple[Segment, NDArray[np.int64]]]


def merge_segments(folder: Path, sources: _Sources) -> Written:
    """Write some slots of segments as the segment ``folder``, in order; nothing large is held in memory.

    Args:
        folder: must not exist; its parent must.
        sources: segments, each with the slots to take, int64 ascending; at most :data:`MAX_SLOTS` in all.
    """

    def write(part: Path) -> None:
        _merge_postings(part, sources)
        _merge_pictures(part, sources)

    return appear(folder, write)


@contextmanager
def _writing(folder: Path, name: str, shape: tuple[int, ...], dtype: Any) -> Iterator[Callable[[NDArray[Any]], None]]:
    """Yield a function that appends rows to an array of a known shape; a mapping would crash on a full disk."""
    with array_file(folder, name).open("wb") as file:
        header = {"descr": np.lib.format.dtype_to_descr(np.dtype(dtype)), "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(file, header)

        def append(rows: NDArray[Any]) -> None:
            file.write(np.ascontiguousarray(rows, dtype).data)

        yield append


def _write(folder: Path, name: str, shape: tuple[int, ...], dtype: Any, parts: Iterable[NDArray[Any]]) -> None:
    with _writing(folder, name, shape, dtype) as append:
        for part in parts:
            append(part)


def _merge_postings(folder: Path, sources: _Sources) -> None:
    words = np.unique(np.concatenate([segment.words for segment, _ in sources]))
    counts = np.zeros(len(words), np.int64)
    inputs = []
    first = 0
    for segment, slots in sources:
        new_slots = np.full(MAX_SLOTS, -1, np.int32)
        new_slots[slots] = np.arange(first, first + len(slots))
        first += len(slots)
        rows = np.searchsorted(words, segment.words)
        count_live(rows, segment.word_starts, segment.posting_slots, new_slots, counts)
        inputs.append((segment, rows, new_slots))
    total, alive = int(counts.sum()), counts > 0
    _write(folder, "words", (int(alive.sum()),), np.int32, [words[alive]])
    _write(folder, "word_starts", (int(alive.sum()) + 1,), np.int64, [starts_of(counts[alive])])
    blocks = sources[0][0].posting_codes.shape[1]
    with (
        _writing(folder, "posting_slots", (total,), np.uint16) as append_slots,
        _writing(folder, "posting_codes", (total, blocks), np.uint64) as append_codes,
    ):
        for chunk in _chunks(counts):
            out_slots, out_codes = _merged(inputs, counts, chunk)
            append_slots(out_slots)
            append_codes(out_codes)


def _chunks(counts: NDArray[np.int64]) -> list[tuple[int, int]]:
    """Cut the words into ranges of about :data:`_CHUNK` postings; a word is never cut."""
    ends = np.cumsum(counts)
    edges = np.unique(np.searchsorted(ends, np.arange(_CHUNK, ends[-1] if len(ends) else 0, _CHUNK)) + 1)
    bounds = [0, *(int(edge) for edge in edges if edge < len(counts)), len(counts)]
    return [(start, stop) for start, stop in pairwise(bounds) if stop > start]


def _merged(
    inputs: Sequence[tuple[Segment, NDArray[np.int64], NDArray[np.int32]]],
    counts: NDArray[np.int64],
    chunk: tuple[int, int],
) -> tuple[NDArray[np.uint16], NDArray[np.uint64]]:
    """Return the slots and codes of the live postings of a range of words."""
    starts = starts_of(counts[chunk[0] : chunk[1]])
    slots = np.empty(starts[-1], np.uint16)
    codes = np.empty((int(starts[-1]), inputs[0][0].posting_codes.shape[1]), np.uint64)
    ends = starts[:-1].copy()
    for segment, rows, new_slots in inputs:
        start, stop = np.searchsorted(rows, chunk)
        copy_live(
            rows[start:stop] - chunk[0], segment.word_starts[start : stop + 1],
            segment.posting_slots, segment.posting_codes, new_slots, ends, slots, codes,
        )  # fmt: skip
    return slots, codes


def _merge_pictures(folder: Path, sources: _Sources) -> None:
    total = sum(len(slots) for _, slots in sources)
    _write(
        folder, "g", (total, *sources[0][0].g.shape[1:]), np.float32, (segment.g[slots] for segment, slots in sources)
    )
    for starts_name, names in ROWS_BY_STARTS.items():
        counts = [np.diff(getattr(segment, starts_name))[slots] for segment, slots in sources]
        starts = starts_of(np.concatenate(counts))
        _write(folder, starts_name, (total + 1,), np.int64, [starts])
        for name in names:
            array = getattr(sources[0][0], name)
            shape = (int(starts[-1]), *array.shape[1:])
            _write(folder, name, shape, array.dtype, _live_rows(sources, starts_name, name))


def _live_rows(sources: _Sources, starts_name: str, name: str) -> Iterator[NDArray[Any]]:
    for segment, slots in sources:
        starts, rows = getattr(segment, starts_name), getattr(segment, name)
        for run in np.split(slots, np.flatnonzero(np.diff(slots) != 1) + 1):  # of consecutive slots
            if len(run):
                yield rows[starts[run[0]] : starts[run[-1] + 1]]
