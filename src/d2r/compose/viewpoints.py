"""Find photographs of an instance that show the same part of it: their features match under one homography."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from d2r.boxes import PixelBox
from d2r.compose.texture import compact, textured_box
from d2r.features import Features, RootSIFT
from d2r.images import read_image, shrink

_MATCH_SIDE = 640  # photographs of one instance are compared at this long side
_MATCH_PIXELS = 6.0  # largest distance of an inlier from where the homography maps it
_MIN_MATCHES = 20  # minimum inliers to confirm a shared part; pairs of different landmarks reach 10
_MATCH_QUERIES = 8  # photographs of one instance to try as the query
_DUPLICATE = 0.93  # correlation of thumbnails above which photographs are duplicates; neighbouring views reach 0.86


@dataclass(frozen=True)
class PhotoPart:
    """A part of a photograph: an instance's query box, or a part to plant."""

    photo: Path
    box: PixelBox


@dataclass(frozen=True)
class Described:
    """A photograph's description: local features and textured box in its own pixels, and a thumbnail."""

    photo: Path
    size: tuple[int, int]
    features: Features
    thumbnail: NDArray[np.float64]
    textured: PixelBox

    @property
    def tolerance(self) -> float:
        """Inlier threshold in pixels: the largest distance from where the homography maps a feature."""
        return _MATCH_PIXELS * max(self.size) / _MATCH_SIDE

    def within(self, box: PixelBox) -> Features:
        """Return the features whose centres lie in a box."""
        x, y = self.features.positions.T
        return self.features.take((x >= box[0]) & (x < box[2]) & (y >= box[1]) & (y < box[3]))


def describe_photo(path: Path) -> Described:
    """Read a photograph and describe it.

    Raises:
        d2r.images.ImageError: it cannot be read.
    """
    photo = read_image(path)
    height, width = photo.shape[:2]
    small = shrink(photo, _MATCH_SIDE)
    features = RootSIFT(top=1500).extract([small])[0].placed(width / small.shape[1], 0, 0)
    gray = cv2.cvtColor(cv2.resize(small, (24, 24), interpolation=cv2.INTER_AREA), cv2.COLOR_RGB2GRAY)
    thumbnail = gray.ravel() - gray.mean()
    thumbnail /= max(float(np.linalg.norm(thumbnail)), 1e-9)
    return Described(path, (width, height), features, thumbnail, textured_box(photo))


def consistent_matches(query: Features, other: Features, pixels: float) -> NDArray[np.float32]:
    """Return the positions in ``other``, float32 (N, 2), of the inliers of one homography from ``query``."""
    none = np.zeros((0, 2), np.float32)
    if min(len(query), len(other)) < _MIN_MATCHES:
        return none
    likeness = query.descriptors @ other.descriptors.T
    nearest = likeness.argmax(axis=1)
    second, first = np.partition(likeness, -2, axis=1)[:, -2:].T
    distinct = 1 - first < 0.75 * (1 - second)  # half the squared distances of unit vectors
    mutual = likeness.argmax(axis=0)[nearest] == np.arange(len(query))
    rows = np.flatnonzero(distinct & mutual)
    if len(rows) < _MIN_MATCHES:
        return none
    there = other.positions[nearest[rows]]
    _, agree = cv2.findHomography(query.positions[rows], there, cv2.USAC_MAGSAC, pixels, None, 2000, 0.999)
    return none if agree is None or agree.sum() < _MIN_MATCHES else there[agree.ravel() > 0]


def _view_of(query: Described, other: Described) -> PhotoPart | None:
    """Return the part of another photograph that is verified to show what the query box shows, or None."""
    if float(query.thumbnail @ other.thumbnail) > _DUPLICATE:
        return None
    width, height = other.size
    points = consistent_matches(query.within(query.textured), other.features, other.tolerance)
    if not len(points):
        return None
    low, high = np.percentile(points, [2, 98], axis=0)
    grow = 0.1 * (high - low)
    x1, y1 = np.maximum(low - grow, 0)
    x2, y2 = np.minimum(high + grow, [width, height])
    # A sliver shows too little of the object to be recognised.
    if min(x2 - x1, y2 - y1) < 0.15 * min(width, height):
        return None
    return PhotoPart(other.photo, compact((float(x1), float(y1), float(x2), float(y2))))


def query_and_views(photos: Sequence[Described], views: int) -> tuple[Described, list[PhotoPart]]:
    """Choose the photograph whose box most others show (``views`` suffice), and their parts that show it."""
    best: tuple[Described, list[PhotoPart]] = photos[0], []
    for query in photos[:_MATCH_QUERIES]:
        found: list[PhotoPart] = []
        for other in photos:
            if len(found) < views and other is not query and (part := _view_of(query, other)):
                found.append(part)
        if len(found) > len(best[1]):
            best = query, found
        if len(found) == views:
            break
    return best
