"""Spatial verification: are the matched keypoints of two pictures consistent with one affine transform?"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from d2r.verify.geometry import fit_transform, match_codes
from d2r.verify.keypoints import Keypoints, check_keypoints

THRESHOLD = 10.0
"""Largest distance of an inlier from its transformed point, in pixels of a picture with a longer side of 1,024."""

MIN_INLIERS = 8
"""Fewer inliers can occur by chance, and count as none."""

NEAREST = 8
"""Number of coarse words that a query feature is assigned to, see :func:`d2r.verify.keypoints.make_keypoints`."""

_MAX_DISTANCE = 0.36  # largest share of differing bits in a match
_SPREAD = 3.0  # least extent of the inliers, in thresholds: a transform that maps all to a spot fits any match there


@dataclass(frozen=True)
class Verification:
    """Outcome for one pair of pictures.

    Attributes:
        transform: float64 (2, 3), maps query pixels to database pixels; None if there is none.
        matches: int32 (inliers, 2), the query features (:attr:`Keypoints.rows`) and the keypoints of the database
            picture that are inliers.
    """

    transform: NDArray[np.float64] | None
    matches: NDArray[np.int32]

    @property
    def inliers(self) -> int:
        """Number of inliers of the transform; 0 if there is none."""
        return len(self.matches)


NOT_FOUND = Verification(None, np.zeros((0, 2), np.int32))
"""The outcome for two pictures that share nothing."""


def threshold_for(longer_side: float, max_side: int) -> float:
    """Return :data:`THRESHOLD` in pixels of a picture that was described at a longer side of ``max_side``."""
    return THRESHOLD * max(1.0, longer_side / max_side)


def match_keypoints(query: Keypoints, other: Keypoints, bits: int) -> NDArray[np.int32]:
    """Return the pairs of keypoints that share a coarse word, have similar codes, and are mutual nearest neighbours.

    Args:
        query: N keypoints, possibly several per feature.
        other: M keypoints.
        bits: number of bits per code, which is the dimension of the descriptors.

    Returns:
        int32 (K, 2): keypoints of ``query`` and of ``other``; each feature of the query and each keypoint of the other
        occurs at most once.

    Raises:
        ValueError: see :func:`d2r.verify.keypoints.check_keypoints`.
    """
    check_keypoints(query, bits)
    check_keypoints(other, bits)
    max_distance = int(_MAX_DISTANCE * bits)
    return np.asarray(match_codes(query.words, query.codes, query.rows, other.words, other.codes, max_distance))


def verify(query: Keypoints, other: Keypoints, *, bits: int, threshold: float = THRESHOLD) -> Verification:
    """Match the keypoints of two pictures, and find the affine transform from the query to the other with most inliers.

    Args:
        query: keypoints of the query.
        other: keypoints of the database picture, with the same coarse words.
        bits: number of bits per code, which is the dimension of the descriptors.
        threshold: largest distance of an inlier, in pixels of the database picture.

    Returns:
        the transform and its inliers, :data:`NOT_FOUND` if there are fewer than :data:`MIN_INLIERS`. The same input
        always gives the same result.

    Raises:
        ValueError: see :func:`d2r.verify.keypoints.check_keypoints`.
    """
    matches = match_keypoints(query, other, bits)
    if len(matches) < MIN_INLIERS:
        return NOT_FOUND
    own, its = matches[:, 0], matches[:, 1]
    source, target = np.ascontiguousarray(query.positions[own].T), np.ascontiguousarray(other.positions[its].T)
    sizes = np.log(other.scales[its] / query.scales[own])
    transform, inlier = fit_transform(
        source, target, sizes, other.angles[its] - query.angles[own], threshold, MIN_INLIERS
    )
    found = target[:, inlier]
    if found.shape[1] < MIN_INLIERS or np.ptp(found, axis=1).max() < _SPREAD * threshold:
        return NOT_FOUND
    return Verification(transform, np.stack([query.rows[own[inlier]], its[inlier]], axis=1))
