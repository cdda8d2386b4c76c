"""The files of an index: their names, and how its segments are opened."""

from __future__ import annotations

from pathlib import Path

from d2r.index.errors import StoreError
from d2r.index.segment import Segment

CODEBOOK = "codebook.safetensors"
DIGEST = "codebook"  # setting: digest of the file of visual words
LOCK = ".writer.lock"
SEGMENTS = "segments"


def load_segment(index: Path, number: int) -> Segment:
    """Map the arrays of a segment of the index in a folder.

    Raises:
        FileNotFoundError: the segment is gone: its pictures were removed, or moved to another segment.
        StoreError: a file is damaged.
    """
    folder = segment_folder(index, number)
    try:
        return Segment.load(folder)
    except ValueError as error:
        raise StoreError(f"{folder}: a file is damaged ({error}); restore it or index again") from error


def segment_folder(index: Path, number: int) -> Path:
    """Return the folder of a segment of an index."""
    return index / SEGMENTS / f"{number:06d}"
