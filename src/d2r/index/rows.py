"""The rows of the catalogue as objects, and their checksums."""

from __future__ import annotations

import json
import os
import sys
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

PICTURE_COLUMNS = "id, path, size, mtime_ns, digest, width, height, words, segment, slot, problem"
"""The columns of :class:`PictureRow` without the last, which not every format has."""

SEGMENT_COLUMNS = "id, slots, postings, search_bytes, verify_bytes, digests"
"""The columns of :class:`SegmentRow`."""

_ENCODING = sys.getfilesystemencoding()  # os.fsdecode asks for it at every call, which shows in a thousand rows


class PictureRow(NamedTuple):
    """One picture in the catalogue; a tuple because an answer needs a thousand of them quickly.

    Attributes:
        id: stays the same as long as the path is in the index.
        path: absolute, as the file system spells it (``os.fsencode`` for the exact bytes).
        size: of the file, in bytes, when it was described.
        mtime_ns: its modification time when it was described.
        digest: BLAKE2b of its content; None if it could not be read.
        width: of the upright picture, in pixels; None if it was skipped.
        height: of the upright picture, in pixels; None if it was skipped.
        words: number of visual words in its descriptor; 0 if it has no features.
        segment: number of the segment with its descriptor; None if it was skipped.
        slot: its place in the segment.
        problem: why it was skipped, or that it has no features; None otherwise.
        missing_since: when its file was first not found, in seconds since 1970; such a picture is kept but not
            searched. None if the file was there.
    """

    id: int
    path: str
    size: int
    mtime_ns: int
    digest: bytes | None
    width: int | None
    height: int | None
    words: int | None
    segment: int | None
    slot: int | None
    problem: str | None
    missing_since: int | None = None

    @property
    def findable(self) -> bool:
        """Whether a search can find it: it has a descriptor, and its file is not missing."""
        return self.segment is not None and self.missing_since is None


@dataclass(frozen=True)
class SegmentRow:
    """One live segment: its pictures (including dead ones), postings, bytes on disk by purpose, and digests by file."""

    id: int
    slots: int
    postings: int
    search_bytes: int
    verify_bytes: int
    digests: Mapping[str, str]


@dataclass(frozen=True)
class Layout:
    """Which segments are live, and which of their slots are not searched, at one moment.

    Attributes:
        segments: the live ones.
        dead: slots of pictures that were removed or replaced, int64 ascending, by segment number.
        missing: slots of pictures whose files are missing, likewise; they stay reserved.
    """

    segments: tuple[SegmentRow, ...]
    dead: Mapping[int, NDArray[np.int64]]
    missing: Mapping[int, NDArray[np.int64]] = field(default_factory=dict)

    @property
    def hidden(self) -> dict[int, NDArray[np.int64]]:
        """The slots that are not searched, dead or missing, int64 ascending, by segment number."""
        hidden = dict(self.dead)
        for number, slots in self.missing.items():
            hidden[number] = np.union1d(hidden[number], slots) if number in hidden else slots
        return hidden


def picture_from(row: Sequence[Any]) -> PictureRow:
    """Return the picture in a row of :data:`PICTURE_COLUMNS` and ``missing_since``."""
    return PictureRow._make((row[0], row[1].decode(_ENCODING, "surrogateescape"), *row[2:]))


def values_of(picture: PictureRow) -> tuple[Any, ...]:
    """Return the columns of a picture without its number and the place of its descriptor."""
    return (
        os.fsencode(picture.path), picture.size, picture.mtime_ns, picture.digest,
        picture.width, picture.height, picture.words, picture.problem, picture.missing_since,
    )  # fmt: skip


def checksum_values(values: Sequence[Any]) -> Sequence[Any]:
    """Return the values that a picture's checksum covers; unless it is missing, they are those of format 5."""
    return values if values[-1] is not None else values[:-1]


def segment_from(row: Sequence[Any]) -> SegmentRow:
    """Return the segment in a row of :data:`SEGMENT_COLUMNS`."""
    number, slots, postings, search_bytes, verify_bytes, digests = row
    return SegmentRow(number, slots, postings, search_bytes, verify_bytes, json.loads(digests))


def by_segment(places: Sequence[tuple[int, int]]) -> dict[int, NDArray[np.int64]]:
    """Return the slots of sorted (segment, slot) places, by segment number."""
    rows = np.array(places, np.int64).reshape(-1, 2)
    numbers, starts = np.unique(rows[:, 0], return_index=True)
    return dict(zip(numbers.tolist(), np.split(rows[:, 1], starts[1:]), strict=False))


def setting_values(key: str, value: Any) -> tuple[str, str, int]:
    """Return the row of a setting: its key, its value as JSON, and the checksum of both."""
    text = json.dumps(value)
    return key, text, checksum((key, text))


def checksum(values: Sequence[Any]) -> int:
    """Return the checksum of a row's values; the place of a descriptor changes and is checked otherwise."""
    return zlib.crc32(repr(tuple(values)).encode("utf-8", "surrogatepass"))
