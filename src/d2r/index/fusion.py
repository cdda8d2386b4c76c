"""One ranking of several kinds of features: similarities made comparable, and added."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from d2r.index.ranking import Best

DEPTH: Final = 1000
"""Pictures of each kind's ranking that are looked at, where not more are asked for."""


def depth(top: int, kinds: int) -> int:
    """Return how many of the best pictures of each kind are needed for the best ``top`` of all."""
    return top if kinds == 1 else max(top, DEPTH)


def fuse(parts: Sequence[Best], top: int) -> Best:
    """Return the best pictures by all kinds together, best first and of equal scores the lower place first.

    Args:
        parts: of each kind the best pictures, :func:`depth` of them at most.
        top: at most so many.
    """
    if len(parts) == 1:
        return parts[0][:top]
    places = np.unique(np.concatenate([part["place"] for part in parts]))
    total = np.zeros(len(places))
    for part in parts:
        if len(part):
            total[np.searchsorted(places, part["place"])] += comparable(part["score"])
    order = np.lexsort((places, -total))[:top]
    best = np.zeros(len(order), parts[0].dtype)
    best["score"], best["place"] = total[order], places[order]
    return best[best["score"] > 0.0]


def comparable(scores: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return the similarities of one kind, best first, as numbers that can be added to those of others."""
    return np.asarray(scores, np.float64)
