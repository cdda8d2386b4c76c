"""The functions that run in the worker processes of the service: everything that decodes pictures."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from d2r.boxes import PixelBox
from d2r.describe import Description, describe, describe_query
from d2r.features import make_extractor
from d2r.images import Picture, decode_image, encode_jpeg, read_image, shrink, take_turns
from d2r.indexing.entry import Recipe, prepare_worker
from d2r.regions import RegionSelector, make_selector
from d2r.report.drawing import MATCH_SIDE, draw_match

_ENDINGS = {"JPEG": ".jpg", "PNG": ".png", "WEBP": ".webp", "BMP": ".bmp", "TIFF": ".tif", "GIF": ".gif"}

PictureSource = bytes | str
"""A picture: its encoded bytes, or the path of its file."""


def prepare_describing(recipe: Recipe, index: Path) -> None:
    """Prepare a worker process to describe pictures, including the imports of the first use."""
    prepare_decoding(index)
    make_extractor(recipe.features).extract([np.zeros((64, 64, 3), np.uint8)])


def prepare_decoding(index: Path) -> None:
    """Limit a worker process to one thread; large pictures are decoded in turns among the processes of an index."""
    prepare_worker()
    take_turns(index)


def describe_source(
    recipe: Recipe, max_pixels: int, source: PictureSource, box: PixelBox | None, regions: bool = False
) -> Description:
    """Describe a query.

    Args:
        recipe: recipe of the index.
        max_pixels: pictures of more pixels are refused.
        source: the query picture.
        box: the query box, (x1, y1, x2, y2) in pixels; None for the whole picture.
        regions: also describe the regions that the selector of the recipe finds.

    Raises:
        ImageError: the picture cannot be decoded.
        BoxError: the box does not fit the picture.
    """
    selector = make_selector(recipe.regions) if regions else None
    picture, extractor = _decode(source, max_pixels), make_extractor(recipe.features)
    return describe_query(picture, box, extractor, max_side=recipe.max_side, selector=selector)


def describe_regions(selector: RegionSelector, recipe: Recipe, max_pixels: int, source: PictureSource) -> Description:
    """Describe a picture with the regions of a selector; raises :class:`~d2r.images.ImageError`."""
    return describe(_decode(source, max_pixels), selector, make_extractor(recipe.features), max_side=recipe.max_side)


def check(max_pixels: int, data: bytes) -> str:
    """Check that a picture can be decoded, and return the file name suffix of its format."""
    decode_image(data, max_pixels=max_pixels, side=1)  # reads the whole file but keeps as few pixels as possible
    with Image.open(io.BytesIO(data)) as image:
        return _ENDINGS.get(image.format or "", ".jpg")


def rendered(max_pixels: int, source: PictureSource, side: int, quality: int) -> bytes:
    """Return a picture as an upright JPEG whose longer side is at most ``side`` pixels."""
    return encode_jpeg(shrink(_decode(source, max_pixels, side), side), quality)


def match_picture(
    max_pixels: int,
    query: PictureSource,
    other: PictureSource,
    box: Sequence[float] | None,
    query_positions: NDArray[np.float32],
    positions: NDArray[np.float32],
) -> bytes:
    """Return a JPEG of two pictures side by side, with lines between their matched points.

    Args:
        max_pixels: pictures of more pixels are refused.
        query: the picture on the left.
        other: the picture on the right.
        box: box to draw on the query, (x1, y1, x2, y2) in pixels, or None.
        query_positions: float32 (N, 2), matched points in pixels of the query.
        positions: float32 (N, 2), the same points in pixels of the other picture.
    """
    (left, across), (right, along) = (_small(source, max_pixels, MATCH_SIDE) for source in (query, other))
    small_box = None if box is None else np.multiply(box, across)
    return encode_jpeg(draw_match(left, right, query_positions * across, positions * along, box=small_box), 85)


def _small(source: PictureSource, max_pixels: int, side: int) -> tuple[Picture, np.float32]:
    """Return a picture shrunk to at most this longer side, and the scale from the original to it."""
    picture = _decode(source, max_pixels)
    small = shrink(picture, side)
    return small, np.float32(small.shape[1] / picture.shape[1])


def _decode(source: PictureSource, max_pixels: int, side: int | None = None) -> Picture:
    if isinstance(source, bytes):
        return decode_image(source, name="the picture", max_pixels=max_pixels, side=side)
    return read_image(source, max_pixels=max_pixels, side=side)
