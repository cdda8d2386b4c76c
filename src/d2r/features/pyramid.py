"""Image pyramids for networks of local features: sizes, scaling, and batches of equal size."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from d2r.images import Picture


@dataclass(frozen=True)
class Level:
    """One scale of one picture.

    Attributes:
        picture: number of the picture.
        height: height of the scaled picture, in pixels.
        width: width of the scaled picture, in pixels.
        scales: scales of x and y; they differ slightly due to rounding.
    """

    picture: int
    height: int
    width: int
    scales: tuple[float, float]


def levels(images: Sequence[Picture], scales: Sequence[float], stride: int) -> list[Level]:
    """Return the levels of some pictures, picture by picture, each in the order of ``scales``.

    The sides of a level are the multiples of ``stride`` nearest to those of the scaled picture, at least one stride. A
    second level of the same size is left out, because it would be identical.

    Args:
        images: uint8 (H, W, 3) each, of any sizes.
        scales: above 0.
        stride: S, in pixels.
    """
    found = []
    for number, image in enumerate(images):
        height, width = image.shape[:2]
        sizes = dict.fromkeys((_side(height, scale, stride), _side(width, scale, stride)) for scale in scales)
        found += [Level(number, rows, columns, (columns / width, rows / height)) for rows, columns in sizes]
    return found


def runs(of: Sequence[Level], most_pixels: int) -> Iterator[list[Level]]:
    """Yield the levels in groups of equal size, with at most ``most_pixels`` pixels together, or single levels."""
    by_size: dict[tuple[int, int], list[Level]] = {}
    for level in of:
        by_size.setdefault((level.height, level.width), []).append(level)
    for (height, width), group in by_size.items():
        count = max(1, most_pixels // (height * width))
        for start in range(0, len(group), count):
            yield group[start : start + count]


def scaled_level(image: Picture, level: Level) -> Picture:
    """Return a picture at the size of a level, uint8 (h, w, 3): averaged if it shrinks, else interpolated."""
    size = (level.width, level.height)
    if image.shape[1::-1] == size:
        return image
    shrinks = level.width * level.height < image.shape[0] * image.shape[1]
    method = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(image, size, interpolation=method), np.uint8)


def _side(side: int, scale: float, stride: int) -> int:
    return stride * max(1, math.floor(side * scale / stride + 0.5))
