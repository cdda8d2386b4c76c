"""The uniform grid of R-MAC (Tolias, Sicre, Jegou, ICLR 2016)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from d2r.boxes import Boxes, as_boxes
from d2r.images import Picture
from d2r.regions.base import Regions

_OVERLAP = 0.4  # of neighbouring squares at level 1, the original's choice


@dataclass(frozen=True)
class RMAC:
    """Evenly spaced squares of side ``2 min(W, H) / (l + 1)`` at each level l = 1 ... ``levels``.

    There are l along the shorter side and l + m - 1 along the longer side; m makes squares of level 1 overlap by about
    40 %.
    """

    levels: int = 3

    def __post_init__(self) -> None:
        if not 1 <= self.levels <= 10:
            raise ValueError("levels must be 1 to 10")

    def select(self, image: Picture) -> Regions:
        """See :meth:`d2r.regions.RegionSelector.select`; level 1 comes first, each level in reading order."""
        height, width = image.shape[:2]
        return Regions.unscored(rmac_boxes(width, height, self.levels))


def rmac_boxes(width: int, height: int, levels: int) -> Boxes:
    """Return the boxes of the R-MAC grid, float32 (R, 4), without the whole picture.

    A square picture has 4 boxes with 2 levels and 13 with 3; a picture of 3:4 has 2, 8 and 20 with 1, 2 and 3 levels.
    """
    short = min(width, height)
    columns, rows = _steps(width, short), _steps(height, short)
    boxes = []
    for level in range(1, levels + 1):
        side = max(1.0, np.floor(2.0 * short / (level + 1)))
        xs = _starts(width, side, level + columns)
        ys = _starts(height, side, level + rows)
        boxes += [(x, y, x + side, y + side) for y in ys for x in xs]
    grid = as_boxes(boxes)
    whole = (grid == np.array([0, 0, width, height], np.float32)).all(axis=1)
    return as_boxes(grid[~whole])


def _steps(length: int, short: int) -> int:
    """Return m - 1, how many more squares there are than along the shorter side; 0 for that side itself."""
    if length == short:
        return 0
    steps = np.arange(1, 7)
    overlap = 1.0 - (length - short) / (steps * short)
    return int(steps[np.abs(overlap - _OVERLAP).argmin()])


def _starts(length: int, side: float, count: int) -> NDArray[np.float64]:
    return np.floor(np.linspace(0.0, length - side, count)) if count > 1 else np.zeros(1)
