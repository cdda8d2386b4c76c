"""The files of a segment: which arrays it has, how they appear all at once, and how they are checked."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from tokenize import TokenError
from typing import Any

import numpy as np
from numpy.typing import NDArray

from d2r.support.files import sync

MAX_SLOTS = 65536
"""Maximum number of pictures per segment: slots have 16 bits."""

SEARCH_ARRAYS = ("words", "word_starts", "posting_slots", "posting_codes", "g")
"""The arrays that search reads."""

ROWS_BY_STARTS = {
    "point_starts": ("positions", "scales", "angles", "point_words", "point_codes", "local_words", "local_codes"),
    "region_starts": ("boxes", "box_scores"),
}
"""Arrays with a range of rows per picture, from its start to that of the next picture."""

VERIFY_ARRAYS = (*ROWS_BY_STARTS, *(name for names in ROWS_BY_STARTS.values() for name in names))
"""The arrays that verification and display read."""

ANGLE_STEPS = 128.0 / np.pi
"""Steps per radian of the stored angles: 256 per turn."""


@dataclass(frozen=True)
class Written:
    """A segment on the disk.

    Attributes:
        slots: number of pictures.
        postings: number of postings.
        search_bytes: bytes of the files that search reads.
        verify_bytes: bytes of the other files.
        digests: digest (:func:`digest`) of each file, by the name of its array.
    """

    slots: int
    postings: int
    search_bytes: int
    verify_bytes: int
    digests: Mapping[str, str]


def check_segment(folder: Path, digests: Mapping[str, str]) -> list[str]:
    """Return what is wrong with the files of a segment, one line per file, which names it."""
    problems = []
    for name, expected in digests.items():
        file = array_file(folder, name)
        try:
            found = digest(file)
        except OSError as error:
            problems.append(f"{file}: cannot be read ({error.strerror or error})")
            continue
        if found != expected:
            problems.append(f"{file}: its content is not what was written")
    return problems


def discard_segment(folder: Path) -> None:
    """Delete the files of a segment, complete or half written, and the folder if nothing else is in it.

    Files with other names are kept.
    """
    if folder.is_symlink():
        return
    for name in (*SEARCH_ARRAYS, *VERIFY_ARRAYS):
        with suppress(OSError):
            array_file(folder, name).unlink()
    with suppress(OSError):
        folder.rmdir()


def part_of(folder: Path) -> Path:
    """Return the folder where a segment is written before it is complete; leftovers of a killed writer are deleted."""
    return folder.with_name(f".{folder.name}.part")


def digest(file: Path) -> str:
    """Return the SHA-256 of a file's content, 64 hexadecimal digits; processors compute it quickly."""
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def appear(folder: Path, write: Callable[[Path], None]) -> Written:
    """Have the arrays of a segment written to a temporary folder, and rename it when every file is on the disk.

    Args:
        folder: folder of the segment; must not exist.
        write: called with a folder, writes all arrays into it.
    """
    part = part_of(folder)
    discard_segment(part)
    part.mkdir()
    try:
        write(part)
        files = {name: array_file(part, name) for name in (*SEARCH_ARRAYS, *VERIFY_ARRAYS)}
        for file in files.values():
            sync(file)
        sizes = {name: file.stat().st_size for name, file in files.items()}
        digests = {name: digest(file) for name, file in files.items()}
        slots, postings = len(map_array(files["g"])), len(map_array(files["posting_slots"]))
        sync(part)
        part.rename(folder)
        sync(folder.parent)
    except BaseException:
        discard_segment(part)
        raise
    search, verify = (sum(sizes[name] for name in names) for names in (SEARCH_ARRAYS, VERIFY_ARRAYS))
    return Written(slots, postings, search, verify, digests)


def array_file(folder: Path, name: str) -> Path:
    """Return the file of an array of a segment."""
    return folder / f"{name}.npy"


def map_array(path: Path) -> NDArray[Any]:
    """Map the array of a file into memory, read-only.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is damaged.
    """
    try:
        return np.lib.format.open_memmap(path, mode="r")
    except (SyntaxError, TokenError) as error:  # raised by the parser of the header
        raise ValueError(f"{path.name}: its header cannot be read") from error


def starts_of(counts: Sequence[int] | NDArray[np.int64]) -> NDArray[np.int64]:
    """Return where each of N parts begins, given their numbers of rows, and where the last ends: int64 (N + 1,)."""
    starts = np.zeros(len(counts) + 1, np.int64)
    np.cumsum(counts, out=starts[1:])
    return starts
