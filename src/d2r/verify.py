"""Spatial verification: do the matched points of two pictures agree on one affine map?"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from d2r.features.base import Features

THRESHOLD = 10.0
"""Largest distance of an inlier from where the map puts it, in pixels of a picture of 1,024."""

TRIALS = 1000
"""Random samples that are tried."""

MIN_INLIERS = 8
"""Fewer agreeing matches are what chance gives, and count as none: three points fix an affine map already, and
a few more agree with one of a thousand maps by luck."""

_RATIO = 0.8  # Lowe's; without it most matches between different pictures are noise, and so are their inliers
_ROUNDING = 1e-5
_SPREAD = 3.0  # thresholds; a map that shrinks everything to a spot agrees with whatever matches there
_STRETCH = 8.0  # a map that squeezes one direction more than this against the other shows no plausible viewpoint


@dataclass(frozen=True)
class Verification:
    """Outcome for one pair of pictures.

    Attributes:
        transform: float64 (2, 3), maps query pixels to database pixels; None without a map.
        matches: int32 (inliers, 2), rows of the query's and of the database picture's features that agree with it.
    """

    transform: NDArray[np.float64] | None
    matches: NDArray[np.int32]

    @property
    def inliers(self) -> int:
        """Number of matches that agree with the map; 0 when there is none."""
        return len(self.matches)


NOT_FOUND = Verification(None, np.zeros((0, 2), np.int32))
"""The outcome for two pictures that share nothing."""


def threshold_for(longer_side: float, max_side: int) -> float:
    """Return :data:`THRESHOLD` in pixels of a picture that was scaled down to ``max_side`` to be described."""
    return THRESHOLD * max(1.0, longer_side / max_side)


def match_descriptors(query: NDArray[np.float32], other: NDArray[np.float32]) -> NDArray[np.int32]:
    """Return the pairs of descriptors that are each other's nearest, and clearly nearer than the second nearest.

    Args:
        query: float32 (N, D), unit length.
        other: float32 (M, D), unit length.

    Returns:
        int32 (K, 2): rows of ``query``, ascending, and of ``other``, each at most once.
    """
    if len(query) == 0 or len(other) < 2:
        return np.zeros((0, 2), np.int32)
    products = query @ other.T
    rows = np.arange(len(query))
    nearest = products.argmax(axis=1)
    mutual = products.argmax(axis=0)[nearest] == rows
    first = products[rows, nearest]
    products[rows, nearest] = -np.inf
    second = products.max(axis=1)
    # |a - b|^2 = 2 - 2 a.b for unit vectors; below _ROUNDING it is noise, and two equal ones would seem distinct.
    distinct = np.maximum(1.0 - first, _ROUNDING) < _RATIO**2 * (1.0 - second)
    kept = np.flatnonzero(mutual & distinct)
    return np.stack([kept, nearest[kept]], axis=1).astype(np.int32)


def verify(query: Features, other: Features, *, threshold: float = THRESHOLD) -> Verification:
    """Match two pictures' features and fit an affine map from the query to the other by USAC (1,000 trials).

    Args:
        query: features of the query.
        other: features of the database picture.
        threshold: largest distance of an inlier, in pixels of the database picture.

    Returns:
        the map and its inliers, :data:`NOT_FOUND` when fewer than :data:`MIN_INLIERS` agree. The same input always
        gives the same outcome.
    """
    matches = match_descriptors(query.descriptors, other.descriptors)
    if len(matches) < MIN_INLIERS:
        return NOT_FOUND
    source, target = query.positions[matches[:, 0]], other.positions[matches[:, 1]]
    transform, mask = cv2.estimateAffine2D(source, target, _parameters(threshold))
    if transform is None or not _plausible(transform):
        return NOT_FOUND
    inliers = matches[mask.ravel().astype(bool)]
    if np.ptp(other.positions[inliers[:, 1]], axis=0).max(initial=0.0) < _SPREAD * threshold:
        return NOT_FOUND
    return Verification(np.asarray(transform, np.float64), inliers) if len(inliers) >= MIN_INLIERS else NOT_FOUND


def _parameters(threshold: float) -> cv2.UsacParams:
    parameters = cv2.UsacParams()
    parameters.threshold = threshold
    parameters.maxIterations = TRIALS
    parameters.confidence = 0.999
    parameters.sampler = cv2.SAMPLING_UNIFORM
    parameters.score = cv2.SCORE_METHOD_MSAC
    parameters.loMethod = cv2.LOCAL_OPTIM_INNER_LO
    parameters.loIterations = 10
    parameters.loSampleSize = 14
    parameters.isParallel = False
    parameters.randomGeneratorState = 0
    return parameters


def _plausible(transform: NDArray[np.floating]) -> bool:
    """Say whether a map could be a change of viewpoint: it does not mirror, and does not flatten."""
    linear = np.asarray(transform, np.float64)[:, :2]
    stretches = np.linalg.svd(linear, compute_uv=False)
    return bool(np.linalg.det(linear) > 0 and stretches[0] < _STRETCH * stretches[1])
