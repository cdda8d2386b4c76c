"""Retrieval metrics: average precision, precision at a rank, and bootstrapped differences."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from d2r.evaluate.revisited import Indices, RankedIndices, Rankings, Relevance


@dataclass(frozen=True, eq=False)
class RetrievalScores:
    """Scores of Q queries.

    Attributes:
        map: mean average precision over the counted queries, in [0, 1].
        average_precision: float64 (Q,), NaN for a query without positives.
        ks: the K cut-offs of the precisions.
        mean_precision: float64 (K,), mean precision at each k over the counted queries.
        precision: float64 (Q, K), precision of each query at each k, NaN for a query without positives.
        counted: number of queries with at least one positive; the others are left out of the means.
    """

    map: float
    average_precision: NDArray[np.float64]
    ks: tuple[int, ...]
    mean_precision: NDArray[np.float64]
    precision: NDArray[np.float64]
    counted: int


@dataclass(frozen=True)
class Difference:
    """A paired difference with its bootstrap interval.

    Attributes:
        mean: mean of a - b over the queries.
        low: lower end of the interval.
        high: upper end of the interval.
        counted: number of queries.
    """

    mean: float
    low: float
    high: float
    counted: int


def positive_ranks(ranking: RankedIndices, relevant: Relevance) -> Indices:
    """Return the 0-based ranks of the positives in a ranking, not counting the junk before them.

    Args:
        ranking: integer (K,), database indices, best first. Anything that is not a database index, such as -1 if a
            search returned too few results, is a wrong answer.
        relevant: the positives and the junk.

    Returns:
        int64 (F,), ascending, with F at most P.

    Raises:
        ValueError: the ranking is not 1-D, or it holds a positive or a junk picture twice.
    """
    if ranking.ndim != 1:
        raise ValueError(f"a ranking must be a 1-D array, not one of shape {ranking.shape}")
    found = np.flatnonzero(np.isin(ranking, relevant.positives))
    junk = np.flatnonzero(np.isin(ranking, relevant.junk))
    for hits in (ranking[found], ranking[junk]):
        if len(np.unique(hits)) != len(hits):
            raise ValueError("the ranking holds a picture twice")
    return np.asarray(found - np.searchsorted(junk, found), dtype=np.int64)


def average_precision(ranks: Indices, positives: int) -> float:
    """Return the average precision of one query by the trapezoid rule (equation above).

    Args:
        ranks: int64 (F,), ascending 0-based ranks of the positives found, see :func:`positive_ranks`.
        positives: P, the number of positives in the ground truth, at least 1 and at least F.

    Raises:
        ValueError: there are no positives, or fewer than ranks.
    """
    if positives < 1 or len(ranks) > positives:
        raise ValueError(
            f"{len(ranks)} ranks of {positives} positives: there must be a positive, and at least one per rank"
        )
    hits = np.arange(len(ranks), dtype=np.float64)
    before = np.divide(hits, ranks, out=np.ones(len(ranks)), where=ranks > 0)
    after = (hits + 1.0) / (ranks + 1.0)
    return float((before + after).sum() / (2.0 * positives))


def precision_at(ranks: Indices, positives: int, ks: Sequence[int]) -> NDArray[np.float64]:
    """Return the precision among the first k, where k is at most the rank of the last positive.

    Without that cap a query with 3 positives could not pass 0.3 at k = 10. The cap is known only when every positive
    was found. If some are missing from a partial ranking, the last one ranks behind all returned pictures and k is not
    capped, which is also what the complete ranking gives for every k up to the partial ranking's length.

    Args:
        ranks: int64 (F,), ascending 0-based ranks of the positives found.
        positives: P, the number of positives in the ground truth, at least 1.
        ks: K cut-offs, each at least 1.

    Returns:
        float64 (K,), in [0, 1].

    Raises:
        ValueError: a cut-off is below 1, or there are no positives.
    """
    if positives < 1 or min(ks, default=1) < 1:
        raise ValueError("precision at k needs a positive, and every k must be at least 1")
    cuts = np.asarray(ks, dtype=np.int64)
    if len(ranks) == positives:
        cuts = np.minimum(cuts, ranks[-1] + 1)
    return np.searchsorted(ranks, cuts) / cuts


def mean_average_precision(
    rankings: Rankings, ground_truth: Sequence[Relevance], ks: Sequence[int] = (1, 5, 10)
) -> RetrievalScores:
    """Score the rankings of Q queries: mAP and mean precision at each k.

    Queries without positives are left out of the means and not counted.

    Args:
        rankings: integer (images, Q), or Q integer arrays of shape (K_q,); see :mod:`d2r.evaluate.revisited` about
            partial rankings.
        ground_truth: Q relevances.
        ks: cut-offs of the precisions.

    Raises:
        ValueError: there is not one ranking for each query, a ranking holds a judged picture twice, or no
            query has positives.
    """
    columns = list(rankings.T) if isinstance(rankings, np.ndarray) else list(rankings)
    if len(columns) != len(ground_truth):
        raise ValueError(f"{len(columns)} rankings for {len(ground_truth)} queries")
    ap = np.full(len(columns), np.nan)
    precision = np.full((len(columns), len(ks)), np.nan)
    for query, (ranking, relevant) in enumerate(zip(columns, ground_truth, strict=True)):
        positives = len(relevant.positives)
        if positives:
            try:
                ranks = positive_ranks(ranking, relevant)
            except ValueError as error:
                raise ValueError(f"query {query}: {error}") from error
            ap[query] = average_precision(ranks, positives)
            precision[query] = precision_at(ranks, positives, ks)
    judged = ~np.isnan(ap)
    if not judged.any():
        raise ValueError("no query has a positive: there is nothing to measure")
    return RetrievalScores(
        map=float(ap[judged].mean()),
        average_precision=ap,
        ks=tuple(ks),
        mean_precision=precision[judged].mean(axis=0),
        precision=precision,
        counted=int(judged.sum()),
    )


def paired_bootstrap(
    a: ArrayLike, b: ArrayLike, samples: int = 10_000, seed: int = 0, level: float = 0.95
) -> Difference:
    """Return the mean of a - b over queries with its percentile bootstrap interval.

    Queries are drawn with replacement, each with both scores, so that difficulty common to both methods cancels. This
    assumes independent queries; with several queries of one landmark the true interval is wider.

    Args:
        a: float (Q,), scores of one method, such as average precisions; NaN if a query is not counted.
        b: float (Q,), scores of the other method for the same queries, NaN in the same places.
        samples: number of resamples.
        seed: of the random draws; the same seed gives the same interval.
        level: probability that the interval covers, between 0 and 1.

    Raises:
        ValueError: the scores differ in shape or in which queries are counted, or no query is counted.
    """
    first, second = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    if first.ndim != 1 or first.shape != second.shape:
        raise ValueError(
            f"scores of shapes {first.shape} and {second.shape}: two 1-D arrays of equal length are needed"
        )
    if not np.array_equal(np.isnan(first), np.isnan(second)):
        raise ValueError("a query is counted for one method and not for the other")
    gap = (first - second)[~np.isnan(first)]
    if len(gap) == 0:
        raise ValueError("no query is counted: there is nothing to compare")
    rng = np.random.default_rng(seed)
    block = max(1, 1_000_000 // len(gap))  # draws in memory at once: 8 MB of indices
    sizes = [min(block, samples - start) for start in range(0, samples, block)]
    means = np.concatenate([gap[rng.integers(0, len(gap), (size, len(gap)))].mean(axis=1) for size in sizes])
    low, high = np.quantile(means, [(1.0 - level) / 2.0, (1.0 + level) / 2.0])
    return Difference(mean=float(gap.mean()), low=float(low), high=float(high), counted=len(gap))
