"""Spatial verification: do the matched keypoints of two pictures agree on one affine map?"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from d2r.verify.geometry import fit_map, match_codes
from d2r.verify.keypoints import Keypoints, check_keypoints

THRESHOLD = 10.0
"""Largest distance of an inlier from where the map puts it, in pixels of a picture of 1,024."""

MIN_INLIERS = 8
"""Fewer agreeing matches are what chance gives, and count as none."""

NEAREST = 8
"""Coarse words that a feature of the query is assigned to, see :func:`d2r.verify.keypoints.make_keypoints`."""

_MAX_DISTANCE = 0.36  # of the bits of two codes that match
_SPREAD = 3.0  # thresholds; a map that shrinks everything to a spot agrees with whatever matches there


@dataclass(frozen=True)
class Verification:
    """Outcome for one pair of pictures.

    Attributes:
        transform: float64 (2, 3), maps query pixels to database pixels; None without a map.
        matches: int32 (inliers, 2), the query's features (:attr:`Keypoints.rows`) and the database picture's keypoints
            that agree with it.
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


def match_keypoints(query: Keypoints, other: Keypoints, bits: int) -> NDArray[np.int32]:
    """Return the pairs of keypoints that share a coarse word, have like codes, and are each other's nearest.

    Args:
        query: of N keypoints, of one feature several perhaps.
        other: of M keypoints.
        bits: of a code, as many as descriptors have dimensions.

    Returns:
        int32 (K, 2): keypoints of ``query`` and of ``other``; each feature of the query and each keypoint of the other
        at most once.

    Raises:
        ValueError: see :func:`d2r.verify.keypoints.check_keypoints`.
    """
    check_keypoints(query, bits)
    check_keypoints(other, bits)
    max_distance = int(_MAX_DISTANCE * bits)
    return np.asarray(match_codes(query.words, query.codes, query.rows, other.words, other.codes, max_distance))


def verify(query: Keypoints, other: Keypoints, *, bits: int, threshold: float = THRESHOLD) -> Verification:
    """Match two pictures' keypoints, and find the affine map from the query to the other that most matches agree with.

    Args:
        query: of the query.
        other: of the database picture, with the same coarse words.
        bits: of a code, as many as descriptors have dimensions.
        threshold: largest distance of an inlier, in pixels of the database picture.

    Returns:
        the map and its inliers, :data:`NOT_FOUND` when fewer than :data:`MIN_INLIERS` agree. The same input always
        gives the same outcome.

    Raises:
        ValueError: see :func:`d2r.verify.keypoints.check_keypoints`.
    """
    matches = match_keypoints(query, other, bits)
    if len(matches) < MIN_INLIERS:
        return NOT_FOUND
    own, its = matches[:, 0], matches[:, 1]
    source, target = np.ascontiguousarray(query.positions[own].T), np.ascontiguousarray(other.positions[its].T)
    sizes = np.log(other.scales[its] / query.scales[own])
    transform, agreeing = fit_map(source, target, sizes, other.angles[its] - query.angles[own], threshold, MIN_INLIERS)
    found = target[:, agreeing]
    if found.shape[1] < MIN_INLIERS or np.ptp(found, axis=1).max() < _SPREAD * threshold:
        return NOT_FOUND
    return Verification(transform, np.stack([query.rows[own[agreeing]], its[agreeing]], axis=1))
