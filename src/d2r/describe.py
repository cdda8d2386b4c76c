"""From a picture to its regions and their local features."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from d2r.asmk.codebook import Codebook
from d2r.asmk.kernels import Assigned, assign
from d2r.boxes import Box, Boxes, as_boxes, check_box, pixel_slices
from d2r.features.base import FeatureExtractor, Features, concatenate, has_views
from d2r.images import Picture, shrink
from d2r.regions.base import RegionSelector

FINER: Final = 1.25
"""A region is described from its own crop if the crop is this many times finer than the described picture.

Otherwise it gets the features of the picture that lie in it, at no extra cost.
"""


@dataclass(frozen=True)
class Description:
    """The regions of one picture and the local features of each.

    Attributes:
        width: of the picture, in pixels.
        height: of the picture, in pixels.
        boxes: float32 (R, 4), row 0 the whole picture (or the query box).
        box_scores: float32 (R,), the selector's confidence; 1 for row 0.
        features: N features of all regions, region by region; positions and scales in pixels of the whole picture.
        regions: int32 (N,), the row of ``boxes`` in which each feature was found.
    """

    width: int
    height: int
    boxes: Boxes
    box_scores: NDArray[np.float32]
    features: Features
    regions: NDArray[np.int32]


def assign_words(codebook: Codebook, description: Description) -> Assigned:
    """Return the visual words of a description's features, region by region and kind by kind.

    Raises:
        d2r.asmk.codebook.CodebookError: see :func:`d2r.asmk.kernels.assign`.
    """
    features = description.features
    return assign(codebook, features.descriptors, description.regions, len(description.boxes), kinds=features.kinds)


def describe(image: Picture, selector: RegionSelector, extractor: FeatureExtractor, *, max_side: int) -> Description:
    """Describe a database picture: the whole of it and every region, each at its own resolution (see :data:`FINER`).

    Args:
        image: uint8 (H, W, 3).
        selector: chooses the regions besides the whole picture.
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
    """Describe a query: the box, clipped to the picture, or the whole picture if there is no box.

    Args:
        image: uint8 (H, W, 3).
        box: the query box, (x1, y1, x2, y2) in pixels; None for the whole picture.
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
    found = [Features.empty(0)] * len(boxes)
    if has_views(extractor):
        groups = _share_crops(cuts, max_side)
        crops = [_crop(image, cuts[rows[0]], max_side) for rows in groups]
        views = [crop.inside(boxes[rows]) for crop, rows in zip(crops, groups, strict=True)]
        extracted = extractor.extract_views([crop.picture for crop in crops], views)
    else:
        groups = [[row] for row in range(len(boxes))]
        crops = [_crop(image, cut, max_side) for cut in cuts]
        extracted = [[features] for features in extractor.extract([crop.picture for crop in crops])]
    for crop, rows, of_views in zip(crops, groups, extracted, strict=True):
        for row, features in zip(rows, of_views, strict=True):
            found[row] = features.placed(crop.scale, *crop.corner)
    regions = np.repeat(np.arange(len(boxes), dtype=np.int32), [len(features) for features in found])
    return Description(width, height, boxes, scores, concatenate(found), regions)


@dataclass(frozen=True)
class _Crop:
    """A part of a picture to describe: the scaled pixels, the scales of x and y, and its corner in the picture."""

    picture: Picture
    scale: tuple[float, float]
    corner: tuple[int, int]

    def inside(self, boxes: Boxes) -> Boxes:
        """Return boxes of the whole picture in pixels of this crop."""
        corner, scale = np.array(self.corner * 2, np.float32), np.array(self.scale * 2, np.float32)
        return np.asarray((boxes - corner) / scale, np.float32)


def _crop(image: Picture, cut: tuple[slice, slice], max_side: int) -> _Crop:
    part = image[cut]
    small = np.ascontiguousarray(shrink(part, max_side))
    scale = part.shape[1] / small.shape[1], part.shape[0] / small.shape[0]
    return _Crop(small, scale, (cut[1].start, cut[0].start))


def _share_crops(cuts: Sequence[tuple[slice, slice]], max_side: int) -> list[list[int]]:
    """Group the rows of cuts that share a crop, that of the first one; only finer cuts have their own."""

    def resolution(cut: tuple[slice, slice]) -> float:
        return float(min(1.0, max_side / max(cut[0].stop - cut[0].start, cut[1].stop - cut[1].start)))

    enough = FINER * resolution(cuts[0])
    rest = range(1, len(cuts))
    shared = [row for row in rest if resolution(cuts[row]) <= enough]
    return [[0, *shared], *([row] for row in rest if row not in shared)]
