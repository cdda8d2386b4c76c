"""What the worker processes of the service do: everything that decodes a picture."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from d2r.boxes import PixelBox
from d2r.describe import Description, describe, describe_query
from d2r.features import make_extractor
from d2r.images import Picture, decode_image, encode_jpeg, read_image, shrink
from d2r.ingest import Recipe, prepare_worker
from d2r.regions import RegionSelector

MATCH_SIDE = 720
"""Longer side of each of the two pictures of a match, in pixels."""

MOST_LINES = 150
"""Matched points that are joined by lines in the picture of a match; more would hide it."""

_GAP = 16
_PAPER = 236
_COLOURS = ((230, 97, 1), (94, 60, 153), (27, 120, 55), (202, 0, 32), (5, 113, 176), (191, 129, 45))
_ENDINGS = {"JPEG": ".jpg", "PNG": ".png", "WEBP": ".webp", "BMP": ".bmp", "TIFF": ".tif", "GIF": ".gif"}

Source = bytes | str
"""A picture: its encoded bytes, or the path of a file of the collection."""


@dataclass(frozen=True)
class Checked:
    """A picture that can be decoded: its size in pixels, upright, and the ending of its format."""

    width: int
    height: int
    ending: str


def prepare(recipe: Recipe) -> None:
    """Get a worker process ready: one thread, and what is imported at first use is imported."""
    prepare_worker()
    make_extractor(recipe.features).extract([np.zeros((64, 64, 3), np.uint8)])


def describe_source(recipe: Recipe, max_pixels: int, source: Source, box: PixelBox | None) -> Description:
    """Describe a query; raises :class:`~d2r.images.ImageError` and :class:`~d2r.boxes.BoxError`."""
    picture = _decode(source, max_pixels)
    return describe_query(picture, box, make_extractor(recipe.features), max_side=recipe.max_side)


def describe_regions(selector: RegionSelector, recipe: Recipe, max_pixels: int, source: Source) -> Description:
    """Describe a picture with the regions that a selector chooses; raises :class:`~d2r.images.ImageError`."""
    return describe(_decode(source, max_pixels), selector, make_extractor(recipe.features), max_side=recipe.max_side)


def check(max_pixels: int, data: bytes) -> Checked:
    """Decode a picture to see that it can be."""
    height, width = decode_image(data, max_pixels=max_pixels).shape[:2]
    with Image.open(io.BytesIO(data)) as image:
        return Checked(width, height, _ENDINGS.get(image.format or "", ".jpg"))


def rendered(max_pixels: int, source: Source, side: int, quality: int) -> bytes:
    """Return a picture as an upright JPEG of at most this longer side."""
    return encode_jpeg(shrink(_decode(source, max_pixels), side), quality)


def match_picture(
    max_pixels: int,
    query: Source,
    other: Source,
    box: Sequence[float] | None,
    query_points: NDArray[np.float32],
    points: NDArray[np.float32],
) -> bytes:
    """Return a JPEG of two pictures beside each other, with lines between the points that match.

    Args:
        max_pixels: larger pictures are refused.
        query: the picture on the left.
        other: the picture on the right.
        box: drawn on the query.
        query_points: float32 (N, 2) in its pixels.
        points: float32 (N, 2), the same in pixels of the other.
    """
    pictures = [_decode(source, max_pixels) for source in (query, other)]
    small = [shrink(picture, MATCH_SIDE) for picture in pictures]
    scales = [one.shape[1] / whole.shape[1] for one, whole in zip(small, pictures, strict=True)]
    height = max(one.shape[0] for one in small)
    canvas: Picture = np.full((height, small[0].shape[1] + _GAP + small[1].shape[1], 3), _PAPER, np.uint8)
    lefts = (0, small[0].shape[1] + _GAP)
    tops = [(height - one.shape[0]) // 2 for one in small]
    for one, left, top in zip(small, lefts, tops, strict=True):
        canvas[top : top + one.shape[0], left : left + one.shape[1]] = one
    if box is not None:
        x1, y1, x2, y2 = (round(float(side) * scales[0]) for side in box)
        cv2.rectangle(canvas, (x1, y1 + tops[0]), (x2, y2 + tops[0]), (255, 176, 46), 2, cv2.LINE_AA)
    order = np.argsort(query_points[:, 1], kind="stable")
    if len(order) > MOST_LINES:
        order = order[np.linspace(0, len(order) - 1, MOST_LINES).round().astype(int)]
    starts = query_points[order] * scales[0] + [lefts[0], tops[0]]
    ends = points[order] * scales[1] + [lefts[1], tops[1]]
    for row, (start, end) in enumerate(zip(starts.round().astype(int), ends.round().astype(int), strict=True)):
        colour = _COLOURS[row * len(_COLOURS) // len(order)]
        cv2.line(canvas, start.tolist(), end.tolist(), colour, 1, cv2.LINE_AA)
        for point in (start, end):
            cv2.circle(canvas, point.tolist(), 3, colour, -1, cv2.LINE_AA)
    return encode_jpeg(canvas, 85)


def _decode(source: Source, max_pixels: int) -> Picture:
    if isinstance(source, bytes):
        return decode_image(source, name="the picture", max_pixels=max_pixels)
    return read_image(source, max_pixels=max_pixels)
