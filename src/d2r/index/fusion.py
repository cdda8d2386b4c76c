"""One ranking from several kinds of features, each weighted by how well it separates the best pictures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from d2r.index.ranking import Best

DEPTH: Final = 1000
"""Minimum number of pictures taken from the ranking of each kind."""

_TENTH: Final = 10


def depth(top: int, kinds: int) -> int:
    """Return how many of the best pictures of each kind are needed for the best ``top`` overall."""
    return top if kinds == 1 else max(top, DEPTH)


def fuse(parts: Sequence[Best], top: int) -> Best:
    """Return the best pictures by all kinds together, best first; of equal scores the lower place comes first.

    The similarity of a picture is the sum over kinds k of ``w_k K_k``. R-ASMK* similarities of different kinds are on
    one scale already; ``w_k`` is the kind's second highest similarity over its tenth, relative to the other kinds,
    so that a kind to which all pictures look alike does not spoil what another is sure of. The weights of a query add
    up to 1.

    Args:
        parts: the best pictures by each kind, best first, at most :func:`depth` of them.
        top: maximum number of pictures.
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
    """Return the second highest similarity over the tenth, or over the last if there are fewer; 0 if there are none.

    Not the highest, which may be that of the query picture itself.
    """
    last = len(scores) - 1
    return float(scores[min(1, last)] / scores[min(_TENTH - 1, last)]) if len(scores) else 0.0
