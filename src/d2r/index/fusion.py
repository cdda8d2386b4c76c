"""One ranking of several kinds of features, each weighed by what it says of the query."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from d2r.index.ranking import Best

DEPTH: Final = 1000
"""Pictures of each kind's ranking that are looked at, where not more are asked for."""

_TENTH: Final = 10


def depth(top: int, kinds: int) -> int:
    """Return how many of the best pictures of each kind are needed for the best ``top`` of all."""
    return top if kinds == 1 else max(top, DEPTH)


def fuse(parts: Sequence[Best], top: int) -> Best:
    """Return the best pictures by all kinds together, best first and of equal scores the lower place first.

    The similarity of a picture is the sum over kinds k of ``w_k K_k``. R-ASMK* similarities of different kinds are on
    one scale already; ``w_k`` is how far the kind's best picture stands out of its tenth, relative to the other kinds,
    so that a kind to which all pictures look alike does not spoil what another is sure of. The weights of a query add
    up to 1.

    Args:
        parts: of each kind the best pictures, best first, :func:`depth` of them at most.
        top: at most so many.
    """
    if len(parts) == 1:
        return parts[0][:top]
    weights = kind_weights(parts)
    places = np.unique(np.concatenate([part["place"] for part in parts]))
    total = np.zeros(len(places))
    for part, weight in zip(parts, weights, strict=True):
        total[np.searchsorted(places, part["place"])] += weight * part["score"]
    order = np.lexsort((places, -total))[:top]
    best = np.zeros(len(order), parts[0].dtype)
    best["score"], best["place"] = total[order], places[order]
    return np.asarray(best[best["score"] > 0.0])


def kind_weights(parts: Sequence[Best]) -> NDArray[np.float64]:
    """Return the weight of each kind in :func:`fuse`, float64 (K,)."""
    weights = np.array([_contrast(part["score"]) for part in parts])
    return np.asarray(weights / max(weights.sum(), 1e-12))


def _contrast(scores: NDArray[np.float32]) -> float:
    """Return the highest similarity over the tenth; of fewer over the last, and of none 0."""
    return float(scores[0] / scores[min(len(scores), _TENTH) - 1]) if len(scores) else 0.0
