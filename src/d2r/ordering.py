"""The order of results, from similarity and the inliers of each kind of features."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

MIN_CONFIRMED: Final = 12
"""Inliers of a precise kind that confirm a result. Verification asks for eight, which a few of a hundred wrong pictures
have by chance."""

MIN_COARSE_CONFIRMED: Final = 20
"""The same for features on a coarse grid, which have more inliers by chance."""

_PRECISE_WEIGHT: Final = 0.5  # of one inlier that does not confirm
_COARSE_WEIGHT: Final = 0.05


def order(scores: NDArray[np.floating], inliers: NDArray[np.integer], precise: Sequence[bool]) -> NDArray[np.intp]:
    """Return the rows of results, best first.

    Results with at least :data:`MIN_CONFIRMED` inliers of keypoints that are located to a few pixels come first, by
    their number. The others follow by ``score (1 + p / 2 + c / 20)``, where p and c are their inliers of precise and of
    coarse kinds: a photograph of a landmark from another side has a high similarity and few inliers, one that shows
    only the same paving the reverse.

    Args:
        scores: (N,), similarities.
        inliers: (N, K), of each kind of features; 0 where a result was not verified.
        precise: for each kind, whether its keypoints are located precisely.
    """
    exact = np.asarray(precise, bool)
    p = inliers[:, exact].max(axis=1, initial=0)
    c = inliers[:, ~exact].max(axis=1, initial=0)
    weighed = np.asarray(scores, np.float64) * (1.0 + _PRECISE_WEIGHT * p + _COARSE_WEIGHT * c)
    return np.lexsort((-weighed, -np.where(p >= MIN_CONFIRMED, p, 0)))


def is_confirmed(inliers: Sequence[int], precise: Sequence[bool]) -> bool:
    """Return whether a result has enough inliers of one kind of features to be more than similar.

    Args:
        inliers: of each kind.
        precise: see :func:`order`.
    """
    enough = (MIN_CONFIRMED if exact else MIN_COARSE_CONFIRMED for exact in precise)
    return any(count >= least for count, least in zip(inliers, enough, strict=True))
