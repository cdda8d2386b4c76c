"""The rows of the catalogue as objects, and the checksums that they carry of what they say."""

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
"""Of :class:`PictureRow`, but for the last, which not every format has."""

SEGMENT_COLUMNS = "id, slots, postings, search_bytes, verify_bytes, digests"
"""Of :class:`SegmentRow`."""

_ENCODING = sys.getfilesystemencoding()  # os.fsdecode asks for it each time, which a thousand rows feel


class PictureRow(NamedTuple):
    """One picture of the collection, as the catalogue knows it; a tuple because a thousand are made for an answer.

    Attributes:
        id: stays the same as long as the path is in the index.
        path: absolute, as the file system spells it (``os.fsencode`` for the exact bytes).
        size: of the file, in bytes, when it was described.
        mtime_ns: its modification time then.
        digest: BLAKE2b of its content; None when it could not be read.
        width: in pixels, upright; None when it was skipped.
        height: in pixels, upright; None when it was skipped.
        words: visual words in its descriptor; 0 when it has no features.
        segment: where its descriptor is; None when it was skipped.
        slot: its place in the segment.
        problem: why it was skipped, or that it has no features; None when all is well.
        missing_since: when its file was first not found, in seconds since 1970; it is kept, and not searched. None when
            the file was there.
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
    """One live segment: its pictures (dead ones too), postings, bytes on disk by purpose, and digests by file."""

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
        dead: slots of pictures that were removed or replaced, int64 ascending, by the number of their segment.
        missing: slots of pictures whose files are missing; nobody else may use these.
    """

    segments: tuple[SegmentRow, ...]
    dead: Mapping[int, NDArray[np.int64]]
    missing: Mapping[int, NDArray[np.int64]] = field(default_factory=dict)

    @property
    def hidden(self) -> dict[int, NDArray[np.int64]]:
        """The slots that are not searched, dead or missing, int64 ascending, by the number of their segment."""
        hidden = dict(self.dead)
        for number, slots in self.missing.items():
            hidden[number] = np.union1d(hidden[number], slots) if number in hidden else slots
        return hidden


def picture_from(row: Sequence[Any]) -> PictureRow:
    """Return the picture of a row of :data:`PICTURE_COLUMNS` and ``missing_since``."""
    return PictureRow._make((row[0], row[1].decode(_ENCODING, "surrogateescape"), *row[2:]))


def values_of(picture: PictureRow) -> tuple[Any, ...]:
    """Return what the catalogue says of a picture, but for its number and where its descriptor is."""
    return (
        os.fsencode(picture.path), picture.size, picture.mtime_ns, picture.digest,
        picture.width, picture.height, picture.words, picture.problem, picture.missing_since,
    )  # fmt: skip


def checksum_values(values: Sequence[Any]) -> Sequence[Any]:
    """Return what the checksum of a picture is of: a picture that is there has the one that it had in format 5."""
    return values if values[-1] is not None else values[:-1]


def segment_from(row: Sequence[Any]) -> SegmentRow:
    """Return the segment of a row of :data:`SEGMENT_COLUMNS`."""
    number, slots, postings, search_bytes, verify_bytes, digests = row
    return SegmentRow(number, slots, postings, search_bytes, verify_bytes, json.loads(digests))


def by_segment(places: Sequence[tuple[int, int]]) -> dict[int, NDArray[np.int64]]:
    """Return the slots of sorted (segment, slot) places by the number of their segment."""
    rows = np.array(places, np.int64).reshape(-1, 2)
    numbers, starts = np.unique(rows[:, 0], return_index=True)
    return dict(zip(numbers.tolist(), np.split(rows[:, 1], starts[1:]), strict=False))


def setting_values(key: str, value: Any) -> tuple[str, str, int]:
    """Return the row of a setting: its key, its value as JSON, and the checksum of both."""
    text = json.dumps(value)
    return key, text, checksum((key, text))


def checksum(values: Sequence[Any]) -> int:
    """Return the checksum of a row's values; not of where a descriptor lies, which moves, and is checked otherwise."""
    return zlib.crc32(repr(tuple(values)).encode("utf-8", "surrogatepass"))
