"""Query expansion with the results of a first search, and diffusion among the best results.

Both use the results that verification confirms. Query expansion joins the query's aggregated descriptor with what these
results have inside the query box (Chum et al., ICCV 2007, on the signs of ASMK*; as in Tolias and Jegou, Pattern
Recognition 2014, a word must be in several of them). Diffusion spreads similarity over the graph of similar results
(Zhou et al., NIPS 2004; Iscen et al., CVPR 2017), so that pictures similar to a confirmed result are found even if they
have nothing in common with the query.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from d2r.asmk.codes import pack_signs, unpack_signs
from d2r.asmk.kernels import KERNELS, Aggregated, selectivity_by_distance
from d2r.boxes import Box
from d2r.index.scoring import score_postings

MIN_PARTS_WITH_WORD = 2
"""Expansion keeps words that at least this many of the query and the results have: others are often background."""

NEIGHBOURS = 20
"""Diffusion: maximum number of neighbours of a result."""

DAMPING = 0.9
"""Diffusion: share of its similarity that a result passes on to its neighbours."""

DIFFUSED_RESULTS = 300
"""Diffusion: number of the best results that take part."""

DIFFUSION_WEIGHT = 0.3
"""Diffusion: what the highest diffused score adds, relative to the highest score.

More finds more views of a landmark from other sides, but puts merely similar pictures before those with the same small
object.
"""

_TOLERANCE = 1e-6
_ROUNDS = 100  # of conjugate gradients; with the damping above a dozen suffice


def sign_sums(
    parts: Sequence[Aggregated], weights: Sequence[float], min_parts: int = 1
) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """Return the weighted sum of several descriptors' signs, word by word.

    Args:
        parts: descriptors of packed signs, at least one, all with D bits.
        weights: one per descriptor.
        min_parts: words that fewer descriptors have are left out; with fewer descriptors, words that not all have.

    Returns:
        words, int32 (W,), ascending, and float32 (W, D), the sum over the parts X that have word c of w_X b(X_c).
    """
    every = np.concatenate([part.words for part in parts])
    words, rows, counts = np.unique(every, return_inverse=True, return_counts=True)
    sums = np.zeros((len(words), parts[0].dim), np.float32)
    start = 0
    for part, weight in zip(parts, weights, strict=True):
        own = rows[start : start + len(part)]
        sums[own] += np.float32(weight) * unpack_signs(part.vectors.view(np.uint64), part.dim)
        start += len(part)
    kept = counts >= min(min_parts, len(parts))
    return words[kept].astype(np.int32), sums[kept]


def inside(positions: NDArray[np.float32], transform: NDArray[np.float64], box: Box) -> NDArray[np.bool_]:
    """Say which keypoints of a verified picture lie inside the query box, by the inverse transform, bool (N,).

    Args:
        positions: float32 (N, 2), in pixels of the picture.
        transform: (2, 3), maps pixels of the query to pixels of the picture.
        box: the query box, in pixels of the query.
    """
    x, y = (np.linalg.inv(transform[:, :2]) @ (positions.T - transform[:, 2:])).astype(np.float32)
    x1, y1, x2, y2 = box
    return np.asarray((x >= x1) & (x < x2) & (y >= y1) & (y < y2))


def join(query: Aggregated, results: Sequence[Aggregated], min_parts: int = MIN_PARTS_WITH_WORD) -> Aggregated:
    """Return a query joined with results: for each word the majority of their signs; a tie gives b(0) = -1.

    Args:
        query: packed signs.
        results: packed signs, from the parts of confirmed results inside the query box.
        min_parts: see :data:`MIN_PARTS_WITH_WORD`.
    """
    parts = [query, *results]
    words, sums = sign_sums(parts, [1.0] * len(parts), min_parts)
    return Aggregated(words, pack_signs(sums), query.dim)


def similarities(pictures: Sequence[Aggregated]) -> NDArray[np.float32]:
    """Return the R-ASMK* similarity of each pair of N descriptors, packed signs, float32 (N, N), 0 on the diagonal.

    N is at most 65,536.

    Raises:
        ValueError: one is not packed signs, or has another number of bits than the others.
    """
    for one in pictures:
        one.check_signs()
        if one.dim != pictures[0].dim:
            raise ValueError(f"descriptors of {one.dim} and of {pictures[0].dim} bits cannot be compared")
    count = len(pictures)
    every = np.concatenate([one.words for one in pictures])
    order = np.argsort(every, kind="stable")
    words, firsts = np.unique(every[order], return_index=True)
    starts = np.append(firsts, len(every)).astype(np.int64)
    slots = np.repeat(np.arange(count, dtype=np.uint16), [len(one) for one in pictures])[order]
    codes = np.concatenate([one.vectors for one in pictures]).view(np.uint64)[order]
    table = selectivity_by_distance(codes.shape[1], pictures[0].dim, KERNELS["r-asmk*"])
    found = np.zeros((count, count), np.float32)
    score = score_postings(codes.shape[1])
    for row, one in enumerate(pictures):
        if len(one):
            score(one.words, one.vectors, words.astype(np.int32), starts, slots, codes, table, found[row])
    sizes = np.array([max(1, len(one)) for one in pictures], np.float32)
    found /= np.sqrt(sizes[:, None] * sizes)
    np.fill_diagonal(found, 0.0)
    return found


def reciprocal_graph(similarity: NDArray[np.float32], neighbours: int = NEIGHBOURS) -> NDArray[np.float32]:
    """Return the normalised graph of mutual nearest neighbours, D^(-1/2) W D^(-1/2).

    Args:
        similarity: float32 (N, N), symmetric up to rounding, 0 on the diagonal.
        neighbours: number of nearest neighbours of a picture.

    Returns:
        float32 (N, N), symmetric: W has the similarities of mutual neighbours, and D is the diagonal matrix of its row
        sums.
    """
    count = len(similarity)
    weights = np.zeros_like(similarity)
    if count > 1:
        nearest = np.argsort(-similarity, axis=1, kind="stable")[:, : min(neighbours, count - 1)]
        np.put_along_axis(weights, nearest, np.take_along_axis(similarity, nearest, 1), 1)
    weights = np.minimum(weights, weights.T)
    sums = weights.sum(axis=1)
    scale = np.where(sums > 0, 1.0 / np.sqrt(np.maximum(sums, 1e-12)), 0.0).astype(np.float32)
    return np.asarray(weights * (scale[:, None] * scale), np.float32)


def diffuse(graph: NDArray[np.float32], start: NDArray[np.float32], damping: float = DAMPING) -> NDArray[np.float64]:
    """Solve ``(I - a S) f = y`` for f by conjugate gradients, float64 (N,).

    Args:
        graph: S, float32 (N, N), see :func:`reciprocal_graph`.
        start: y, float32 (N,), the query's score of each picture.
        damping: a, below 1; then the matrix is positive definite, because no eigenvalue of S is above 1.
    """
    found = np.zeros(len(start))
    residual = np.asarray(start, np.float64).copy()
    direction = residual.copy()
    square = residual @ residual
    enough = _TOLERANCE**2 * square
    for _ in range(_ROUNDS):
        if square <= enough:
            break
        image = direction - damping * (graph @ direction)
        step = square / (direction @ image)
        found += step * direction
        residual -= step * image
        before, square = square, residual @ residual
        direction = residual + square / before * direction
    return found


def diffused_scores(
    scores: NDArray[np.floating], confirmed: NDArray[np.bool_], similarity: NDArray[np.float32]
) -> NDArray[np.float64]:
    """Return the scores of the best results, with diffusion from the confirmed ones.

    Args:
        scores: (N,), similarities to the query, at least one above 0.
        confirmed: bool (N,), which results are confirmed.
        similarity: float32 (N, N), from :func:`similarities`.

    Returns:
        float64 (N,), to sort by: each score, plus :data:`DIFFUSION_WEIGHT` times the highest score times its diffused
        score over the highest diffused score.
    """
    known = np.asarray(scores, np.float64)
    diffused = diffuse(reciprocal_graph(similarity), np.where(confirmed, known, 0.0).astype(np.float32))
    return np.asarray(known + DIFFUSION_WEIGHT * known.max() * diffused / max(diffused.max(), 1e-12), np.float64)
