"""Where on a picture the thing is that was searched for, by the points that agree."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from d2r.boxes import Box, PixelBox


def bounding_box(positions: NDArray[np.floating]) -> PixelBox:
    """Return the smallest box around positions (N, 2), at least one."""
    (x1, y1), (x2, y2) = positions.min(axis=0).tolist(), positions.max(axis=0).tolist()
    return x1, y1, x2, y2


def found_box(
    box: Box, whole: bool, transform: NDArray[np.float64], positions: NDArray[np.floating], size: tuple[int, int]
) -> PixelBox:
    """Return the box of what was searched for, in pixels of the picture, inside of it.

    A box that was drawn on the query is around the thing, so it is where the map puts that box. Of a whole picture it
    is not known what of it is meant: it is what the two share, the box around the agreeing points, but that is too
    small, the more so the fewer they are: N points spread evenly over a length take up (N - 1) / (N + 1) of it. So it
    is enlarged by that, not beyond where the map puts the query.

    Args:
        box: the query box, or the box of the whole query.
        whole: whether it is the latter.
        transform: (2, 3), from pixels of the query to those of the picture.
        positions: (N, 2), of the agreeing keypoints in the picture, at least two.
        size: width and height of the picture.
    """
    x1, y1, x2, y2 = box
    corners = np.array([[x1, y1], [x2, y1], [x2, y2], [x1, y2]], np.float64)
    mapped = corners @ transform[:, :2].T + transform[:, 2]
    low, high = positions.min(axis=0).astype(np.float64), positions.max(axis=0).astype(np.float64)
    margin = (high - low) / (len(positions) - 1) if whole else np.inf
    outer = np.maximum(mapped.min(axis=0), 0.0), np.minimum(mapped.max(axis=0), size)
    # The map is affine and the change of view may not be: the points themselves are always inside.
    low = np.minimum(low, np.maximum(low - margin, outer[0]))
    high = np.maximum(high, np.minimum(high + margin, outer[1]))
    return float(low[0]), float(low[1]), float(high[0]), float(high[1])
