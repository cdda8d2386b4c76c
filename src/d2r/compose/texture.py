"""Texture of a photograph, which shows where its subject is."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from d2r.boxes import PixelBox
from d2r.images import Picture, shrink


def textured_box(photo: Picture) -> PixelBox:
    """Return the most likely box of a photograph's subject: strong gradients, near the middle.

    Args:
        photo: uint8 (height, width, 3).

    Returns:
        a box inside the photograph, 45 to 75 % of it in each direction, at most twice as long as wide.
    """
    height, width = photo.shape[:2]
    energy = texture_energy(photo, side=128)
    rows, columns = energy.shape
    sums = cv2.integral(energy)
    best, best_score = (0.0, 0.0, float(width), float(height)), -1.0
    for h in (rows * share for share in (0.45, 0.6, 0.75)):
        for w in (columns * share for share in (0.45, 0.6, 0.75)):
            # Leave out a border of 3 %, where frames, captions and watermarks are.
            y = np.arange(rows * 0.03, rows * 0.97 - h + 1e-6, 4)[:, None]
            x = np.arange(columns * 0.03, columns * 0.97 - w + 1e-6, 4)[None, :]
            y1, y2, x1, x2 = (np.rint(edge).astype(int) for edge in (y, y + h, x, x + w))
            inside = sums[y2, x2] - sums[y1, x2] - sums[y2, x1] + sums[y1, x1]
            off_centre = ((y + h / 2) / rows - 0.5) ** 2 + ((x + w / 2) / columns - 0.5) ** 2
            # The mean (exponent 1) prefers the smallest box, the sum (0) the largest; this fits buildings best.
            score = inside / (h * w) ** 0.8 * (1 - 2 * off_centre)
            i, j = np.unravel_index(int(np.argmax(score)), score.shape)
            if score[i, j] > best_score:
                best_score = float(score[i, j])
                corner = (float(x[0, j]) / columns, float(y[i, 0]) / rows)
                best = (
                    corner[0] * width,
                    corner[1] * height,
                    (corner[0] + w / columns) * width,
                    (corner[1] + h / rows) * height,
                )
    return compact(best)


def compact(box: PixelBox) -> PixelBox:
    """Return a box cut to at most twice as long as wide, about its middle: a longer one may not fit anywhere."""
    x1, y1, x2, y2 = box
    width, height = min(x2 - x1, 2 * (y2 - y1)), min(y2 - y1, 2 * (x2 - x1))
    x, y = (x1 + x2) / 2, (y1 + y2) / 2
    return (x - width / 2, y - height / 2, x + width / 2, y + height / 2)


def texture_energy(picture: Picture, side: int) -> NDArray[np.float32]:
    """Return the gradient magnitude of a picture shrunk to ``side``, cut off at three times its mean.

    Cut off because a strong edge is not texture.
    """
    gray = cv2.cvtColor(shrink(picture, side), cv2.COLOR_RGB2GRAY)
    dx, dy = (cv2.Sobel(gray, cv2.CV_32F, x, 1 - x, ksize=3) for x in (1, 0))
    energy = np.hypot(dx, dy)
    return np.asarray(np.minimum(energy, 3 * energy.mean()), dtype=np.float32)
