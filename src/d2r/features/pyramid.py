"""A picture at several scales, as networks of local features see it: sizes, scaling, and runs of equal size."""

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
        picture: which one.
        height: of the scaled picture, in pixels.
        width: of the scaled picture, in pixels.
        scales: of x and y, width and height over those of the picture; they differ a little.
    """

    picture: int
    height: int
    width: int
    scales: tuple[float, float]


def levels(images: Sequence[Picture], scales: Sequence[float], stride: int) -> list[Level]:
    """Return the levels of some pictures, picture after picture, of each in the order of ``scales``.

    The sides of a level are the multiples of ``stride`` that are nearest to those of the scaled picture, one stride at
    least. A level of a size that the picture has already is left out: it would say the same again.

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
    """Yield the levels in groups of one size each, of ``most_pixels`` together at most, or of one alone."""
    by_size: dict[tuple[int, int], list[Level]] = {}
    for level in of:
        by_size.setdefault((level.height, level.width), []).append(level)
    for (height, width), group in by_size.items():
        count = max(1, most_pixels // (height * width))
        for start in range(0, len(group), count):
            yield group[start : start + count]


def scaled_level(image: Picture, level: Level) -> Picture:
    """Return a picture at the size of a level, uint8 (h, w, 3): averaged where it shrinks, else interpolated."""
    size = (level.width, level.height)
    if image.shape[1::-1] == size:
        return image
    shrinks = level.width * level.height < image.shape[0] * image.shape[1]
    method = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(image, size, interpolation=method), np.uint8)


def _side(side: int, scale: float, stride: int) -> int:
    return stride * max(1, math.floor(side * scale / stride + 0.5))
