"""Where the query object is in a found picture, from the inliers."""

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
    """Return the box of the query object in pixels of the picture, clipped to it.

    A query box surrounds the object, so the result is the transformed query box. If the query is a whole picture, its
    object is unknown: the result is the box around the inliers. But that box is too small, more so with few inliers: N
    points spread evenly over a length span (N - 1) / (N + 1) of it. So it is enlarged accordingly, up to the
    transformed outline of the query.

    Args:
        box: the query box, or the box of the whole query.
        whole: whether ``box`` is the whole query.
        transform: (2, 3), maps query pixels to pixels of the picture.
        positions: (N, 2), the inliers in the picture, at least two.
        size: width and height of the picture, in pixels.
    """
    x1, y1, x2, y2 = box
    corners = np.array([[x1, y1], [x2, y1], [x2, y2], [x1, y2]], np.float64)
    mapped = corners @ transform[:, :2].T + transform[:, 2]
    low, high = positions.min(axis=0).astype(np.float64), positions.max(axis=0).astype(np.float64)
    margin = (high - low) / (len(positions) - 1) if whole else np.inf
    outer = np.maximum(mapped.min(axis=0), 0.0), np.minimum(mapped.max(axis=0), size)
    # The change of view may not be affine: the box always contains the inliers themselves.
    low = np.minimum(low, np.maximum(low - margin, outer[0]))
    high = np.maximum(high, np.minimum(high + margin, outer[1]))
    return float(low[0]), float(low[1]), float(high[0]), float(high[1])
