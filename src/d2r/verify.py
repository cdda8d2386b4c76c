"""Spatial verification: do the matched points of two pictures agree on one affine map?"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from d2r.features.base import Features

THRESHOLD = 10.0


@dataclass(frozen=True)
class Verification:
    """Outcome for one pair of pictures.

    Attributes:
        inliers: number of matches that agree with the map; 0 when there is none.
        transform: float64 (2, 3), maps query pixels to database pixels; None without a map.
        matches: int32 (inliers, 2), rows of the query's and of the database picture's features.
    """

    inliers: int
    transform: NDArray[np.float64] | None
    matches: NDArray[np.int32]


NOT_VERIFIED = Verification(0, None, np.zeros((0, 2), np.int32))

_RATIO = 0.9
_LEAST = 6
_MOST_STRETCH = 6.0


def nearest_matches(query: NDArray[np.float32], other: NDArray[np.float32], ratio: float = _RATIO) -> NDArray[np.int32]:
    """Return the pairs of descriptors that are each other's nearest, and nearer than the second nearest.

    Args:
        query: float32 (N, D), unit length.
        other: float32 (M, D), unit length.
        ratio: the distance to the nearest must be below this times the distance to the second nearest.

    Returns:
        int32 (K, 2): rows of ``query``, rows of ``other``.
    """
    if len(query) == 0 or len(other) < 2:
        return np.zeros((0, 2), np.int32)
    products = query @ other.T
    rows = np.arange(len(query))
    best = products.argmax(axis=1)
    mutual = products.argmax(axis=0)[best] == rows
    first = products[rows, best]
    products[rows, best] = -np.inf
    second = products.max(axis=1)
    distinct = 2.0 - 2.0 * first < ratio**2 * (2.0 - 2.0 * second)
    kept = np.flatnonzero(mutual & distinct)
    return np.stack([kept, best[kept]], axis=1).astype(np.int32)


def verify(
    query: Features,
    other: Features,
    *,
    threshold: float = 10.0,
    trials: int = 1000,
    ratio: float = _RATIO,
    method=None,
) -> Verification:
    matches = nearest_matches(query.descriptors, other.descriptors, ratio)
    if len(matches) < 4:
        return NOT_VERIFIED
    source = query.positions[matches[:, 0]]
    target = other.positions[matches[:, 1]]
    params = cv2.UsacParams()
    params.threshold = threshold
    params.maxIterations = trials
    params.confidence = 0.999
    params.score = cv2.SCORE_METHOD_MSAC
    params.sampler = cv2.SAMPLING_UNIFORM
    params.loMethod = cv2.LOCAL_OPTIM_INNER_LO
    params.loIterations = 10
    params.loSampleSize = 14
    params.randomGeneratorState = 0
    params.isParallel = False
    if method is None:
        transform, mask = cv2.estimateAffine2D(source, target, params)
    else:
        transform, mask = cv2.estimateAffine2D(
            source, target, method=method, ransacReprojThreshold=threshold, maxIters=trials, confidence=0.999
        )
    if transform is None or mask is None:
        return NOT_VERIFIED
    inl = matches[mask.ravel().astype(bool)]
    return Verification(len(inl), transform, inl)
