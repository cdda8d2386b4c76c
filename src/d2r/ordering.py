"""The order of results, from similarity and the inliers of each kind of features."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from d2r.verify.verify import MIN_INLIERS

MIN_COARSE_INLIERS: Final = 10
"""Inliers that count of features on a coarse grid: of these as many agree by chance more often."""

_INLIER_WEIGHT: Final = 0.2  # of one inlier of a coarse kind


def order(scores: NDArray[np.floating], inliers: NDArray[np.integer], precise: Sequence[bool]) -> NDArray[np.intp]:
    """Return the rows of results, best first.

    Inliers of keypoints that are located to a few pixels are evidence of their own: results with at least
    :data:`d2r.verify.verify.MIN_INLIERS` of a precise kind come first, by their number. The others follow by
    ``score (1 + inliers / 5)``, where inliers of coarse kinds count from :data:`MIN_COARSE_INLIERS` on: a picture of a
    landmark from another side has a high similarity and few inliers, and one of other paving the reverse.

    Args:
        scores: (N,), similarities.
        inliers: (N, K), of each kind of features; 0 where a result was not verified.
        precise: of each kind, whether its keypoints are located precisely.
    """
    exact = np.asarray(precise, bool)
    first = np.where(inliers >= MIN_INLIERS, inliers, 0)[:, exact].max(axis=1, initial=0)
    coarse = np.where(inliers >= MIN_COARSE_INLIERS, inliers, 0)[:, ~exact].max(axis=1, initial=0)
    return np.lexsort((-np.asarray(scores, np.float64) * (1.0 + _INLIER_WEIGHT * coarse), -first))
