"""The inverted file: a catalogue of pictures, segments of descriptors on disk, and the search over them."""

from __future__ import annotations

from d2r.index.errors import RemovedError, StoreError
from d2r.index.index import Hit, Index, IndexSize
from d2r.index.listing import Listing
from d2r.index.rows import PictureRow
from d2r.index.schema import FORMAT
from d2r.index.segment import Segment
from d2r.index.segment_writing import Entry
from d2r.index.writer import BusyError, PictureState, Writer

__all__ = [
    "FORMAT",
    "BusyError",
    "Entry",
    "Hit",
    "Index",
    "IndexSize",
    "Listing",
    "PictureRow",
    "PictureState",
    "RemovedError",
    "Segment",
    "StoreError",
    "Writer",
]
