"""What the worker processes of the service do: everything that decodes a picture."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from d2r.boxes import PixelBox
from d2r.describe import Description, describe, describe_query
from d2r.drawing import draw_match
from d2r.features import make_extractor
from d2r.images import Picture, decode_image, encode_jpeg, read_image, shrink
from d2r.ingest import Recipe, prepare_worker
from d2r.regions import RegionSelector, make_selector

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


def describe_source(
    recipe: Recipe, max_pixels: int, source: Source, box: PixelBox | None, regions: bool = False
) -> Description:
    """Describe a query; raises :class:`~d2r.images.ImageError` and :class:`~d2r.boxes.BoxError`.

    Args:
        recipe: how the pictures of the index are described.
        max_pixels: larger pictures are refused.
        source: the picture.
        box: on it.
        regions: describe the regions that the recipe's selector finds in it too.
    """
    selector = make_selector(recipe.regions) if regions else None
    picture, extractor = _decode(source, max_pixels), make_extractor(recipe.features)
    return describe_query(picture, box, extractor, max_side=recipe.max_side, selector=selector)


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
    left, right = (_decode(source, max_pixels) for source in (query, other))
    return encode_jpeg(draw_match(left, right, query_points, points, box=box), 85)


def _decode(source: Source, max_pixels: int) -> Picture:
    if isinstance(source, bytes):
        return decode_image(source, name="the picture", max_pixels=max_pixels)
    return read_image(source, max_pixels=max_pixels)
