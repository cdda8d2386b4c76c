"""From a picture to its regions and their local features."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from d2r.boxes import Box, Boxes, as_boxes, check_box, pixel_slices
from d2r.features.base import FeatureExtractor, Features, concatenate
from d2r.images import Picture, shrink
from d2r.regions.base import RegionSelector


@dataclass(frozen=True)
class Description:
    """The regions of one picture and the local features of each.

    Attributes:
        width: of the picture, in pixels.
        height: of the picture, in pixels.
        boxes: float32 (R, 4), row 0 the whole picture (or the query box).
        box_scores: float32 (R,), the selector's confidence; 1 for row 0.
        features: N features of all regions one after another, positions and scales in pixels of the whole picture.
        regions: int32 (N,), the row of ``boxes`` in which each feature was found.
    """

    width: int
    height: int
    boxes: Boxes
    box_scores: NDArray[np.float32]
    features: Features
    regions: NDArray[np.int32]


def describe(image: Picture, selector: RegionSelector, extractor: FeatureExtractor, *, max_side: int) -> Description:
    """Describe a database picture: the whole of it and every region, each at its own resolution.

    Args:
        image: uint8 (H, W, 3).
        selector: chooses the regions beside the whole picture.
        extractor: describes the picture and the crop of each region.
        max_side: crops whose longer side is above this many pixels are scaled down to it first.
    """
    height, width = image.shape[:2]
    regions = selector.select(image)
    boxes = np.concatenate([as_boxes([0, 0, width, height]), regions.boxes])
    scores = np.concatenate([np.ones(1, np.float32), regions.scores])
    return _describe(image, boxes, scores, extractor, max_side)


def describe_query(
    image: Picture,
    box: Box | None,
    extractor: FeatureExtractor,
    *,
    max_side: int,
    selector: RegionSelector | None = None,
) -> Description:
    """Describe a query: the box, cut to the picture, or without one the whole picture.

    Args:
        image: uint8 (H, W, 3).
        box: x1, y1, x2, y2 in pixels.
        extractor: describes the box and the crop of each region.
        max_side: see :func:`describe`.
        selector: chooses regions inside the box; None describes the box alone.

    Raises:
        d2r.boxes.BoxError: the box is malformed, empty or outside the picture.
    """
    height, width = image.shape[:2]
    region = check_box(box, width, height) if box is not None else (0.0, 0.0, float(width), float(height))
    boxes, scores = as_boxes(region), np.ones(1, np.float32)
    if selector is not None:
        rows, columns = pixel_slices(boxes[0])
        inside = selector.select(np.ascontiguousarray(image[rows, columns]))
        corner = np.array([columns.start, rows.start] * 2, np.float32)
        boxes, scores = np.concatenate([boxes, inside.boxes + corner]), np.concatenate([scores, inside.scores])
    return _describe(image, boxes, scores, extractor, max_side)


def _describe(
    image: Picture, boxes: Boxes, scores: NDArray[np.float32], extractor: FeatureExtractor, max_side: int
) -> Description:
    height, width = image.shape[:2]
    cuts = [pixel_slices(box) for box in boxes]
    crops = [image[cut] for cut in cuts]
    shrunk = [np.ascontiguousarray(shrink(crop, max_side)) for crop in crops]
    found = extractor.extract(shrunk)
    placed = [
        features.placed((crop.shape[1] / small.shape[1], crop.shape[0] / small.shape[0]), columns.start, rows.start)
        for features, crop, small, (rows, columns) in zip(found, crops, shrunk, cuts, strict=True)
    ]
    regions = np.repeat(np.arange(len(boxes), dtype=np.int32), [len(features) for features in placed])
    return Description(width, height, boxes, scores, concatenate(placed), regions)
