"""The whole picture and nothing else: plain ASMK*."""

from __future__ import annotations

from dataclasses import dataclass

from d2r.boxes import as_boxes
from d2r.images import Picture
from d2r.regions.base import Regions


@dataclass(frozen=True)
class Whole:
    """Selects no region besides the whole picture."""

    def select(self, image: Picture) -> Regions:
        """See :meth:`d2r.regions.RegionSelector.select`."""
        return Regions.unscored(as_boxes([]))
