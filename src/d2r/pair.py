"""Match two pictures without an index, with the local features and spatial verification of a search."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from d2r.asmk.learning import single_word
from d2r.boxes import Box
from d2r.defaults import FEATURES, MAX_PIXELS, MAX_SIDE
from d2r.describe import Description, describe_query
from d2r.features import make_extractor
from d2r.features.base import FeatureExtractor
from d2r.images import Picture, read_image
from d2r.support.files import PathLike
from d2r.verify.keypoints import make_keypoints
from d2r.verify.verify import match_keypoints, threshold_for, verify


@dataclass(frozen=True)
class Match:
    """The matches of the local features of two pictures.

    Attributes:
        first: the query, or the box in it.
        second: the other picture.
        transform: float64 (2, 3), the affine transform from pixels of the first to those of the second; None if none
            was found.
        matches: int32 (M, 2), tentative matches: rows of the first's and of the second's features.
        inlier: bool (M,), which matches are inliers of the transform.
    """

    first: Description
    second: Description
    transform: NDArray[np.float64] | None
    matches: NDArray[np.int32]
    inlier: NDArray[np.bool_]

    @property
    def inliers(self) -> int:
        """Number of inliers."""
        return int(self.inlier.sum())

    def positions(self, rows: NDArray[np.bool_]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return the positions of the K selected matches in the first and the second picture, float32 (K, 2) each.

        Args:
            rows: bool (M,), the matches to select.
        """
        own, its = self.matches[rows].T
        return self.first.features.positions[own], self.second.features.positions[its]


def match_pictures(
    first: PathLike | Picture,
    second: PathLike | Picture,
    *,
    box: Box | None = None,
    features: str = FEATURES,
    max_side: int = MAX_SIDE,
    max_pixels: int = MAX_PIXELS,
) -> Match:
    """Match two pictures.

    Args:
        first: a path, or uint8 (H, W, 3) RGB.
        second: the same.
        box: the query box in the first, (x1, y1, x2, y2) in pixels; None for the whole picture.
        features: specification of the feature extractor.
        max_side: pictures are scaled down to this longer side, in pixels.
        max_pixels: limit on the pixels of each picture.

    Raises:
        d2r.images.ImageError: a picture cannot be read.
        d2r.boxes.BoxError: the box is malformed, empty or outside the picture.
    """
    left, right = (
        picture if isinstance(picture, np.ndarray) else read_image(picture, max_pixels=max_pixels)
        for picture in (first, second)
    )
    extractor: FeatureExtractor = make_extractor(features)
    query = describe_query(left, box, extractor, max_side=max_side)
    return match_described(query, describe_query(right, None, extractor, max_side=max_side), max_side=max_side)


def match_described(first: Description, second: Description, *, max_side: int) -> Match:
    """Match two pictures that were described with the same features; see :func:`match_pictures`.

    Of several kinds of features, the one with the most inliers is used.
    """
    threshold = threshold_for(max(second.width, second.height), max_side)
    count = 1 + max(int(kinds.max(initial=0)) for kinds in map(_kinds, (first, second)))
    found = [_match_kind(first, second, kind, threshold) for kind in range(count)]
    return max(found, key=lambda match: match.inliers)


def _match_kind(first: Description, second: Description, kind: int, threshold: float) -> Match:
    rows = [np.flatnonzero(_kinds(one) == kind) for one in (first, second)]
    features = [replace(one.features.take(own), kinds=None) for one, own in zip((first, second), rows, strict=True)]
    words = single_word(np.concatenate([one.descriptors for one in features]))
    query, other = (make_keypoints(one, words) for one in features)
    verification = verify(query, other, bits=words.bits, threshold=threshold)
    found = match_keypoints(query, other, words.bits)
    matches = np.stack([rows[0][query.rows[found[:, 0]]], rows[1][other.rows[found[:, 1]]]], axis=1)
    inlier = np.isin(found[:, 1], verification.matches[:, 1])
    return Match(first, second, verification.transform, matches.astype(np.int32), inlier)


def _kinds(description: Description) -> NDArray[np.uint8]:
    kinds = description.features.kinds
    return np.zeros(len(description.features), np.uint8) if kinds is None else kinds
