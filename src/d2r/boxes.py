"""Box arithmetic with one convention: x1, y1, x2, y2 in pixels, half-open (x2 and y2 are just outside).

Boxes are float32 arrays of shape (N, 4); one box is any sequence of four numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from d2r.errors import UsageError

Boxes: TypeAlias = NDArray[np.float32]
Box: TypeAlias = Sequence[float] | NDArray[np.float32]
PixelBox: TypeAlias = tuple[float, float, float, float]


class BoxError(UsageError):
    """A box that is malformed, empty, or outside the picture; the message says which."""


def as_boxes(boxes: ArrayLike) -> Boxes:
    """Return ``boxes`` as a float32 array (N, 4); an empty list gives shape (0, 4)."""
    array = np.asarray(boxes, dtype=np.float32)
    return array.reshape(-1, 4)


def area(boxes: ArrayLike) -> NDArray[np.float32]:
    """Return the area of each box in square pixels, float32 (N,); zero where a box is empty."""
    array = as_boxes(boxes)
    sides = np.maximum(array[:, 2:] - array[:, :2], 0.0)
    return np.asarray(sides[:, 0] * sides[:, 1], dtype=np.float32)


def intersection(a: ArrayLike, b: ArrayLike) -> NDArray[np.float32]:
    """Return the area of the intersection of each pair of boxes: (N, 4), (M, 4) -> float32 (N, M)."""
    first, second = as_boxes(a), as_boxes(b)
    low = np.maximum(first[:, None, :2], second[None, :, :2])
    high = np.minimum(first[:, None, 2:], second[None, :, 2:])
    sides = np.maximum(high - low, 0.0)
    return np.asarray(sides[..., 0] * sides[..., 1], dtype=np.float32)


def iou(a: ArrayLike, b: ArrayLike) -> NDArray[np.float32]:
    """Return the intersection over union of each pair: (N, 4), (M, 4) -> float32 (N, M), in [0, 1].

    It is 0 if the union is empty.
    """
    shared = intersection(a, b)
    union = area(a)[:, None] + area(b)[None, :] - shared
    return np.asarray(shared / np.where(union > 0, union, 1.0), np.float32)


def clip(boxes: ArrayLike, width: float, height: float) -> Boxes:
    """Return boxes clipped to a picture of the given size, float32 (N, 4)."""
    array = as_boxes(boxes)
    high = np.array([width, height, width, height], dtype=np.float32)
    return as_boxes(np.clip(array, 0.0, high))


def parse_box(text: str) -> PixelBox:
    """Read ``"x1,y1,x2,y2"`` (pixels).

    Raises:
        BoxError: it is not four finite numbers separated by commas.
    """
    parts = text.split(",")
    try:
        values = tuple(float(part) for part in parts)
    except ValueError:
        values = ()
    if len(values) != 4 or not np.isfinite(values).all():
        raise BoxError(f"box {text!r}: expected four numbers x1,y1,x2,y2 in pixels, for instance 40,60,320,400")
    return values


def check_box(box: Box, width: int, height: int) -> PixelBox:
    """Return a box clipped to a picture of the given size.

    Raises:
        BoxError: the box is not four finite numbers, its corners are swapped, it is empty or outside the picture, or
            less than one pixel of it is inside.
    """
    try:
        x1, y1, x2, y2 = (float(value) for value in box)
    except (TypeError, ValueError) as error:
        raise BoxError(f"box {box!r}: expected four numbers x1, y1, x2, y2 in pixels") from error
    shown = f"box {x1:g},{y1:g},{x2:g},{y2:g}"
    if not np.isfinite([x1, y1, x2, y2]).all():
        raise BoxError(f"{shown}: the numbers must be finite")
    if x2 < x1 or y2 < y1:
        raise BoxError(f"{shown}: the corners are swapped; give left,top,right,bottom, so that x1 < x2 and y1 < y2")
    if x2 == x1 or y2 == y1:
        raise BoxError(f"{shown}: it is empty; x2 must be above x1 and y2 above y1")
    cut = (max(x1, 0.0), max(y1, 0.0), min(x2, float(width)), min(y2, float(height)))
    if cut[2] <= cut[0] or cut[3] <= cut[1]:
        raise BoxError(f"{shown}: it lies outside the picture, which is {width} x {height} pixels")
    if cut[2] - cut[0] < 1.0 or cut[3] - cut[1] < 1.0:
        raise BoxError(f"{shown}: less than one pixel of the picture, which is {width} x {height}, lies in it")
    return cut


def pixel_slices(box: Box) -> tuple[slice, slice]:
    """Return (rows, columns) slices of the whole pixels that a box touches."""
    x1, y1, x2, y2 = (float(value) for value in box)
    return slice(int(np.floor(y1)), int(np.ceil(y2))), slice(int(np.floor(x1)), int(np.ceil(x2)))
