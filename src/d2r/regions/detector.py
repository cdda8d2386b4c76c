"""A trained detector as region selector."""

from __future__ import annotations

import cv2
import numpy as np

from d2r.images import Picture


def squash(image: Picture, side: int) -> Picture:
    """Scale a picture to a square without keeping its aspect: uint8 (side, side, 3)."""
    shrinks = image.shape[0] * image.shape[1] > side * side
    method = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(image, (side, side), interpolation=method), dtype=np.uint8)
